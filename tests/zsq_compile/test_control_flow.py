"""Control flow stays float and unharmed, while all around it is quantized.

Oracle: ONNX Runtime on the float file.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from backends.session import open_session
from passes.operators import BODY_DOMAIN
from tests.models import largest_difference, parse
from tests.quantizing import sqnr
from tests.zsq_compile.control_flow import BRANCH, HEAD, LOOP, TAIL, branching, looping, outputs, pictures, scanning
from zsq_compile.compiler import CompileResult, compile_model
from zsq_compile.config.compile import CompileConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.load import load_model
from zsq_compile.inspection.inspect import inspect_model

NETWORKS = [branching, looping, scanning]
LEAST_DB = 35.0  # 8 bits, calibrated on the pictures, give 45 and more
Make = Callable[[], onnx.ModelProto]


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def compiled(path: Path, output: Path) -> CompileResult:
    config = CompileConfig(effort="fast", speed_trials=False)
    return compile_model(path, output, config, calibration={"x": pictures(40)})


@pytest.mark.parametrize("make", NETWORKS)
def test_bodies_are_executed_as_the_runtime_does(make: Make) -> None:
    x = pictures(1)
    wanted = outputs(make(), x)
    graph = TorchGraph(ir.from_proto(make()))
    np.testing.assert_allclose(graph.run({"x": torch.from_numpy(x)})["y"].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_a_loop_and_reach_what_it_captures() -> None:
    graph = TorchGraph(ir.from_proto(looping()))
    weight = graph.initializers["inner"].clone().requires_grad_()
    x = torch.from_numpy(pictures(2)).requires_grad_()
    graph.run({"x": x}, replace={"inner": weight})["y"].sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("make", NETWORKS)
def test_loading_hides_the_bodies_from_the_passes_and_keeps_what_they_compute(make: Make, tmp_path: Path) -> None:
    loaded = load_model(save(make(), tmp_path))
    hidden = [node for node in loaded.model.graph if node.domain == BODY_DOMAIN]
    assert len(hidden) == 1 and any("stays in float" in note for note in loaded.notes)
    assert all(value.shape is not None for value in hidden[0].outputs)
    assert largest_difference(make(), loaded.model) < 1e-6


@pytest.mark.parametrize("make", NETWORKS)
def test_layers_around_it_run_in_integers_and_the_file_holds_the_node_as_it_was(make: Make, tmp_path: Path) -> None:
    given = make()
    result = compiled(save(given, tmp_path), tmp_path / "q.onnx")
    written = onnx.load(result.path)
    op_type = next(node.op_type for node in given.graph.node if node.op_type in ("If", "Loop", "Scan"))
    (node,) = [node for node in written.graph.node if node.op_type == op_type]
    assert not node.domain and not written.functions and [entry.domain for entry in written.opset_import] == [""]
    inner = (
        next(tensor for tensor in written.graph.initializer if tensor.name == "inner") if op_type != "Scan" else None
    )
    before = {tensor.name: tensor for tensor in given.graph.initializer}
    assert (
        inner is None
        or onnx.numpy_helper.to_array(inner).tolist() == onnx.numpy_helper.to_array(before["inner"]).tolist()
    )
    assert result.report.validation.fusion.fused == 3
    assert sqnr(outputs(given, pictures()), outputs(result.path, pictures())) > LEAST_DB


def test_where_data_decide_for_a_batch_samples_go_one_by_one_and_the_batch_stays_open(tmp_path: Path) -> None:
    given = parse(HEAD + BRANCH + TAIL)
    path = save(given, tmp_path)
    loaded = load_model(path)
    assert [spec.shape[0] for spec in loaded.inputs] == [1] and loaded.face.axes.alone
    result = compiled(path, tmp_path / "q.onnx")
    assert sqnr(outputs(given, pictures()), outputs(result.path, pictures())) > LEAST_DB
    assert open_session(result.path, threads=1).input_shapes == {"x": (None, 3, 8, 8)}


@pytest.mark.parametrize("make", [looping, scanning])
def test_what_treats_all_samples_alike_runs_in_batches(make: Make, tmp_path: Path) -> None:
    loaded = load_model(save(make(), tmp_path))
    assert loaded.inputs[0].shape[0] is None and not loaded.face.axes.alone


def test_a_loop_that_data_end_runs_sample_by_sample(tmp_path: Path) -> None:
    ended = LOOP.replace("on = Identity(go)", "").replace(
        "axes = C", "z = ReduceMax<keepdims=0>(next) on = Less(z, half) axes = C"
    )
    loaded = load_model(save(parse(HEAD + ended + TAIL), tmp_path))
    assert loaded.inputs[0].shape[0] == 1


def test_what_was_compiled_compiles_again(tmp_path: Path) -> None:
    first = compiled(save(branching(), tmp_path), tmp_path / "q.onnx")
    again = compiled(first.path, tmp_path / "again.onnx")
    assert sqnr(outputs(first.path, pictures()), outputs(again.path, pictures())) > LEAST_DB


@pytest.mark.parametrize("make", NETWORKS)
def test_inspect_says_the_same(make: Make, tmp_path: Path) -> None:
    found = inspect_model(save(make(), tmp_path))
    assert found.placement.integer == 3
    assert any("stays in float" in note for note in found.notes)


NESTED = """ s = ReduceMean<keepdims=0>(x) cond = Greater(s, limit)
    m = If(cond) <then_branch = outer () => (float[N,8,8,8] t)
        { q = Tanh(r1) t = If(cond) <then_branch = a () => (float[N,8,8,8] u) { u = Add(q, r1) },
                                     else_branch = b () => (float[N,8,8,8] v) { v = Neg(q) }> },
      else_branch = other () => (float[N,8,8,8] e) { e = Mul(r1, half) }> """


def test_bodies_in_bodies_capture_from_both_levels(tmp_path: Path) -> None:
    given = parse(HEAD + NESTED + TAIL)
    loaded = load_model(save(given, tmp_path))
    for sign in (1.0, -1.0):
        x = np.abs(pictures(2)) * np.float32(sign)
        wanted = open_session(given, threads=1).run({"x": x})["y"]
        for model in (loaded.model, ir.from_proto(given)):
            got = TorchGraph(model).run({"x": torch.from_numpy(x)})["y"].numpy()
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_constant_condition_is_decided_and_only_the_others_stay(tmp_path: Path) -> None:
    text = BRANCH.replace("s = ReduceMean<keepdims=0>(x) cond = Greater(s, limit)", "cond = Greater(half, limit)")
    other = (
        text.replace("cond", "cond2").replace("m = ", "m2 = ").replace("r1", "m").replace("half, limit", "s2, limit")
    )
    other = "s2 = ReduceMean<keepdims=0>(x)" + other.replace("i = ", "i2 = ").replace("Relu(i)", "Relu(i2)")
    for name in ("t", "e", "then_graph", "else_graph"):
        other = re.sub(rf"\b{name}\b", f"{name}_2", other)
    given = parse(HEAD + text + other.replace("cond2 = Greater", "cond2 = Less") + TAIL.replace("(m,", "(m2,"))
    loaded = load_model(save(given, tmp_path))
    assert len([node for node in loaded.model.graph if node.domain == BODY_DOMAIN]) == 1
    assert any("were decided: If" in note for note in loaded.notes)
    assert any("stays in float, with all that it holds: 1 x If" in note for note in loaded.notes)
    assert largest_difference(given, loaded.model) < 1e-6


def test_a_file_that_is_nothing_but_a_branch_is_refused(tmp_path: Path) -> None:
    text = """net (float[N,4] x) => (float[N,2] y) <float[4,2] w, float limit = {0.0}>
        { s = ReduceMean<keepdims=0>(x) c = Greater(s, limit)
          y = If(c) <then_branch = a () => (float[N,2] t) { t = MatMul(x, w) },
                     else_branch = b () => (float[N,2] e) { n = Neg(x) e = MatMul(n, w) }> }"""
    path = save(parse(text), tmp_path)
    for run in (load_model, inspect_model):
        with pytest.raises(UnsupportedModelError, match="all of its layers inside control flow"):
            run(path)


TURNS = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[3] x, int64 turns, bool start) => (float[3] last, float[T,3] seen)
    <float one = {1.0}, float three = {3.0}>
    { last, seen = Loop(turns, start, x) <body = turn (int64 i, bool go, float[3] at) =>
        (bool on, float[3] next, float[3] kept)
        { next = Add(at, one) m = ReduceMax<keepdims=0>(next) on = Less(m, three) kept = Identity(at) }> }"""


@pytest.mark.parametrize(("turns", "start"), [(0, True), (5, False), (2, True), (9, True)])
def test_a_loop_ends_by_its_count_or_by_its_condition(turns: int, start: bool) -> None:
    feeds = {"x": np.zeros(3, np.float32), "turns": np.array(turns), "start": np.array(start)}
    wanted = open_session(parse(TURNS), threads=1).run(feeds)
    got = TorchGraph(ir.from_proto(parse(TURNS))).run({name: torch.from_numpy(array) for name, array in feeds.items()})
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name].numpy(), array)
