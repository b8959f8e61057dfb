"""Blocks learned one after the other, on networks of a few hundred weights. Oracle: ONNX Runtime on what comes out."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from passes.plan import QuantizationPlan
from tests.models import parse
from tests.quantizing import every_value, execute
from tests.zsq_compile.quantization.learnable import NETWORKS, ClosedForm, FixedSteps, Steps, closed_form, signal
from tests.zsq_compile.quantization.networks import Watcher, silent_clock
from zsq_compile.config.compile import LearnedRounding
from zsq_compile.differentiable import precision
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Clock
from zsq_compile.quantization.reconstruction import block_student, reconstruct
from zsq_compile.quantization.reconstruction.activation_cache import ActivationCache
from zsq_compile.quantization.reconstruction.block_student import LearningRates
from zsq_compile.quantization.reconstruction.budget import LearningBudget, LearningConfig
from zsq_compile.quantization.reconstruction.reconstruct import Reconstruct, Reconstruction, is_learnable
from zsq_compile.quantization.samples import Samples, find_batched_values
from zsq_compile.quantization.state import insert_quantizers, replace_initializers

SMALL = """
    small (float[N,3,5,5] x) => (float[N,4,5,5] y)
    <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2,
     float[4,8,1,1] w3, float[4] b3>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [a1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [a2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
        [add] a = Add(c2, r0)
        [relu2] r2 = Relu(a)
        [head] y = Conv(r2, w3, b3)
    }
    """
QUICK = LearningRates(codes=0.12, weight_steps=0.01, scales=0.02, biases=0.5)
# straight-through codes swing at rates that soft ones need to settle within so few steps
CODES = {"lsq": 0.015, "adaround": 0.1, "genie-m": 0.1}


@pytest.fixture(autouse=True)
def _same_everywhere_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every processor; bfloat16 has a test of its own."""
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(block_student, "_POOL", 1 << 16)  # filling it takes longer than all else here


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer is rounded anew, so that what changes was learned."""
    monkeypatch.setattr(reconstruct, "round_layer", lambda *_: None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    """Rates at which a few steps change something."""
    monkeypatch.setattr(reconstruct, "LearningRates", lambda: QUICK)


@functools.cache
def prepared(text: str, count: int = 40, **options: Any) -> ClosedForm:
    proto = parse(text)
    return closed_form(proto, signal(count, proto), **{"bits": 3, "act_bits": 4, **options})


@functools.cache
def spoiled(closed: ClosedForm) -> ir.Model:
    """The QDQ model with biases three times as wrong as rounding makes the outputs: any learning finds better ones."""
    graph, changed = TorchGraph(closed.quantized), {}
    bits = {site.value: site.number_format.bits for site in closed.plan.activations}
    for site in closed.plan.weights:
        name = f"{site.bias}_quantized"
        if name in graph.initializers:
            codes, weight = graph.initializers[name], graph.initializers[f"{site.initializer}_quantized"]
            reach = 2.0 ** (bits[site.data_input] - 2)  # of a typical input, in its steps
            changed[name] = codes + round(3 * reach * math.sqrt(weight.numel() / len(codes) / 12))
    return replace_initializers(closed.quantized, changed)


def learned(
    closed: ClosedForm,
    steps: int = 8,
    *,
    rounding: LearnedRounding = "lsq",
    quantized: ir.Model | None = None,
    samples: Samples | None = None,
    seed: int = 0,
    memory: int = 1 << 30,
) -> tuple[ir.Model, QuantizationPlan, Reconstruction]:
    """Learn for a few steps a block; the QDQ model, its plan, and what has the records."""
    network = closed.network if samples is None else replace(closed.network, calibration=samples)
    state = closed.state if quantized is None else replace(closed.state, qdq=quantized)
    budget, rng, told = Steps(count=steps), torch.Generator().manual_seed(seed), list[int]()
    with ActivationCache(memory) as cache:
        ready = Reconstruction(network, state, rounding, budget, cache, rng)
        made = ready.run(told.append)
    assert sum(told) == sum(record.steps for record in ready.records) == budget.planned
    return made.qdq, made.plan, ready


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def distance(closed: ClosedForm, model: ir.Model, data: dict[str, Tensor]) -> float:
    """Power of the error over the variance of the float network's outputs, in ONNX Runtime."""
    got = execute(model, {name: value.numpy() for name, value in data.items()})
    wanted = closed.teacher.run(data)
    errors = [(torch.from_numpy(got[name]) - wanted[name]).square().mean() / wanted[name].var() for name in wanted]
    return float(sum(errors))


@pytest.mark.parametrize("rounding", get_args(LearnedRounding))
def test_learning_brings_the_network_nearer_on_data_it_has_not_seen(
    rounding: LearnedRounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "LearningRates", lambda: LearningRates(codes=CODES[rounding]))
    closed = prepared(SMALL, 256, rounding="nearest", ranges="mse", act_bits=8)
    model, _, ready = learned(closed, 120, rounding=rounding)
    held_out = signal(96, ir.to_proto(closed.model), seed=7)
    assert distance(closed, model, held_out) < 0.9 * distance(closed, closed.quantized, held_out)
    assert [record.kept for record in ready.records] == [False, True, False]
    middle = ready.records[1]
    assert middle.layers == ("a1", "a2")
    assert (middle.name, middle.steps, middle.batch) == ("a2", 120, 32)
    assert middle.after < middle.before
    assert middle.unsettled < 0.3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if name not in ("chain", "one layer", "two inputs", "embedded")]
)
def test_the_emitted_model_does_what_the_records_were_measured_on(name: str) -> None:
    closed = prepared(NETWORKS[name], edge_bits=4)
    model, _, ready = learned(closed, quantized=spoiled(closed))
    assert sum(record.kept for record in ready.records) > len(ready.records) / 2
    assert measured(closed, model, ready) == pytest.approx(
        {r.name: r.after if r.kept else r.before for r in ready.records}, rel=0.05, abs=1e-4
    )


