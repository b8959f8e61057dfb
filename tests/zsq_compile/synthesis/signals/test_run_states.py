import numpy as np
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import teacher_of
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.synthesis.signals.run_states import pair_states, run_states

# a leaky sum and a count of frames, handed on from run to run
LEAKY = """
leaky (float[N,4] x, float[N,4] state, float[N,1] count) => (float[N,4] y, float[N,4] state_out, float[N,1] count_out)
<float half = {0.5}, float one = {1.0}>
{ h = Mul(state, half) state_out = Add(h, x) y = Relu(state_out) count_out = Add(count, one) }
"""


def _inputs(batch: int | None = None) -> list[InputSpec]:
    kinds = {"x": ("features", 4), "state": ("state", 4), "count": ("state", 1)}
    return [
        InputSpec(name=name, shape=(batch, size), dtype=np.dtype(np.float32), kind=kind)  # type: ignore[arg-type]
        for name, (kind, size) in kinds.items()
    ]


def test_states_are_those_that_the_network_returned_for_the_frames_before() -> None:
    teacher, _ = teacher_of(models.parse(LEAKY))
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    made = run_states(teacher, _inputs(), {"x": x, "state": torch.zeros(10, 4), "count": torch.zeros(10, 1)}, windows=4)
    assert made["count"].flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert not made["state"][[0, 4, 8]].any()
    torch.testing.assert_close(made["state"][3], x[2] + x[1] / 2 + x[0] / 4)
    assert torch.equal(made["x"], x)


def test_whole_batches_of_a_fixed_size_are_frames() -> None:
    teacher, _ = teacher_of(models.parse(LEAKY.replace("N,", "2,")))
    samples = {"x": torch.ones(8, 4), "state": torch.zeros(8, 4), "count": torch.zeros(8, 1)}
    made = run_states(teacher, _inputs(2), samples, windows=3)
    assert made["count"].flatten().tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


def test_states_of_one_shape_are_paired_by_name() -> None:
    outputs = {name: torch.zeros(1, 4) for name in ("y", "cn", "hn")}
    states = [InputSpec(name=name, shape=(None, 4), dtype=np.dtype(np.float32), kind="state") for name in "hc"]
    assert pair_states(states, outputs) == {"h": "hn", "c": "cn"}
    assert pair_states(states, {"y": torch.zeros(1, 3)}) == {}


def test_a_state_that_explodes_is_left_out() -> None:
    teacher, _ = teacher_of(models.parse(LEAKY.replace("half = {0.5}", "half = {1000.0}")))
    samples = {"x": torch.ones(8, 4), "state": torch.zeros(8, 4), "count": torch.zeros(8, 1)}
    made = run_states(teacher, _inputs(), samples, windows=8)
    assert made["state"].max() <= 1e4
    assert made["state"].isfinite().all()
