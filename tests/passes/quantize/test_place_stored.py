"""Constants of operators in float: stored in integers, widened at load, and the same to the arithmetic."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.emit.check_target import target_violations
from passes.emit.emit import emit, emitted_bytes
from passes.plan import QuantizationPlan
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.override_widths import Widths, override_widths, widths_of
from passes.quantize.place_quantizers import place_quantizers
from passes.quantizer_grid import quantize_array
from tests import models
from tests.quantizing import Arrays, execute, inserted, optimized_operators, prepare, random_feeds, sqnr, with_scales
from tests.storing import GATES, lookup, recurrent, tied

TARGET = load_target("ort_cpu")


def weight_only(proto: onnx.ModelProto, feeds: Arrays, bits: int) -> tuple[ir.Model, QuantizationPlan]:
    """A plan whose values and layers all stay float."""
    model = prepare(proto)
    plan = place_quantizers(model, TARGET, bits=bits, edge_bits=bits)
    plan = QuantizationPlan(activations=(), weights=(), refusals=plan.refusals, stored=plan.stored)
    return model, with_scales(plan, model, feeds)


def rounded(model: ir.Model, plan: QuantizationPlan) -> ir.Model:
    """The float graph with the numbers that its stored constants have."""
    copy = model.clone()
    for site in plan.stored:
        value, scale = copy.graph.initializers[site.initializer], plan.weight_scales[site.initializer]
        codes = quantize_array(value.const_value.numpy(), scale, site.number_format)
        value.const_value = ir.tensor(codes.astype(np.float32) * scale.scale)
    return copy


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize(
    ("kind", "directions", "bias"), [("LSTM", 1, False), ("LSTM", 2, True), ("GRU", 2, True), ("RNN", 2, False)]
)
def test_a_recurrent_layer_computes_in_float_with_weights_in_integers(
    kind: str, bias: bool, directions: int, bits: int, tmp_path: Path
) -> None:
    proto = recurrent(kind, directions=directions, bias=bias)
    feeds = random_feeds(proto)
    model, plan = weight_only(proto, feeds, bits)
    least = 1024  # elements
    wanted = [name for name, width in (("w", 24), ("r", 16)) if directions * GATES[kind] * 16 * width >= least]
    assert [site.initializer for site in plan.stored] == wanted
    quantized = inserted(model, plan)
    assert InsertQdq(plan)(quantized).modified is False
    wanted_outputs = execute(rounded(model, plan), feeds, optimize="none")["y"]
    emit(quantized, plan, TARGET)
    assert sqnr(wanted_outputs, execute(quantized, feeds)["y"]) > 100.0
    assert optimized_operators(quantized, tmp_path) == optimized_operators(proto, tmp_path)
    codes = sum(model.graph.initializers[name].const_value.size for name in wanted) * bits / 8
    saved = proto.ByteSize() - models.to_proto(quantized).ByteSize()
    scales = 4 * len(wanted) * directions * GATES[kind] * 16
    assert saved > 32 / bits * codes - codes - scales - 1200 * len(wanted)  # names and nodes


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_a_table_are_stored_too(bits: int, tmp_path: Path) -> None:
    feeds = {"ids": np.random.default_rng(0).integers(0, 60, (3, 5))}
    model, plan = weight_only(lookup(), feeds, bits)
    assert {site.initializer: site.number_format.bits for site in plan.stored} == {"t": bits, "w": bits, "r": bits}
    quantized = inserted(model, plan)
    wanted = execute(rounded(model, plan), feeds, optimize="none")["y"]
    emit(quantized, plan, TARGET)
    assert sqnr(wanted, execute(quantized, feeds)["y"]) > 100.0
    assert optimized_operators(quantized, tmp_path) == ["Gather", "Transpose", "LSTM"]


def test_tables_keep_the_bits_of_the_edges() -> None:
    plan = place_quantizers(prepare(lookup()), TARGET, bits=4)
    assert {site.initializer: site.number_format.bits for site in plan.stored} == {"t": 8, "w": 4, "r": 4}


def test_a_constant_of_several_readers_is_stored_once_and_all_of_them_read_it() -> None:
    text = """g (int64[N] ids, int64[N] others, float[N,24] x) => (float[N,24] y, float[60,24] z) <float[60,24] t>
        { [one] a = Gather(t, ids) [two] b = Gather(t, others) c = Add(a, b) y = Add(c, x) [three] z = Erf(t) }"""
    proto = models.parse(text)
    feeds = {name: np.array([3, 59, 0]) for name in ("ids", "others")} | {"x": np.ones((3, 24), np.float32)}
    model, plan = weight_only(proto, feeds, 8)
    assert len(plan.stored) == 1
    quantized = inserted(model, plan)
    assert "t" not in quantized.graph.initializers
    wanted, got = execute(rounded(model, plan), feeds), execute(quantized, feeds)
    assert all(sqnr(wanted[name], got[name]) > 100.0 for name in wanted)


@pytest.mark.parametrize(
    "declared", ["float[20,24] t", "float[2000,4] t", "int64[60,24] t", "float16[60,24] t"], ids=lambda text: text[:12]
)
def test_what_saves_little_or_is_not_float_stays(declared: str) -> None:
    dtype = declared.split("[")[0]
    text = f"g (int64[N] ids) => ({dtype}[N,M] y) <{declared}> {{ y = Gather(t, ids) }}"
    assert not place_quantizers(prepare(models.parse(text)), TARGET).stored


def test_a_constant_that_is_a_graph_output_stays() -> None:
    model = prepare(models.parse("g (int64[N] i) => (float[N,24] y) <float[60,24] t> { y = Gather(t, i) }"))
    model.graph.outputs.append(model.graph.initializers["t"])
    assert not place_quantizers(model, TARGET).stored


def test_widths_of_a_plan_name_stored_constants_by_their_operator() -> None:
    model = prepare(lookup())
    plan = place_quantizers(model, TARGET, bits=4)
    assert widths_of(plan).weights == {"table": 8, "cell": 4}
    changed = override_widths(plan, TARGET, Widths(weights={"table": 3}))
    assert widths_of(changed).weights == {"table": 3, "cell": 4}
    assert emitted_bytes(model, changed, TARGET) < emitted_bytes(model, plan, TARGET)


def test_the_report_is_told_of_them() -> None:
    plan = place_quantizers(prepare(lookup()), TARGET)
    reasons = {refusal.where: refusal.reason for refusal in plan.refusals}
    assert "stored in integers" in reasons["cell"] and "stored in integers" in reasons["table"]


@pytest.mark.parametrize("name", ["openvino", "tensorrt", "ort_cuda", "qnn_htp", "coreml"])
def test_targets_that_were_not_tried_store_nothing(name: str) -> None:
    model, target = prepare(lookup()), load_target(name)
    assert not place_quantizers(model, target).stored
    plan = with_scales(place_quantizers(model, TARGET), model, {"ids": np.zeros((2, 5), np.int64)})
    found = {refusal.where for refusal in target_violations(inserted(model, plan), target)}
    assert {"table", "cell"} <= found
    assert not target_violations(inserted(model, plan), TARGET)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_table_that_is_also_a_weight_is_stored_once(transposed: bool, bits: int, tmp_path: Path) -> None:
    model = prepare(tied(transposed=transposed))
    feeds = {"ids": np.random.default_rng(0).integers(0, 40, (3, 5))}
    plan = with_scales(place_quantizers(model, TARGET, bits=bits, edge_bits=bits), model, feeds)
    (site,) = plan.stored
    weight = next(one for one in plan.weights if one.node == "scores")
    assert (site.tied, site.number_format) == (weight.initializer, weight.number_format)
    quantized = inserted(model, plan)
    unoptimized = execute(quantized, feeds, optimize="none")["y"]
    emit(quantized, plan, TARGET)
    large = [
        value for value in quantized.graph.initializers.values() if value.const_value.nbytes >= 40 * 32 * bits // 8
    ]
    stored = [value for value in large if value.const_value.size != 32 * 32]
    assert len(stored) == 1
    got = execute(quantized, feeds)["y"]
    assert sqnr(unoptimized, got) > 40.0  # a code may flip
    assert sqnr(execute(model, feeds)["y"], got) > {8: 25.0, 4: 8.0, 3: 2.0}[bits]
    assert not {"Cast", "Transpose"} & set(optimized_operators(quantized, tmp_path))


def test_widths_of_a_tied_table_are_those_of_the_layer() -> None:
    model = prepare(tied(transposed=True))
    plan = place_quantizers(model, TARGET)
    assert widths_of(plan).weights == {"mix": 8, "scores": 8}
    changed = override_widths(plan, TARGET, Widths(weights={"scores": 4}))
    assert [site.number_format.bits for site in changed.stored] == [4]
    assert emitted_bytes(model, changed, TARGET) < emitted_bytes(model, plan, TARGET)
