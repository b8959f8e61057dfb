import numpy as np
import pytest
import torch

from backends.catalog import load_target
from passes.quantize.place_quantizers import place_quantizers
from tests.quantizing import prepare, sqnr
from tests.storing import recurrent
from tests.zsq_compile.quantization.networks import float_network, planned_state, silent_clock
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import Calibrate, Round
from zsq_compile.quantization.rounding.recurrent import round_recurrent

TARGET = load_target("ort_cpu")


def sequences(count: int, seed: int) -> torch.Tensor:
    """Seven steps that depend on each other, of 24 numbers that do."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(5, 24, generator=torch.Generator().manual_seed(99))
    return (torch.randn(7, count, 5, generator=rng).cumsum(0) / 2) @ mix + 0.2 * torch.randn(
        7, count, 24, generator=rng
    )


@pytest.mark.parametrize(("kind", "directions"), [("LSTM", 2), ("LSTM", 1), ("GRU", 2)])
def test_rounding_on_what_weights_multiply_loses_less_than_rounding_to_the_nearest(kind: str, directions: int) -> None:
    model = prepare(recurrent(kind, directions=directions))
    plan = place_quantizers(model, TARGET, bits=4)
    assert {site.initializer for site in plan.stored} >= {"w"}
    network = float_network(model, {"x": sequences(96, 0)})
    reach, lost = sequences(64, 1), {}
    wanted = network.teacher.run({"x": reach})["y"].numpy()
    for method in ("nearest", "gptq"):
        state = planned_state(network, plan)
        for step in (Calibrate(config=QuantizationConfig(bits=4)), Round(method=method)):
            state, _ = step.run(network, state, silent_clock())
        lost[method] = sqnr(wanted, TorchGraph(state.qdq).run({"x": reach})["y"].numpy())
        for site in state.plan.stored:  # inserting has found the codes that were chosen
            grid = state.base.graph.initializers[site.initializer].const_value.numpy()
            steps = grid / state.plan.weight_scales[site.initializer].scale
            if method == "gptq":
                np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert lost["gptq"] > lost["nearest"] + 1.0  # dB


def test_weights_whose_states_are_not_seen_are_left() -> None:
    proto = recurrent("LSTM", directions=2)
    next(node for node in proto.graph.node if node.name == "cell").output[0] = ""
    model = prepare(proto)
    plan = place_quantizers(model, TARGET, bits=4)
    network = float_network(model, {"x": sequences(16, 0)})
    state, _ = Calibrate(config=QuantizationConfig()).run(network, planned_state(network, plan), silent_clock())
    assert round_recurrent(state.plan, network.teacher, [{"x": sequences(16, 0)}]).keys() == {"w"}
