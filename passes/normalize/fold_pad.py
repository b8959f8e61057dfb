"""Fold a Pad node into the convolutions and poolings that read it.

    Pad(x) -> Conv(pads=p)         ->  Conv(x, pads=p + pad)
    Pad(x) -> AveragePool(pads=p)  ->  AveragePool(x, pads=p + pad, count_include_pad=1)
    Pad(x) -> MaxPool(pads=p)      ->  MaxPool(x, pads=p + pad)

A Pad that stays costs a copy of the tensor, and a quantizer that has to represent its zeros.
"""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import GraphPass, Outcome
from passes.plan import Refusal
from passes.surgery import drop_unused, input_at, is_standard, standard_nodes
from passes.value_ranges import never_negative


class FoldPad(GraphPass):
    """Fold constant padding of spatial axes.

    1. Conv takes a padding with 0.
    2. AveragePool takes a padding with 0 if it counts padding anyway or has none of its own, and no ceil_mode.
    3. MaxPool takes a padding with the lowest number, or with 0 where the input is never negative.

    Each reader takes the padding by itself; the Pad goes when none is left.
    """

    def call(self, model: ir.Model) -> Outcome:
        """Fold every Pad, the last of several in a row first."""
        refusals: list[Refusal] = []
        modified = False
        for node in reversed(standard_nodes(model.graph, "Pad")):
            folded, reasons = _fold(node)
            modified |= folded > 0 or not reasons
            if reasons:
                refusals.append(Refusal.of(node, reasons[0]))
            else:
                inputs = tuple(node.inputs)
                model.graph.remove(node, safe=True)
                drop_unused(model.graph, inputs)
        return Outcome(model, modified, tuple(refusals))


def _fold(node: ir.Node) -> tuple[int, list[str]]:
    """Fold into the readers that can take the padding; return their number, and why the others cannot."""
    padding = _padding(node)
    if isinstance(padding, str):
        return 0, [padding]
    begins, ends, fill = padding
    folded, reasons = 0, ["it is an output of the graph"] if node.outputs[0].is_graph_output() else []
    for reader, position in node.outputs[0].uses():
        reason = _obstacle(reader, position, node.inputs[0], begins, ends, fill)
        if reason is not None:
            reasons.append(reason)
            continue
        own = list(reader.attributes.get_ints("pads", [0] * (2 * len(begins))))
        total = [int(mine + more) for mine, more in zip(own, begins + ends, strict=True)]
        reader.attributes["pads"] = ir.AttrInt64s("pads", total)
        reader.attributes.pop("auto_pad", None)
        if reader.op_type == "AveragePool":
            reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        reader.replace_input_with(0, node.inputs[0])
        folded += 1
    return folded, reasons


def _padding(node: ir.Node) -> tuple[list[int], list[int], float] | str:
    """Return the padding before and behind every spatial axis and its value, or why it cannot be folded."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return f"it pads by '{node.attributes.get_string('mode')}', not with a constant"
    pads = constant_value(node.inputs[1])
    fill = _optional(node, 2)
    axes = _optional(node, 3)
    if pads is None or fill is None or axes is None:
        return "its padding is computed at run time"
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    rank = len(shape) if shape is not None else pads.size // 2
    if axes.size and shape is None:
        return "the rank of its input is not known"
    full = np.zeros((2, rank), np.int64)
    full[:, axes.astype(np.int64) if axes.size else slice(None)] = pads.reshape(2, -1)
    if (full < 0).any():
        return "it crops (negative padding)"
    if full[:, :2].any():
        return "it pads the batch or the channels"
    return full[0, 2:].tolist(), full[1, 2:].tolist(), float(fill.reshape(-1)[0]) if fill.size else 0.0


def _optional(node: ir.Node, position: int) -> np.ndarray | None:
    """Value of an optional input: empty if it is absent, None if it is not constant."""
    value = input_at(node, position)
    return np.empty(0) if value is None else constant_value(value)


def _obstacle(
    reader: ir.Node, position: int, source: ir.Value | None, begins: list[int], ends: list[int], fill: float
) -> str | None:
    """Why a reader cannot take the padding, or None."""
    if position != 0 or not is_standard(reader, "Conv", "AveragePool", "MaxPool"):
        return f"'{reader.name}' ({reader.op_type}) reads it and has no padding of its own"
    if reader.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"'{reader.name}' computes its own padding (auto_pad)"
    if reader.op_type == "Conv":
        return None if fill == 0.0 else f"it pads with {fill:g}, and convolutions pad with 0"
    if reader.attributes.get_int("ceil_mode", 0):
        return f"'{reader.name}' rounds its output size up (ceil_mode)"
    own = list(reader.attributes.get_ints("pads", [0] * (2 * len(begins))))
    kernel = list(reader.attributes.get_ints("kernel_shape", []))
    if any(mine + more >= size for mine, more, size in zip(own, begins + ends, kernel * 2, strict=True)):
        return f"'{reader.name}' would pad by its whole window"
    if reader.op_type == "AveragePool":
        if fill != 0.0:
            return f"it pads with {fill:g}, and AveragePool pads with 0"
        if any(own) and not reader.attributes.get_int("count_include_pad", 0):
            return f"'{reader.name}' leaves its own padding out of the average"
        return None
    return _max_obstacle(reader, source, fill)


def _max_obstacle(reader: ir.Node, source: ir.Value | None, fill: float) -> str | None:
    if sum(bool(output.name) for output in reader.outputs) > 1:
        return f"'{reader.name}' returns positions, which padding moves"
    if any(step != 1 for step in reader.attributes.get_ints("dilations", [])):
        return f"'{reader.name}' is dilated: a window could lie in the padding alone"
    if fill == -np.inf or fill <= np.finfo(np.float32).min:
        return None
    if fill == 0.0 and never_negative(source):
        return None
    return f"it pads with {fill:g}, which can win against negative inputs of '{reader.name}'"