def measured(closed: ClosedForm, model: ir.Model, ready: Reconstruction) -> dict[str, float]:
    """Errors of the blocks on the samples that judge, from the values of the emitted model in ONNX Runtime."""
    feeds = {name: value[ready._judged] for name, value in closed.samples.inputs.items()}
    got = every_value(model, {name: value.numpy() for name, value in feeds.items()})
    errors = {record.name: record.after if record.kept else record.before for record in ready.records}
    for block in ready.blocks:
        if all(name in got for name in block.outputs):  # a Clip that the grid makes redundant is gone
            outputs = {name: torch.from_numpy(np.asarray(got[name])) for name in block.outputs}
            wanted = closed.teacher.run(feeds, block.outputs)
            errors[block.name] = float(Reconstruction._distance(outputs, wanted).mean())
    assert set(closed.teacher.output_names) <= got.keys()
    return errors


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("rounding", get_args(LearnedRounding))
def test_a_block_that_learning_makes_worse_keeps_its_closed_form(
    rounding: LearnedRounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "LearningRates", lambda: LearningRates(codes=1e3, weight_steps=9, biases=1e3))
    closed = prepared(NETWORKS["residual"], edge_bits=4)
    model, _, ready = learned(closed, 3, rounding=rounding)
    assert not any(record.kept for record in ready.records)
    assert [record.steps for record in ready.records] == [3] * 4
    assert not any(record.after < record.before for record in ready.records)
    assert serialized(model) == serialized(closed.quantized)


@pytest.mark.parametrize("network", ["inverted", "concat"])
def test_rounding_anew_behind_a_quantized_prefix_lowers_the_error(network: str) -> None:
    """No step of learning: what changes is the rounding and the biases, and the activation steps do not."""
    closed = prepared(NETWORKS[network], 256, edge_bits=4)
    model, plan, ready = learned(closed, 0)
    assert any(record.kept for record in ready.records)
    assert all(record.after <= record.before for record in ready.records)
    held_out = signal(64, ir.to_proto(closed.model), seed=7)
    assert distance(closed, model, held_out) < 0.9 * distance(closed, closed.quantized, held_out)
    same = closed.plan.activation_scales
    assert all(scale.scale == same[group].scale for group, scale in plan.activation_scales.items())


@pytest.mark.usefixtures("quick")
def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    closed = prepared(NETWORKS["residual"])
    quantized = spoiled(closed)
    first, second, other = (
        serialized(learned(closed, quantized=quantized, seed=seed, memory=memory)[0])
        for seed, memory in ((3, 1 << 30), (3, 0), (4, 1 << 30))
    )
    assert first == second  # whether the activations lay in memory or in files
    assert first != other


