"""Why a node stays float on a target whatever the network: its operator, its data, its constants."""

import onnx_ir as ir

from backends.target import OperatorRule
from passes.surgery import input_at, is_constant, is_standard
from passes.value_ranges import clip_limits


def refuse(node: ir.Node, rule: OperatorRule | None) -> str | None:
    """Why a node stays float; None when it takes part, "" when it is no loss (shape arithmetic)."""
    if rule is None:
        if is_standard(node, "Identity"):
            return ""
        heavy = any(is_constant(node, i) and rank_of(node.inputs[i]) >= 2 for i in range(1, len(node.inputs)))
        return f"the target has no integer kernel for {node.op_type}" if heavy or is_float(node.outputs[0]) else ""
    if not is_float(node.outputs[0]):
        kind = node.outputs[0].dtype
        return f"its data are {kind.name}, and only float32 is quantized" if kind and kind.is_floating_point() else ""
    if rule.modes and node.attributes.get_string("mode", "nearest") not in rule.modes:  # the default of Resize
        return f"its mode is not {' or '.join(rule.modes)}"
    constant = next((i for i in data_inputs(node, rule) if is_constant(node, i)), None)
    if constant is not None:
        return f"operand {constant} is a constant"
    if rule.kind == "weighted":
        return _weighted_refusal(node)
    if rule.kind == "activation" and node.op_type == "Clip" and clip_limits(node) is None:
        return "one of its limits is computed at run time"
    return None


def _weighted_refusal(node: ir.Node) -> str | None:
    if not is_constant(node, 1):
        return None if node.op_type == "MatMul" else "its weight is computed at run time"
    if node.op_type == "MatMul" and rank_of(node.inputs[1]) != 2:
        return f"its constant operand has rank {rank_of(node.inputs[1])}, and per-channel scales need rank 2"
    if node.op_type == "Gemm":
        scaled = [name for name in ("alpha", "beta") if node.attributes.get_float(name, 1.0) != 1.0]
        if scaled or node.attributes.get_int("transA", 0) != 0:
            return f"its {', '.join(scaled) or 'transA'} is not the default"
    bias = input_at(node, 2)
    if bias is None:
        return None
    if bias.const_value is None:
        return "its bias is computed at run time"
    rows = bias.const_value.shape.numpy()[:-1]
    return "its bias differs from row to row" if any(size != 1 for size in rows) else None


def data_inputs(node: ir.Node, rule: OperatorRule) -> tuple[int, ...]:
    """Positions of the inputs of a node that are quantized."""
    if rule.kind == "weighted":
        return (0,) if is_constant(node, 1) else (0, 1)
    return rule.inputs or tuple(i for i, value in enumerate(node.inputs) if value is not None)


def rank_of(value: ir.Value | None) -> int:
    """Rank of a value, 0 where it is not known."""
    return 0 if value is None or value.shape is None else len(value.shape)


def is_float(value: ir.Value) -> bool:
    """Whether a value holds float32 numbers, as far as is known."""
    return value.dtype is None or value.dtype == ir.DataType.FLOAT
