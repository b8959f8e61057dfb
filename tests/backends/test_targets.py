"""Every shipped target: what is emitted for it keeps its rules, is valid ONNX, and computes what the plan says."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target, target_names
from backends.session import open_session
from passes.emit.check_target import target_violations
from passes.emit.emit import emit
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, simulate, sqnr, with_scales

# What a plan at 8 bits keeps of the float model on random networks; 7-bit weights lose 6 dB of it.
LEAST_SQNR = 24.0


def emitted(name, make, bits=8):
    target = load_target(name)
    model = prepare(make())
    feeds = random_feeds(model)
    plan = place_quantizers(model, target, bits=bits, edge_bits=bits)
    plan = with_scales(plan, model, feeds)
    made = inserted(model, plan)
    emit(made, plan, target)
    return target, made, model, plan, feeds


def run(model, target, feeds, folder):
    """Outputs, and the operators that the runtime executes, with the target's session options on the processor."""
    session = open_session(
        ir.to_proto(model), threads=1, config=target.session_config, optimized_path=folder / "optimized.onnx"
    )
    optimized = onnx.load(folder / "optimized.onnx", load_external_data=False)
    return session.run(feeds), Counter(node.op_type for node in optimized.graph.node)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, models.padded])
@pytest.mark.parametrize("name", target_names())
def test_what_is_emitted_is_legal_valid_and_what_was_planned(tmp_path, name, make, bits):
    target, made, model, plan, feeds = emitted(name, make, bits)
    assert target_violations(made, target) == ()
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    outputs, _ = run(made, target, feeds, tmp_path)
    wanted, floats = simulate(model, plan, feeds), execute(make(), feeds)
    for output, value in outputs.items():
        assert sqnr(wanted[output], value) > 100.0  # the same numbers; sums in float are taken in another order
        if bits == 8:
            assert sqnr(floats[output], value) > LEAST_SQNR


@pytest.mark.parametrize("name", ["ort_cpu", "ort_cpu_avx2", "ort_arm"])
def test_the_processors_run_all_layers_in_integers(tmp_path, name):
    target, made, _, _, feeds = emitted(name, models.residual)
    counts = run(made, target, feeds, tmp_path)[1]
    assert (counts["QLinearConv"], counts["QLinearAdd"], counts["QGemm"]) == (3, 1, 1), counts
    assert counts["Conv"] + counts["DequantizeLinear"] == 0, counts


def test_without_its_option_the_runtime_rewrites_what_arm_keeps(tmp_path):
    target, made, *_ = emitted("ort_arm", models.residual)
    path = tmp_path / "net.ort.onnx"
    kept = []
    for config in (target.session_config, {"session.qdqisint8allowed": "0"}):
        open_session(ir.to_proto(made), threads=1, config=config, optimized_path=path)
        tensors = onnx.load(path, load_external_data=True).graph.initializer
        kept.append(sum(tensor.data_type == onnx.TensorProto.UINT8 for tensor in tensors))
    assert kept[0] == 0 < kept[1]


def codes_of(model):
    weights = [
        one
        for one in ir.to_proto(model).graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1
    ]
    return [onnx.numpy_helper.to_array(one).astype(int) for one in weights]


def test_no_pair_of_int8_products_overflows_16_bits_without_vnni():
    _, made, *_ = emitted("ort_cpu_avx2", models.residual)
    assert all(int(np.abs(array).max()) * 255 * 2 <= 32767 for array in codes_of(made))
    kinds = [one.data_type for one in ir.to_proto(made).graph.initializer if len(one.dims) > 1]
    assert kinds.count(onnx.TensorProto.UINT8) == 4
    _, wide, *_ = emitted("ort_cpu", models.residual)
    assert max(int(np.abs(array).max()) for array in codes_of(wide)) * 255 * 2 > 32767


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("name", ["ort_cuda", "coreml"])
def test_where_only_weights_are_integers_nothing_of_it_is_left_after_loading(tmp_path, name, bits):
    target, made, _, plan, feeds = emitted(name, models.residual, bits)
    assert plan.activations == () and len(plan.weights) == 4
    counts = run(made, target, feeds, tmp_path)[1]
    assert counts["DequantizeLinear"] + counts["QuantizeLinear"] + counts["Cast"] == 0, counts
    open_session(ir.to_proto(made), threads=1, optimized_path=tmp_path / "plain.onnx")
    plain = onnx.load(tmp_path / "plain.onnx", load_external_data=False)
    assert any(node.op_type == "DequantizeLinear" for node in plain.graph.node)  # so the option is needed


def test_tensorrt_gets_symmetric_inputs_of_weighted_layers_and_nothing_else():
    _, made, _, plan, _ = emitted("tensorrt", models.residual)
    proto = ir.to_proto(made)
    assert {site.value for site in plan.activations} == {site.data_input for site in plan.weights}
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
    assert not any(array.dtype == np.int32 for array in constants.values())  # biases
    axes = [
        next(attr.i for attr in node.attribute if attr.name == "axis")
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and constants.get(node.input[1], np.zeros(())).ndim
    ]
    assert len(axes) == 4


def test_qnn_reads_int4_itself_and_has_one_scale_for_a_product():
    _, made, _, plan, _ = emitted("qnn_htp", models.residual, 4)
    proto = ir.to_proto(made)
    packed = {one.name for one in proto.graph.initializer if one.data_type == onnx.TensorProto.INT4}
    readers = {node.op_type for node in proto.graph.node if set(node.input) & packed}
    assert readers == {"DequantizeLinear"} and len(packed) > 4  # weights, and their zero points
    axes = {site.node: site.axis for site in plan.weights}
    assert axes == {"conv0": 0, "conv1": 0, "conv2": 0, "gemm": None}


def test_wide_values_are_16_bits_where_the_target_has_them():
    from passes.quantize.override_widths import Widths, override_widths

    target = load_target("qnn_htp")
    model = prepare(models.residual())
    feeds = random_feeds(model)
    plan: QuantizationPlan = place_quantizers(model, target)
    plan = with_scales(override_widths(plan, target, Widths(activations={"r0": 16})), model, feeds)
    made = inserted(model, plan)
    emit(made, plan, target)
    kinds = {one.const_value.dtype for one in made.graph.initializers.values()}
    assert ir.DataType.UINT16 in kinds
    assert target_violations(made, load_target("ort_cpu"))