def test_a_plan_of_eight_bits_is_not_learned() -> None:
    closed = prepared(NETWORKS["residual"], bits=8, act_bits=8)
    assert not is_learnable(closed.plan)
    watcher = Watcher()
    state, records = step(closed).run(closed.network, closed.state, Clock(watcher))
    assert state is closed.state and records == ()
    assert watcher.totals == {}
    model, _, ready = learned(closed)
    assert [record.steps for record in ready.records] == [0] * 4
    assert not any(record.kept for record in ready.records)
    assert serialized(model) == serialized(closed.quantized)


@pytest.mark.parametrize("options", [{"bits": 4, "act_bits": 8}, {"bits": 8, "act_bits": 4}], ids=str)
def test_anything_below_eight_bits_is_worth_learning(options: dict[str, int]) -> None:
    assert is_learnable(prepared(NETWORKS["residual"], **options).plan)


@pytest.mark.usefixtures("quick")
def test_layers_of_eight_bits_are_left_alone() -> None:
    closed = prepared(NETWORKS["residual"])
    model, _, ready = learned(closed, quantized=spoiled(closed))
    assert [record.steps for record in ready.records] == [0, 8, 8, 0]
    for name in ("w0_quantized", "w6_quantized"):
        np.testing.assert_array_equal(constant(model, name), constant(closed.quantized, name))
    assert (constant(model, "w1_quantized") != constant(closed.quantized, "w1_quantized")).any()


def constant(model: ir.Model, name: str) -> np.ndarray:
    stored = model.graph.initializers[name].const_value
    assert stored is not None
    return stored.numpy()


@pytest.mark.usefixtures("quick")
def test_shared_scales_stay_shared() -> None:
    closed = prepared(NETWORKS["concat"])
    model, plan, ready = learned(closed, quantized=spoiled(closed))
    assert all(record.kept for record in ready.records if record.steps)
    groups = {site.value: site.group for site in plan.activations}
    assert groups["j"] == groups["p"]
    changed = [
        group
        for group, scale in plan.activation_scales.items()
        if scale.scale != closed.plan.activation_scales[group].scale
    ]
    assert groups["p"] in changed
    grids = {str(node.name): node.inputs[1] for node in model.graph if node.op_type.endswith("izeLinear")}
    assert grids["j_QuantizeLinear"] is grids["p_DequantizeLinear"]
    assert grids["p_QuantizeLinear"] is grids["j_DequantizeLinear"]


@pytest.mark.usefixtures("quick")
def test_codes_that_are_moved_are_still_moved() -> None:
    closed = prepared(NETWORKS["padded"], edge_bits=4)
    model, _, _ = learned(closed, quantized=spoiled(closed))
    pads = [node for node in model.graph if node.op_type == "Pad"]
    assert len(pads) == 3
    for pad in pads:
        source = pad.inputs[0]
        assert source is not None
        assert source.dtype == ir.DataType.UINT8
        producer = source.producer()
        assert producer is not None
        assert producer.op_type in ("QuantizeLinear", "Clip")


def fixed_to(text: str, batch: int) -> str:
    return text.replace("[N,", f"[{batch},")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["residual"])
