"""One state, one step: what the steps hand on to each other, and that nobody changes what it was handed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from backends.catalog import load_target
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.emit.emit import emitted_bytes
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import prepare
from tests.zsq_compile.quantization.networks import Watcher, float_network, planned_state, silent_clock
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.frontend.load import load_model
from zsq_compile.progress import Clock
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, Step
from zsq_compile.stages.export import export
from zsq_compile.stages.quantize import fold_network, is_learned, quantize, run_steps, steps_for

TARGET = load_target("ort_cpu")
ALL = CompileConfig(
    quantization=QuantizationConfig(bits=4, rounding="lsq"),
    distill=DistillConfig(steps=2),
    mixed=True,
    max_size="1M",
)


def images(count: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"x": torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))}


def residual(*, limited: bool = False) -> FloatNetwork:
    """The network, with a file of at most half of the bits where it is limited."""
    proto = models.residual()
    model = prepare(proto)
    plans = (plan_quantization(model, TARGET, QuantizationConfig(bits=bits, edge_bits=bits)) for bits in (2, 8))
    return float_network(
        model,
        images(),
        held_out=images(16, 1),
        statistics=harvest_batchnorm(ir.from_proto(proto)),
        limit=sum(emitted_bytes(model, plan, TARGET) for plan in plans) // 2 if limited else None,
    )


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def graphs(state: QuantizedState) -> tuple[bytes, bytes]:
    return serialized(state.base), serialized(state.qdq)


@dataclass
class Recorder:
    """A step that notes what it is given, and hands on another state where it does something."""

    name: str
    does_something: bool
    seen: list[QuantizedState]

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, Any]:
        self.seen.append(state)
        with clock.stage(self.name):
            return (replace(state) if self.does_something else state), f"{self.name} ran"


def test_each_step_gets_the_state_that_the_one_before_it_left() -> None:
    network, seen = residual(), list[QuantizedState]()
    plan = place_quantizers(network.model, TARGET)
    steps = [Recorder("first", True, seen), Recorder("idle", False, seen), Recorder("last", True, seen)]
    clock = silent_clock()
    states, records = run_steps(network, plan, steps, clock)
    assert (seen[0].base, seen[0].qdq, seen[0].plan) == (network.model, network.model, plan)
    assert seen[1] is seen[2] is states["first"]
    assert list(states) == ["first", "last"], "a step that does nothing leaves no state"
    assert records == {name: f"{name} ran" for name in ("first", "idle", "last")}
    assert list(clock.seconds) == ["first", "idle", "last"]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (CompileConfig(effort="fast"), ["calibrate", "round", "place", "correct biases", "widen"]),
        (CompileConfig(effort="fast", keep_quality="off"), ["calibrate", "round", "correct biases"]),
        (CompileConfig(), ["calibrate", "round", "place", "correct biases", "reconstruct", "widen"]),
        (ALL, ["calibrate", "choose bits", "round", "place", "correct biases", "reconstruct", "distill", "widen"]),
    ],
)
def test_the_configuration_chooses_the_steps(config: CompileConfig, names: list[str]) -> None:
    assert [step.name for step in steps_for(config)] == names


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (CompileConfig(), False),
        (CompileConfig(quantization=QuantizationConfig(bits=4)), True),
        (CompileConfig(quantization=QuantizationConfig(bits=4), effort="fast"), False),
        (CompileConfig(distill=DistillConfig(steps=1), effort="fast"), True),
        (ALL, True),
    ],
)
def test_samples_are_learned_on_where_something_learns(config: CompileConfig, wanted: bool) -> None:
    assert is_learned(config) == wanted


def small(step: Step) -> Step:
    """The same step with less to do."""
    return step if step.name != "reconstruct" else replace(step, learning=replace(step.learning, time_budget=4.0))


def test_no_step_changes_a_state_that_it_was_given_nor_the_float_network() -> None:
    network = residual(limited=True)
    plan = plan_quantization(network.model, TARGET, ALL.quantization)
    float_bytes, watcher = serialized(network.model), Watcher()
    state = planned_state(network, plan)
    behind: dict[str, tuple[QuantizedState, tuple[bytes, bytes]]] = {}
    for step in map(small, steps_for(ALL)):
        state, _ = step.run(network, state, Clock(watcher))
        behind[step.name] = state, graphs(state)
        for kept, bytes_then in behind.values():
            assert graphs(kept) == bytes_then, step.name
    assert serialized(network.model) == float_bytes
    assert list(behind) == [step.name for step in steps_for(ALL)]
    assert list(watcher.totals) == [name for name in behind if name != "widen"], "too short for a stage of its own"
    assert len({bytes_then for _, bytes_then in behind.values()}) > 3


def test_layers_are_measured_behind_each_step_with_the_final_bits() -> None:
    network = residual(limited=True)
    config = replace(ALL, distill=None, effort="fast", quantization=QuantizationConfig(bits=8))
    plan = plan_quantization(network.model, TARGET, config.quantization)
    made = quantize(network, plan, steps_for(config), silent_clock())
    assert list(made.states) == ["calibrate", "choose bits", "round", "correct biases"]
    assert made.state is made.states["correct biases"]
    bits = {site.number_format.bits for site in made.state.plan.weights}
    assert min(bits) < 8
    assert {tuple(layer.sqnr_db) for layer in made.layers} == {("choose bits", "round", "correct biases")}


def test_statistics_hold_no_longer_where_channels_were_equalized() -> None:
    model = common.ShapeInferencePass()(ir.from_proto(models.residual())).model
    statistics = harvest_batchnorm(model)
    assert statistics.usable
    assert fold_network(model, statistics, equalize=False)[1] is statistics
    assert fold_network(model, statistics, equalize=True)[1].usable == ()


def test_export_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "net.onnx")
    loaded, network = load_model(tmp_path / "net.onnx"), residual()
    config = CompileConfig(effort="fast", quantization=QuantizationConfig(bits=4, edge_bits=4))
    plan = plan_quantization(network.model, TARGET, config.quantization)
    clock = silent_clock()
    state = quantize(network, plan, steps_for(config), clock).state
    before, paths = graphs(state), [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        export(loaded, network, state, path, clock, labelled=None, speed_trials=False)
        assert graphs(state) == before
    assert paths[0].read_bytes() == paths[1].read_bytes() != before[1]
