"""The step on a network with one value that eight bits ruin, and on one without."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from backends.session import RuntimeModelError
from backends.target import Target
from passes.emit.emit import emit
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, optimized_operators, prepare, sqnr
from tests.zsq_compile.quantization.networks import TARGET, float_network, planned_state, silent_clock
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.quantization.closed_form import Calibrate, Round
from zsq_compile.quantization.placement.layer_costs import NodeTimes
from zsq_compile.quantization.placement.leave_float import REASON, LeaveFloat, LeftFloat, WidenFloats, explain_floats
from zsq_compile.quantization.state import FloatNetwork, QuantizedState

TEXT = """
    uneven (float[N,3,12,12] x) => (float[N,6,12,12] y)
    <float[8,3,3,3] w0, float[8] b0, float[8,8,1,1] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2,
     float[6,8,1,1] w3, float[6] b3>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [even] c1 = Conv(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [body] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
        [relu2] r2 = Relu(c2)
        [head] c3 = Conv(r2, w3, b3)
        [squash] y = Tanh(c3)
    }
    """


def ready(*, ruined: bool, target: Target = TARGET) -> tuple[FloatNetwork, QuantizedState]:
    """A rounded network; ruined, one channel behind the stem is 3000 times as large as the others, and undone again."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        for name, shape in {"w0": (8, 3, 3, 3), "w1": (8, 8, 1, 1), "w2": (8, 8, 3, 3), "w3": (6, 8, 1, 1)}.items()
    }
    if ruined:
        weights["w0"][0] *= 3000.0
        weights["w1"][:, 0] /= 3000.0
    model = prepare(models.parse(TEXT, weights=weights))
    rows = {name: torch.from_numpy(rng.normal(size=(8, 3, 12, 12)).astype(np.float32)) for name in ("first", "second")}
    network = float_network(model, {"x": rows["first"]}, held_out={"x": rows["second"]}, target=target)
    state = planned_state(network, place_quantizers(model, target))
    for step in (Calibrate(config=QuantizationConfig()), Round(method="nearest")):
        state, _ = step.run(network, state, silent_clock())
    return network, state


@pytest.fixture(scope="module")
def placed() -> tuple[FloatNetwork, QuantizedState, QuantizedState, LeftFloat]:
    network, state = ready(ruined=True)
    behind, record = LeaveFloat(quality="best").run(network, state, silent_clock())
    assert record is not None
    behind, _ = WidenFloats().run(network, behind, silent_clock())
    return network, state, behind, record


def test_the_value_that_eight_bits_ruin_stays_float_and_the_file_is_better(
    placed: tuple[FloatNetwork, QuantizedState, QuantizedState, LeftFloat], tmp_path: Path
) -> None:
    network, state, behind, record = placed
    assert "r0" in record.values
    assert "r2" not in record.values
    feeds = {name: value.numpy() for name, value in network.held_out.inputs.items()}
    wanted = execute(network.model, feeds)["y"]
    ratios, operators = [], []
    for number, one in enumerate((state, behind)):
        emitted = one.qdq.clone()
        emit(emitted, one.plan, network.target)
        ratios.append(sqnr(wanted, execute(emitted, feeds, optimize="none")["y"]))
        folder = tmp_path / str(number)
        folder.mkdir()
        operators.append(optimized_operators(emitted, folder))
    assert ratios[1] > ratios[0] + 6.0
    assert 0 < operators[1].count("QLinearConv") < operators[0].count("QLinearConv")


def test_what_the_record_says_is_what_the_plan_and_the_samples_say(
    placed: tuple[FloatNetwork, QuantizedState, QuantizedState, LeftFloat],
) -> None:
    _, state, behind, record = placed
    left = {refusal.where for refusal in behind.plan.refusals if refusal.reason == REASON}
    assert (
        set(record.values)
        == left
        == {s.value for s in state.plan.activations} - {s.value for s in behind.plan.activations}
    )
    assert record.after.nsr < record.before.nsr
    assert not record.measured
    told = explain_floats(record)
    assert told["after"]["noise_db"] > told["before"]["noise_db"]
    assert told["summary"] == record.words()


def test_a_network_that_loses_nothing_comes_out_as_it_was() -> None:
    network, state = ready(ruined=False)
    behind, record = LeaveFloat(quality="fast").run(network, state, silent_clock())
    assert behind is state
    assert record is None
    assert WidenFloats().run(network, behind, silent_clock())[0] is state


def test_off_measures_nothing() -> None:
    network, state = ready(ruined=True)
    behind, record = LeaveFloat(quality="off").run(network, state, silent_clock())
    assert behind is state
    assert record is None


def test_a_target_with_wider_values_uses_them_before_float() -> None:
    target = replace(TARGET, wide_activation_bits=16)
    network, state = ready(ruined=True, target=target)
    behind, record = LeaveFloat(quality="balanced").run(network, state, silent_clock())
    assert record is not None
    assert record.bits == 16
    assert record.layers == ()
    widths = {site.value: site.number_format.bits for site in behind.plan.activations}
    assert widths["r0"] == 16
    assert widths["r2"] == 8


def test_times_that_integers_do_not_save_cost_nothing() -> None:
    network, state = ready(ruined=True)
    nodes = [str(node.name) for node in network.model.graph]
    slow = NodeTimes(floats=dict.fromkeys(nodes, 10.0), integers=dict.fromkeys(nodes, 50.0))
    _, record = LeaveFloat(quality="balanced", measure_times=lambda *_: slow).run(network, state, silent_clock())
    assert record is not None
    assert record.measured
    assert record.chosen_us <= record.integer_us


def test_the_simulation_of_widened_layers_is_that_of_dequantized_ones(
    placed: tuple[FloatNetwork, QuantizedState, QuantizedState, LeftFloat],
) -> None:
    network, state, behind, _ = placed
    feeds = {name: value.numpy() for name, value in network.held_out.inputs.items()}
    unwidened, _ = LeaveFloat(quality="best").run(network, state, silent_clock())
    assert isinstance(behind.qdq, ir.Model)
    np.testing.assert_allclose(
        execute(behind.qdq, feeds, optimize="none")["y"], execute(unwidened.qdq, feeds, optimize="none")["y"], atol=1e-5
    )


def test_the_users_metric_decides_alone() -> None:
    network, state = ready(ruined=True)
    content = replace(network, asked=lambda what, one: 1.0)
    behind, record = LeaveFloat(quality="best").run(content, state, silent_clock())
    assert behind is state
    assert record is None
    strict = replace(
        network, asked=lambda what, one: 1.0 if "r0" not in {s.value for s in one.plan.activations} else 0.5
    )
    _, record = LeaveFloat(quality="best").run(strict, state, silent_clock())
    assert record is not None
    assert "r0" in record.values
    assert record.after.kept == 1.0


def test_times_that_cannot_be_measured_stop_nothing_and_are_modelled() -> None:
    def fail(*_: object) -> NodeTimes:
        raise RuntimeModelError("no kernel")

    network, state = ready(ruined=True)
    clock = silent_clock()
    _, record = LeaveFloat(quality="balanced", measure_times=fail).run(network, state, clock)
    _, modelled = LeaveFloat(quality="balanced").run(network, state, silent_clock())
    assert record is not None and modelled is not None
    assert not record.measured
    assert record.values == modelled.values
    assert any("no kernel" in note for note in clock.progress.texts)
