"""What is excluded computes in float in the runtime, with the weights of the float model."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.session import open_session
from passes.quantize.exclude import Exclusion, PatternError, find_excluded, find_layers_named
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, sqnr, with_scales

SILU = """
    silu (float[N,3,8,8] x) => (float[N,8,1,1] y)
    <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2>
    {
        [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [sigmoid0] s0 = Sigmoid(c0)
        [mul0] m0 = Mul(c0, s0)
        [pool0] p0 = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(m0)
        [conv1] c1 = Conv<pads=[1,1,1,1]>(p0, w1, b1)
        [relu1] r1 = Relu(c1)
        [pool1] p1 = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r1)
        [conv2] c2 = Conv<pads=[1,1,1,1]>(p1, w2, b2)
        [relu2] r2 = Relu(c2)
        [pool2] y = GlobalAveragePool(r2)
    }
    """
TARGET = load_target("ort_cpu_avx2")
NETWORKS = {"residual": models.residual, "branches": models.branches, "silu": lambda: models.parse(SILU)}


def optimized(model: ir.Model, folder: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime executes."""
    open_session(ir.to_proto(model), threads=1, optimized_path=folder / "optimized.onnx")
    return onnx.load(folder / "optimized.onnx")


def numbers(tensor: onnx.TensorProto | np.ndarray) -> list[float]:
    """All that are not zero, in order: the runtime moves and pads the weights of its float convolutions."""
    array = onnx.numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto) else tensor
    return sorted(array[array != 0.0].tolist())


@pytest.mark.parametrize(
    ("network", "patterns", "gone"),
    [
        ("residual", ["conv1"], {"conv1"}),
        ("residual", ["conv2"], {"conv2"}),
        ("residual", ["a"], {"QLinearAdd"}),
        ("branches", ["conv"], {"conv"}),
        ("branches", ["gemm"], {"gemm"}),
        ("branches", ["Concat"], {"QLinearConcat"}),
        ("silu", ["Sigmoid"], {"QLinearSigmoid"}),
        ("silu", ["Mul"], {"QLinearMul"}),
        ("silu", ["Sigmoid", "Mul"], {"QLinearSigmoid", "QLinearMul"}),
        ("silu", ["m0"], {"QLinearMul"}),
        ("silu", ["conv1"], {"conv1"}),
        ("silu", ["conv2"], {"conv2"}),
        ("silu", ["c1"], {"conv1"}),
        ("silu", ["r1"], {"conv1", "conv2"}),
    ],
)
def test_the_runtime_computes_it_in_float(network: str, patterns: list[str], gone: set[str], tmp_path: Path) -> None:
    model = prepare(NETWORKS[network]())
    feeds = random_feeds(model, batch=8)
    plan = place_quantizers(model, TARGET, excluded=find_excluded(model.graph, patterns))
    graph = inserted(model, with_scales(plan, model, feeds))
    ran = optimized(graph, tmp_path)
    for name in gone:
        assert not any(
            node.op_type == name or (node.name == name and "QLinear" in node.op_type) for node in ran.graph.node
        )
        found = [node for node in model.graph if node.name == name]
        for node in found if name in patterns else ():
            weight = node.inputs[1]
            assert weight is not None and weight.const_value is not None
            assert np.array_equal(graph.graph.initializers[weight.name].const_value.numpy(), weight.const_value.numpy())
            floats = [one for one in ran.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
            assert numbers(weight.const_value.numpy()) in map(numbers, floats), "left as it is at load"
    name = next(iter(value.name for value in model.graph.outputs))
    plain = execute(graph, feeds, optimize="none")[name]
    assert sqnr(plain, execute(graph, feeds)[name]) > 60.0
    assert sqnr(execute(model, feeds)[name], plain) > 20.0


def test_all_layers_excluded_leave_the_float_network() -> None:
    model = prepare(models.residual())
    feeds = random_feeds(model)
    plan = place_quantizers(model, TARGET, excluded=find_excluded(model.graph, ["*"]))
    assert not plan.activations and not plan.weights
    got = execute(inserted(model, plan), feeds)["logits"]
    assert np.array_equal(got, execute(model, feeds)["logits"])
    requested = {refusal.where for refusal in plan.refusals if refusal.requested}
    assert {"conv0", "gemm"} <= requested


def test_a_relu_that_its_layer_computes_changes_nothing() -> None:
    model = prepare(models.residual())
    plans = [place_quantizers(model, TARGET, excluded=find_excluded(model.graph, one)) for one in ([], ["Relu"])]
    assert plans[0].activations == plans[1].activations


def test_layers_that_share_a_weight_stay_float_together() -> None:
    model = prepare(
        models.parse(
            """
            shared (float[N,8,8,8] x) => (float[N,8,8,8] y)
            <float[8,8,3,3] w>
            {
                [first] a = Conv<pads=[1,1,1,1]>(x, w)
                [relu] b = Relu(a)
                [second] c = Conv<pads=[1,1,1,1]>(b, w)
                [between] d = Relu(c)
                [third] y = Conv<pads=[1,1,1,1]>(d, w)
            }
            """
        )
    )
    plan = place_quantizers(model, TARGET, excluded=Exclusion(nodes=frozenset({"second"})))
    assert not plan.weights
    assert set(plan.excluded) == {"first", "second", "third"}


def test_patterns_fit_names_operators_constants_and_then_values() -> None:
    graph = prepare(models.residual()).graph
    assert find_excluded(graph, ["conv[12]"]).nodes == {"conv1", "conv2"}
    assert find_excluded(graph, ["Gemm"]).nodes == {"gemm"}
    assert find_excluded(graph, ["w1"]).nodes == {"conv1"}
    assert find_excluded(graph, ["r?"]) == Exclusion(values=frozenset({"r0", "r1", "r2"}))
    assert find_layers_named(graph, "*", ("conv1", "gemm")) == ("conv1", "gemm")


def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_and_the_operators() -> None:
    graph = prepare(models.residual()).graph
    with pytest.raises(
        PatternError, match=r"'convolution1' fits no layer.*'conv1'.*operators there are Add, Conv, .*Gemm"
    ):
        find_excluded(graph, ["Conv", "convolution1"])
    with pytest.raises(PatternError, match=r"'gemm' fits no layer with weights .*operators there are Conv$"):
        find_layers_named(graph, "gemm", ("conv1",))
    with pytest.raises(PatternError, match="fits no layer"):
        find_excluded(graph, ["CONV1"])
