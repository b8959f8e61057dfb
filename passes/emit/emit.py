"""Bring a QDQ graph into the form in which it is written: weights packed as the target allows, checked, stripped."""

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.checks import GraphInvariant, check
from passes.emit.align_channels import AlignChannels
from passes.emit.block_matmul import BlockMatMul
from passes.emit.check_target import check_target
from passes.emit.float_biases import FloatBiases
from passes.emit.pack_digits import PackDigits, digits_bytes, digits_pay
from passes.emit.pack_weights import PackWeights
from passes.emit.sink_dequantizers import SinkDequantizers
from passes.emit.slim import Slim
from passes.emit.unsigned_weights import UnsignedWeights
from passes.plan import QuantizationPlan, Scale
from passes.qdq_names import codes_name
from passes.quantize.insert_qdq import InsertQdq

_BLOCK_BITS = 4  # narrower weights are stored as digits, which is denser
_CAST_BYTES = 40  # of the node that widens a packed weight, in the file


def emit(model: ir.Model, plan: QuantizationPlan, target: Target) -> None:
    """Emit a QDQ graph, in place.

    Args:
        model: made by inserting the plan.
        plan: its weights are packed by their bits.
        target: that the graph is for.

    Raises:
        IllegalGraphError: the graph violates EMITTED, or breaks a rule of the target.

    """
    AlignChannels(target.alignment)(model)
    bits = {codes_name(name): width for name, width in plan.bits_by_initializer.items()}
    PackDigits({name: width for name, width in bits.items() if width <= target.dense_weight_bits})(model)
    BlockMatMul(frozenset(name for name, width in bits.items() if width == _BLOCK_BITS), target)(model)
    packed = frozenset(name for name, width in bits.items() if width <= target.packed_weight_bits)
    PackWeights(packed, native=target.int4_form == "native")(model)
    if target.unsigned_weights:
        UnsignedWeights()(model)
    if target.activation.signed:
        SinkDequantizers()(model)
    if target.bias == "float":
        FloatBiases()(model)
    check(model, GraphInvariant.EMITTED)
    check_target(model, target)
    Slim()(model)


def weight_bytes(count: int, bits: int, target: Target) -> int:
    """Estimate the bytes of a weight of so many codes in the file, with the nodes that unpack it."""
    if bits <= target.dense_weight_bits and digits_pay(count, bits):
        return digits_bytes(count, bits)
    if bits <= target.packed_weight_bits:
        return (count + 1) // 2 + _CAST_BYTES
    return count


def emitted_bytes(model: ir.Model, plan: QuantizationPlan, target: Target) -> int:
    """Bytes of the file that a plan makes of a float model.

    The plan is carried out on a copy. Codes do not change the size, except that equal constants are stored once; so
    biases are made to differ, as they will after their correction, and so are unknown scales.
    """
    copy = model.clone()
    InsertQdq(_with_all_scales(model, plan))(copy)
    for number, site in enumerate(plan.weights):
        bias = copy.graph.initializers.get(codes_name(site.bias))
        if bias is not None and bias.const_value is not None:
            codes = np.arange(bias.const_value.size, dtype=np.int32).reshape(bias.const_value.shape.numpy())
            bias.const_value = ir.tensor(codes + 4096 * (number + 1), name=bias.name)
    emit(copy, plan, target)
    return int(ir.to_proto(copy).ByteSize())


def _with_all_scales(model: ir.Model, plan: QuantizationPlan) -> QuantizationPlan:
    """Give every site that has no scale a different one."""
    activations, weights = {}, {}
    for number, activation in enumerate(plan.activations):
        one = np.asarray(1.0 + number / 4096.0, np.float32)
        middle = activation.number_format.middle if activation.number_format.symmetric else 0
        activations[activation.group] = Scale(scale=one, zero_point=np.asarray(middle, np.int32))
    for number, (site, *_) in enumerate(plan.sites_by_weight().values()):
        constant = model.graph.initializers[site.initializer].const_value
        assert constant is not None
        shape = () if site.axis is None else (constant.shape.numpy()[site.axis],)
        reach = max(float(np.abs(constant.numpy()).max(initial=0.0)), 1e-12)
        steps = np.full(shape, reach / site.number_format.qmax * (1.0 + number / 4096.0), np.float32)
        weights[site.initializer] = Scale(scale=steps, zero_point=np.zeros(shape, np.int32))
    for number, constant_site in enumerate(site for site in plan.stored if site.tied is None):
        value = model.graph.initializers[constant_site.initializer]
        assert value.const_value is not None
        rows = np.abs(value.const_value.numpy()).max(-1, keepdims=True)
        steps = np.asarray(np.maximum(rows, 1e-12) * (1.0 + number / 4096.0), np.float32)
        weights[constant_site.initializer] = Scale(scale=steps, zero_point=np.zeros(steps.shape, np.int32))
    return plan.with_scales(
        activations={**activations, **plan.activation_scales}, weights={**weights, **plan.weight_scales}
    )
