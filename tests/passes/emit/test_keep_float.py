"""Quantizers that are taken out again: what stays fits together, the rest is float, and the file stays as small."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.emit.emit import emit
from passes.emit.keep_float import KeepFloat
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, optimized_operators, prepare, random_feeds, sqnr, with_scales
from tests.sharing import STEPS, unrolled

TARGET = load_target("ort_cpu")


def quantized(text_or_model: object, *, bits: int = 8) -> tuple[ir.Model, QuantizationPlan, ir.Model]:
    model = prepare(text_or_model)  # type: ignore[arg-type]
    plan = with_scales(place_quantizers(model, TARGET, bits=bits, edge_bits=bits), model, random_feeds(model))
    return inserted(model, plan), plan, model


def layers(plan: QuantizationPlan) -> frozenset[str]:
    return frozenset(site.node for site in plan.weights)


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
def test_nothing_changes_where_everything_may_stay(make: object) -> None:
    assert callable(make)
    model, plan, _ = quantized(make())
    before = models.to_proto(model).SerializeToString(deterministic=True)
    assert not KeepFloat(TARGET, layers(plan), others=True)(model).modified
    assert models.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
def test_without_layers_only_the_weights_stay_rounded(make: object, bits: int, tmp_path: Path) -> None:
    assert callable(make)
    model, plan, float_model = quantized(make(), bits=bits)
    size = len(models.to_proto(model).SerializeToString())
    assert KeepFloat(TARGET, frozenset(), others=False)(model).modified
    assert count(model, "QuantizeLinear") == count(model, "DequantizeLinear") == 0
    feeds = random_feeds(float_model)
    got = execute(model, feeds)
    for site in plan.weights:  # the oracle: the float network with its weights and biases on their grids
        scale = plan.weight_scales[site.initializer]
        value = float_model.graph.initializers[site.initializer]
        shape = [1] * len(value.shape)  # type: ignore[arg-type]
        if site.axis is not None:
            shape[site.axis] = -1
        step = scale.scale.reshape(shape)
        limit = site.number_format
        codes = np.clip(np.rint(value.const_value.numpy() / step), limit.qmin, limit.qmax)  # type: ignore[union-attr]
        value.const_value = ir.tensor((codes * step).astype(np.float32))
    for name, array in execute(float_model, feeds).items():
        reach = np.abs(array).max()
        np.testing.assert_allclose(got[name], array, atol=2e-3 * reach)  # biases lie on a grid of their own
    assert len(models.to_proto(model).SerializeToString()) < size
    emit(model, plan, TARGET)
    operators = optimized_operators(model, tmp_path)
    assert not {"Cast", "Mul", "DequantizeLinear", "QLinearConv"} & set(operators), "folded when it is loaded"
    for name, array in execute(model, feeds).items():
        np.testing.assert_allclose(array, got[name], rtol=1e-5, atol=1e-5 * np.abs(got[name]).max())


def test_a_layer_by_itself_stays_in_integers(tmp_path: Path) -> None:
    model, plan, float_model = quantized(models.residual())
    names = sorted(layers(plan))
    kept = next(name for name in names if "conv" in name.lower())
    assert KeepFloat(TARGET, frozenset({kept}), others=False)(model).modified
    assert count(model, "QuantizeLinear") == 2, "what it reads, and what it makes"
    operators = optimized_operators(model, tmp_path)
    assert operators.count("QLinearConv") == 1
    wanted = execute(float_model, random_feeds(float_model))
    for name, array in execute(model, random_feeds(float_model)).items():
        assert np.abs(array - wanted[name]).max() < 0.1 * np.abs(wanted[name]).max()


def test_adds_can_leave_integers_while_layers_stay(tmp_path: Path) -> None:
    model, plan, _ = quantized(models.residual())
    assert "QLinearAdd" in optimized_operators(model, tmp_path)
    assert KeepFloat(TARGET, layers(plan), others=False)(model).modified
    operators = optimized_operators(model, tmp_path)
    assert "QLinearAdd" not in operators and "QLinearConv" in operators
    assert not KeepFloat(TARGET, layers(plan), others=False)(model).modified


RELU6 = """
relu6 (float[N,3,8,8] x) => (float[N,5] logits)
<float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8] b1, float[5,8] w2, float[5] b2,
 float low = {0.0}, float high = {0.5}>
{
    [first] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
    [clip0] r0 = Clip(c0, low, high)
    [second] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
    [clip1] r1 = Clip(c1, low, high)
    [mean] g = GlobalAveragePool(r1)
    [flat] f = Flatten(g)
    [gemm] logits = Gemm<transB=1>(f, w2, b2)
}
"""


def test_a_clip_whose_place_a_narrow_grid_took_is_put_back() -> None:
    model = prepare(models.parse(RELU6))
    feeds = random_feeds(model)
    plan = place_quantizers(model, TARGET, act_bits=4, edge_bits=4)
    quantized = inserted(model, with_scales(plan, model, feeds))
    clips = [node for node in quantized.graph if node.op_type == "Clip" and node.inputs[0].dtype == ir.DataType.FLOAT]  # type: ignore[union-attr]
    assert len(clips) < 2, "else this test tells nothing"
    assert KeepFloat(TARGET, frozenset(), others=False)(quantized).modified
    wanted = execute(model, feeds)["logits"]
    got = execute(quantized, feeds)["logits"]
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max(), "weights of 8 bits are all that is rounded"


def test_a_weight_that_layers_share_is_widened_once_and_their_bias_stays_one(tmp_path: Path) -> None:
    graph, plan, model = quantized(unrolled())
    feeds = random_feeds(model)
    KeepFloat(TARGET, frozenset(), others=False)(graph)
    # the weights of the first and the last layer and the one between, and the biases of these two
    assert count(graph, "Cast") == 5 and not count(graph, "DequantizeLinear") and not count(graph, "Round")
    steps = [node for node in graph.graph if str(node.name).startswith("step")]
    assert len({node.inputs[1] for node in steps}) == 1 and {node.inputs[2].name for node in steps} == {"c"}
    emit(graph, plan, TARGET)
    assert set(optimized_operators(graph, tmp_path)) <= {"Gemm", "FusedGemm", "Tanh"}
    assert sqnr(execute(model, feeds)["y"], execute(graph, feeds)["y"]) > 20.0


def test_some_readers_of_a_shared_weight_may_stay_in_integers(tmp_path: Path) -> None:
    graph, plan, model = quantized(unrolled(), bits=4)
    feeds = random_feeds(model)
    kept = frozenset(f"step{step}" for step in (1, 4, 5))
    wanted = execute(graph, feeds)["y"]
    KeepFloat(TARGET, kept, others=False)(graph)
    emit(graph, plan, TARGET)
    operators = optimized_operators(graph, tmp_path)
    assert operators.count("QGemm") == len(kept)
    assert operators.count("Gemm") + operators.count("FusedGemm") == STEPS + 2 - len(kept)
    assert np.abs(execute(graph, feeds)["y"] - wanted).max() < 0.2


def test_a_pad_on_codes_becomes_one_of_floats_where_no_kernel_reads_it(tmp_path: Path) -> None:
    graph, plan, model = quantized(models.padded())
    feeds = random_feeds(model)
    pad = next(node for node in graph.graph if node.op_type == "Pad")
    assert pad.inputs[0] is not None and pad.inputs[0].dtype == ir.DataType.UINT8, "else this test tells nothing"
    assert KeepFloat(TARGET, frozenset(), others=False)(graph).modified
    assert not count(graph, "QuantizeLinear") and not count(graph, "DequantizeLinear")
    wanted = execute(model, feeds)["y"]
    assert sqnr(wanted, execute(graph, feeds)["y"]) > 38.0, "weights of 8 bits are all that is rounded"
    emit(graph, plan, TARGET)
    assert not set(optimized_operators(graph, tmp_path)) & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
    assert not KeepFloat(TARGET, frozenset(), others=False)(graph).modified


def test_a_pad_with_a_value_of_its_own_keeps_it() -> None:
    graph, _, model = quantized(
        models.parse(
            """
            filled (float[N,2,6,6] x) => (float[N,3,4,4] y)
            <float[4,2,3,3] w0, float[4] b0, int64[8] pads = {0,0,1,1,0,0,1,1}, float fill = {0.5},
             float[3,4,3,3] w1, float[3] b1>
            {
                [first] c = Conv(x, w0, b0)
                [relu] r = Relu(c)
                [pad] p = Pad(r, pads, fill)
                [second] y = Conv(p, w1, b1)
            }
            """
        )
    )
    feeds = random_feeds(model)
    KeepFloat(TARGET, frozenset(), others=False)(graph)
    assert not count(graph, "QuantizeLinear")
    assert sqnr(execute(model, feeds)["y"], execute(graph, feeds)["y"]) > 35.0