def test_models_that_insist_on_their_batch_size(name: str, batch: int) -> None:
    closed = prepared(fixed_to(NETWORKS[name], batch), 25, fixed=batch)
    model, _, ready = learned(closed, quantized=spoiled(closed))
    assert closed.samples.count == 25 - 25 % batch
    assert all(record.kept for record in ready.records if record.steps)
    judged = ready._judged
    assert judged.tolist() == [i for i in range(closed.samples.count) if i // batch % 8 == 7]
    errors = []
    for start in range(0, len(judged), batch):
        feeds = {name: value[judged[start : start + batch]] for name, value in closed.samples.inputs.items()}
        got = execute(model, {name: value.numpy() for name, value in feeds.items()})
        outputs = {name: torch.from_numpy(value) for name, value in got.items()}
        errors.append(Reconstruction._distance(outputs, closed.teacher.run(feeds)))
    last = ready.records[-1]
    wanted = last.after if last.kept else last.before
    assert float(torch.cat(errors).mean()) == pytest.approx(wanted, rel=0.05, abs=1e-4)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_samples_are_enough(count: int) -> None:
    closed = prepared(NETWORKS["chain"])
    few = {name: value[:count] for name, value in closed.samples.inputs.items()}
    _, _, ready = learned(closed, samples=Samples(inputs=few), quantized=spoiled(closed))
    assert [record.steps for record in ready.records] == [0, 8, 0]
    assert all(np.isfinite([record.before, record.after]).all() for record in ready.records)
    both = set(ready._judged.tolist()), set(ready._trained.tolist())
    assert both[0] and both[1] and both[0] | both[1] == set(range(count))
    assert count == 1 or not both[0] & both[1]


def test_few_feeds_of_a_fixed_size_are_enough() -> None:
    closed = prepared(fixed_to(NETWORKS["chain"], 4), 10, fixed=4)
    _, _, ready = learned(closed, quantized=spoiled(closed))
    assert ready._judged.tolist() == [4, 5, 6, 7]
    assert ready._trained.tolist() == [0, 1, 2, 3]


ENDS = {
    "a class": ("int64[N] y", "[end] y = ArgMax<axis=1, keepdims=0>(g)"),
    "a number": ("float[N] y", "[end] y = ReduceMax<keepdims=0>(g, axis)"),
    "a number in a row": ("float[N,1] y", "[end] y = ReduceMax<keepdims=1>(g, axis)"),
    "a number and a class": (
        "float[N] y, int64[N,1] c",
        "[end] y = ReduceMax<keepdims=0>(g, axis) [class] c = ArgMax<axis=1>(g)",
    ),
    "no samples": ("float[M] y", "[end] y = Reshape(g, flat)"),
    "one number for all": ("float y", "[end] y = ReduceSum<keepdims=0>(g)"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("end", "batch"),
    [
        ("a class", None),
        ("a number", None),
        ("a number and a class", 1),
        ("a number in a row", 1),
        ("no samples", None),
        ("no samples", 2),
        ("one number for all", None),
    ],
)
def test_any_output_will_do(end: str, batch: int | None) -> None:
    outputs, nodes = ENDS[end]
    text = f"""
        g (float[N,3,5,5] x) => ({outputs})
        <int64[1] axis = {{1}}, int64[1] flat = {{-1}}, float[6,3,3,3] w0, float[6] b0, float[6,6,3,3] w1, float[6] b1,
         float[6,4] w2, float[4] b2>
        {{
            [conv0] c0 = Conv(x, w0, b0) [relu0] r0 = Relu(c0)
            [conv1] c1 = Conv(r0, w1, b1) [relu1] r1 = Relu(c1)
            [pool] p = GlobalAveragePool(r1) [flat] f = Flatten(p)
            [gemm] g = Gemm(f, w2, b2) {nodes}
        }}
        """
    if batch is not None:
        text = fixed_to(text, batch).replace("int64[N]", f"int64[{batch}]").replace("float[N]", f"float[{batch}]")
        text = text.replace("float[M]", f"float[{4 * batch}]")
    closed = prepared(text, 20, fixed=batch, edge_bits=4)
    model, _, ready = learned(closed, 4, quantized=spoiled(closed))
    assert [record.layers for record in ready.records] == [("conv0",), ("conv1",), ("gemm",)]
    assert ready.records[0].kept
    numbers = [number for record in ready.records for number in (record.before, record.after)]
    assert np.isfinite(numbers).all()
    execute(model, {"x": closed.samples.inputs["x"][: batch or 5].numpy()})


@pytest.mark.usefixtures("quick")
@pytest.mark.usefixtures("alone")
def test_bfloat16_learns_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = prepared(NETWORKS["residual"])
    quantized = spoiled(closed)
    _, _, full = learned(closed, 16, quantized=quantized)
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: True)
    model, _, half = learned(closed, 16, quantized=quantized)
    assert all(record.kept for record in half.records if record.steps)
    # the first block reads the same: it is judged in full precision, on values that are kept in it
    assert half.records[0].before == pytest.approx(full.records[0].before, rel=1e-6)
    for one, other in zip(full.records, half.records, strict=True):
        assert other.before == pytest.approx(one.before, rel=0.1)
    held_out = signal(64, ir.to_proto(closed.model), seed=7)
    assert distance(closed, model, held_out) < 0.5 * distance(closed, quantized, held_out)


@pytest.mark.usefixtures("quick")
def test_a_step_is_frozen_behind_the_first_block_that_reads_it() -> None:
    closed = prepared(NETWORKS["residual"])
    _, plan, ready = learned(closed, 0)  # nothing is learned, so nothing of it is kept
    read = {name for block in ready.blocks for name in block.read}
    narrow = {site.group for site in plan.activations if site.number_format.bits < 8 and site.value in read}
    assert narrow
    assert ready._learned_scales == narrow
    for block in ready.blocks:
        assert not ready._block_student(block, ready._start).growths


def test_all_files_are_gone_afterwards_also_after_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    closed = prepared(NETWORKS["chain"])
    # torch puts files of its own there when it first takes a step
    learned(closed, 2, memory=0)
    assert list(tmp_path.glob("zsq-*")) == []
    seen: list[int] = []

    class Stopping(Watcher):
        @contextmanager
        def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
            def stop(steps: int) -> None:
                seen.append(len(list(tmp_path.glob("zsq-*"))))
                raise KeyboardInterrupt

            yield stop

    with pytest.raises(KeyboardInterrupt):
        step(closed).run(closed.network, closed.state, Clock(Stopping()))
    assert seen == [1]
    assert list(tmp_path.glob("zsq-*")) == []


def step(closed: ClosedForm) -> Reconstruct:
    return Reconstruct(rounding="lsq", learning=FixedSteps(count=2, memory=0))


def test_the_step_shows_what_it_plans_and_does_and_tells_of_every_block() -> None:
    closed, watcher = prepared(NETWORKS["residual"], edge_bits=4), Watcher()
    state, records = step(closed).run(closed.network, closed.state, Clock(watcher))
    assert watcher.totals == watcher.steps == {"reconstruct": 8}
    assert [record.steps for record in records] == [2] * 4
    assert serialized(state.qdq) == serialized(insert_quantizers(state.base, state.plan))


@pytest.mark.parametrize(("budget", "learned_blocks"), [(0.0, 0), (1e6, 4)])
def test_the_step_leaves_all_as_it_is_where_no_time_is_left(
    budget: float, learned_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LearningBudget, "pace", lambda self, block: iter([0.0]))
    closed, learning = prepared(NETWORKS["residual"]), LearningConfig(effort="balanced", time_budget=budget)
    state, records = Reconstruct(rounding="lsq", learning=learning).run(closed.network, closed.state, silent_clock())
    assert len(records) == learned_blocks
    assert (state is closed.state) == (learned_blocks == 0)


def test_costs_count_multiplications_and_values() -> None:
    closed = prepared(NETWORKS["chain"])
    costs = learned(closed, 0)[2]._costs
    assert [cost.multiplications for cost in costs] == [6 * 3 * 9 * 64, 8 * 6 * 9 * 16, 5 * 8]
    assert [cost.elements for cost in costs] == [2 * 6 * 64, 2 * 8 * 16 + 8 + 8, 5]
    assert [cost.error > 0 for cost in costs] == [False, True, False]  # the first and the last have eight bits


def test_the_float_model_is_not_touched() -> None:
    closed = prepared(NETWORKS["residual"])
    graphs = (closed.model, closed.state.base, closed.quantized)
    before = [serialized(graph) for graph in graphs]
    learned(closed, 2)
    assert [serialized(graph) for graph in graphs] == before


def test_values_that_count_samples_are_seen_by_running_two_sizes() -> None:
    closed = prepared(NETWORKS["tokens"])
    names = {str(value.name) for node in closed.model.graph for value in node.outputs} | {"x"}
    found = find_batched_values(closed.teacher, closed.samples)
    assert names - found == {"t1", "m0", "r1", "m1", "r2"}
    one = Samples(inputs={"x": closed.samples.inputs["x"][:1]})
    assert find_batched_values(closed.teacher, one) == found


def test_infinite_targets_are_left_out_of_the_error() -> None:
    wanted = {"y": torch.tensor([[1.0, 3.0, -math.inf]])}
    made = {"y": torch.tensor([[1.0, 2.0, -7.0]])}
    spread = torch.tensor([1.0, 3.0, 0.0]).var(correction=0)
    assert Reconstruction._distance(made, wanted).tolist() == pytest.approx([float(1 / 3 / spread)])


def test_the_error_of_one_lone_number_is_relative_to_its_size() -> None:
    assert Reconstruction._distance({"y": torch.tensor([2.2])}, {"y": torch.tensor([2.0])}).item() == pytest.approx(
        0.01
    )


def test_columns_too_long_for_their_moments_are_not_rounded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = prepared(NETWORKS["inverted"], 64)
    monkeypatch.setattr(reconstruct, "LONGEST_COLUMN", 0)
    model, _, ready = learned(closed, 0)
    assert not any(record.kept for record in ready.records)
    assert serialized(model) == serialized(closed.quantized)
