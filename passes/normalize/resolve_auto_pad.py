"""Write the padding of convolutions and poolings out: ``auto_pad=SAME_UPPER -> pads=[...]``.

Output size ``ceil(in / stride)``, total padding ``(out - 1) * stride + (kernel - 1) * dilation + 1 - in``, and the odd
one goes behind (SAME_UPPER) or before (SAME_LOWER), as the operators' specification says.
"""

import onnx_ir as ir

from passes.surgery import is_standard


class ResolveAutoPad(ir.passes.InPlacePass):
    """Replace auto_pad by pads.

    1. VALID is no padding.
    2. SAME_UPPER and SAME_LOWER need the sizes of the spatial axes; where they are open, the node stays as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit all nodes once."""
        modified = False
        for node in model.graph:
            if is_standard(node, "Conv", "MaxPool", "AveragePool"):
                modified |= _resolve(node)
        return ir.passes.PassResult(model, modified)


def _resolve(node: ir.Node) -> bool:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return node.attributes.pop("auto_pad", None) is not None
    kernel = _kernel(node)
    if not kernel:
        return False
    pads = [0] * (2 * len(kernel)) if mode == "VALID" else _same(node, kernel, lower=mode == "SAME_LOWER")
    if pads is None:
        return False
    node.attributes.pop("auto_pad")
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True


def _kernel(node: ir.Node) -> list[int]:
    given = list(node.attributes.get_ints("kernel_shape", []))
    if given or node.op_type != "Conv":
        return given
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    sizes = list(shape)[2:] if shape is not None else []
    return [size for size in sizes if isinstance(size, int)] if all(isinstance(size, int) for size in sizes) else []


def _same(node: ir.Node, kernel: list[int], *, lower: bool) -> list[int] | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    strides = node.attributes.get_ints("strides", [1] * len(kernel))
    dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
    begins, ends = [], []
    for size, window, stride, dilation in zip(list(shape)[2:], kernel, strides, dilations, strict=True):
        if not isinstance(size, int):
            return None
        total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        begins.append(total - total // 2 if lower else total // 2)
        ends.append(total - begins[-1])
    return begins + ends
