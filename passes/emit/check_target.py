"""Check an emitted graph against the rules of its target, beyond the invariant EMITTED of every runtime.

A graph that breaks one would be rejected there, or run in float.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from backends.target import NumberFormat, Target
from passes.checks import GraphInvariant, IllegalGraphError
from passes.constants import constant_value
from passes.emit.block_matmul import UNFUSABLE_READERS, row_count
from passes.emit.unsigned_weights import saturating_codes
from passes.operators import RECURRENT, WEIGHTED, WITH_BIAS
from passes.plan import Refusal
from passes.quantizer_grid import storage_type
from passes.surgery import dequantizer, input_at, is_standard, producer, rule_of, standard_nodes

_PACKED = (ir.DataType.INT4, ir.DataType.UINT4)


def check_target(model: ir.Model, target: Target) -> None:
    """Raise IllegalGraphError if an emitted graph breaks a rule of its target."""
    if found := target_violations(model, target):
        raise IllegalGraphError(GraphInvariant.EMITTED, found)


def target_violations(model: ir.Model, target: Target) -> tuple[Refusal, ...]:
    """Return every place where an emitted graph breaks a rule of its target."""
    rules = (_opset, _activations, _narrow_values, _weights, _biases, _packing, _stored, _blocks, _shared_scales)
    return tuple(refusal for rule in rules for refusal in rule(model, target))


def _opset(model: ir.Model, target: Target) -> Iterator[Refusal]:
    version, newest = model.graph.opset_imports.get(""), target.newest_opset
    if version is None or version < target.opset or (newest and version > newest):
        wanted = f"{target.opset} to {newest}" if newest else f"{target.opset} or later"
        reason = f"it uses opset {version}, and {target.name} requires {wanted}"
        yield Refusal(where=model.graph.name or "", op_type="graph", reason=reason)


def _activations(model: ir.Model, target: Target) -> Iterator[Refusal]:
    formats = _activation_formats(target)
    for node in standard_nodes(model.graph, "QuantizeLinear"):
        if target.weight_only:
            yield Refusal.of(node, f"activations stay float on {target.name}")
            continue
        zero = constant_value(input_at(node, 2))
        kind = "uint8" if zero is None else zero.dtype.name  # the default of ONNX
        allowed = formats.get(kind)
        if allowed is None:
            yield Refusal.of(node, f"its codes are {kind}, and {target.name} takes {' or '.join(formats)}")
        elif allowed.symmetric and zero is not None and (zero != allowed.middle).any():
            given = zero.reshape(-1)[0]
            yield Refusal.of(node, f"its zero point is {given}, and {target.name} requires {allowed.middle}")
        scale = constant_value(node.inputs[1])
        if scale is not None and scale.ndim:
            yield Refusal.of(node, "an activation has one scale, not one for each channel")


def _activation_formats(target: Target) -> dict[str, NumberFormat]:
    """Return the formats of activations by the numpy name of the type that holds their codes."""
    widths = [target.activation.bits, *([target.wide_activation_bits] if target.wide_activation_bits else [])]
    types = [storage_type(bits, target.activation.signed) for bits in widths]
    return {kind.numpy().name: target.activation for kind in types}


def _narrow_values(model: ir.Model, target: Target) -> Iterator[Refusal]:
    """Look for codes that are clipped to fewer bits than the target has."""
    if target.least_activation_bits < target.activation.bits:
        return
    for node in standard_nodes(model.graph, "Clip"):
        source = producer(node, 0)
        if source is not None and is_standard(source, "QuantizeLinear"):
            yield Refusal.of(node, f"{target.name} has no values of fewer bits than {target.activation.bits}")


def _weights(model: ir.Model, target: Target) -> Iterator[Refusal]:
    for node in standard_nodes(model.graph, *WEIGHTED):
        maker = dequantizer(node, 1)
        if maker is None:
            continue
        codes, scale = (constant_value(part) for part in maker.inputs[:2])
        if codes is None or scale is None:
            continue  # two activations
        zero = constant_value(input_at(maker, 2))
        middle = 128 if target.unsigned_weights and codes.dtype == np.uint8 else 0
        low, high = target.weight.qmin + middle, target.weight.qmax + middle
        if int(codes.min(initial=middle)) < low or int(codes.max(initial=middle)) > high:
            reason = f"its codes reach from {codes.min()} to {codes.max()}, and {target.name} takes {low} to {high}"
            yield Refusal.of(node, reason)
        if target.weight.symmetric and zero is not None and (np.asarray(zero, np.int32) != middle).any():
            yield Refusal.of(node, f"the zero points of its weight must be {middle} on {target.name}")
        if target.unsigned_weights and saturating_codes(node) is not None:
            yield Refusal.of(node, f"sums of its int8 products would saturate, and {target.name} requires uint8 there")
        rule = target.rule(node.op_type)
        if rule is None:
            yield Refusal.of(node, f"{target.name} has no row for it, but its weight is quantized")
        elif scale.ndim and not rule.per_channel:
            yield Refusal.of(node, f"its weight has {scale.size} scales, and {target.name} takes one")


def _biases(model: ir.Model, target: Target) -> Iterator[Refusal]:
    for node in standard_nodes(model.graph, *WITH_BIAS):
        if input_at(node, 2) is None:
            continue
        integer = dequantizer(node, 2) is not None
        if integer and (target.bias == "float" or target.weight_only):
            yield Refusal.of(node, f"its bias is quantized, and {target.name} requires a float bias")
        data, weight = dequantizer(node, 0), dequantizer(node, 1)
        whole = data is not None and weight is not None and constant_value(weight.inputs[0]) is not None
        if not integer and whole and target.bias == "int32":
            yield Refusal.of(node, f"its bias is float, and {target.name} requires int32 behind DequantizeLinear")


def _stored(model: ir.Model, target: Target) -> Iterator[Refusal]:
    rules = {rule.op_type: rule.inputs for rule in target.stored}
    for node in standard_nodes(model.graph, *RECURRENT, "Gather"):
        for position in range(len(node.inputs)):
            product = producer(node, position)
            cast = None if product is None or not is_standard(product, "Mul") else producer(product, 0)
            if cast is None or not is_standard(cast, "Cast") or cast.attributes.get_int("to", 0) != ir.DataType.FLOAT:
                continue
            if constant_value(cast.inputs[0]) is None:
                continue
            if position not in rules.get(node.op_type, ()):
                yield Refusal.of(
                    node, f"its input {position} is stored in integers, and {target.name} has no row for that"
                )


def _packing(model: ir.Model, target: Target) -> Iterator[Refusal]:
    for node in model.graph:
        packed = any(
            value is not None and value.const_value is not None and value.const_value.dtype in _PACKED
            for value in node.inputs
        )
        if not packed or node.attributes.get_int("block_size", 0) != 0:  # see _blocks
            continue
        if not target.packed_weight_bits:
            yield Refusal.of(node, f"{target.name} reads no packed weights")
        elif is_standard(node, "DequantizeLinear") and target.int4_form != "native":
            yield Refusal.of(node, f"it reads INT4 itself, and {target.name} requires a Cast in front of it")
        elif is_standard(node, "Cast") and target.int4_form != "cast":
            yield Refusal.of(node, f"it widens INT4, and {target.name} requires DequantizeLinear to read it")


def _blocks(model: ir.Model, target: Target) -> Iterator[Refusal]:
    """Check weights with scales in blocks, and their neighbours, with some of which the runtime would not fuse them."""
    rule = target.blockwise
    for node in standard_nodes(model.graph, "DequantizeLinear"):
        size = node.attributes.get_int("block_size", 0)
        if size == 0:
            continue
        if size != rule.block_size:
            wanted = f"blocks of {rule.block_size}" if rule.block_size else "one scale for each channel"
            yield Refusal.of(node, f"it has a scale for each block of {size}, and {target.name} requires {wanted}")
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or not is_standard(readers[0], "MatMul") or readers[0].inputs[1] is not node.outputs[0]:
            yield Refusal.of(node, f"weights in blocks are for one MatMul, on its right, on {target.name}")
            continue
        yield from (Refusal.of(readers[0], reason) for reason in _block_faults(node, readers[0], target))


def _block_faults(dequantize: ir.Node, layer: ir.Node, target: Target) -> Iterator[str]:
    rule, codes = target.blockwise, dequantize.inputs[0]
    if codes is None or codes.const_value is None or codes.const_value.dtype != ir.DataType.INT4:
        yield "its weight in blocks is no constant INT4"
    elif codes.const_value.size < rule.least_weights:
        least = rule.least_weights
        yield f"it has {codes.const_value.size} weights, and {target.name} writes them in blocks from {least} on"
    rows = row_count(layer.inputs[0])
    if rows is not None and rows > rule.most_rows:
        yield f"its data have {rows} rows, and {target.name} takes weights in blocks for {rule.most_rows} at most"
    if dequantizer(layer, 0) is not None:
        yield "DequantizeLinear makes its data, and weights in blocks are for float data"
    behind = [use.node.op_type for use in layer.outputs[0].uses() if is_standard(use.node, *UNFUSABLE_READERS)]
    if behind:
        yield f"{behind[0]} stands directly behind it, which keeps weights in blocks from being read as they are"


def _shared_scales(model: ir.Model, target: Target) -> Iterator[Refusal]:
    for node in model.graph:
        rule = rule_of(node, target)
        if rule is None or rule.kind != "same_scale" or rule.on_codes:
            continue
        if rule.modes and node.attributes.get_string("mode", rule.modes[0]) not in rule.modes:
            continue  # it stays float, whatever stands around it
        data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        makers = [value.producer() for value in data if value is not None]
        before = [maker for maker in makers if maker is not None and _is_activation_dequantizer(maker)]
        behind = [
            reader.node
            for value in node.outputs
            for reader in value.uses()
            if is_standard(reader.node, "QuantizeLinear")
        ]
        if len(before) != len(makers) or not before or not behind:
            continue
        grids = {_grid(one) for one in (*before, *behind)}
        if len(grids) > 1:
            yield Refusal.of(node, "the scales and zero points in front of it and behind it differ")


def _grid(node: ir.Node) -> tuple[bytes, bytes]:
    scale, zero = (constant_value(value) for value in node.inputs[1:3])
    return (b"" if scale is None else scale.tobytes()), (b"" if zero is None else zero.tobytes())


def _is_activation_dequantizer(node: ir.Node) -> bool:
    return is_standard(node, "DequantizeLinear") and constant_value(node.inputs[0]) is None
