"""Write the padding of convolutions and poolings out: ``auto_pad=SAME_UPPER -> pads=[...]``."""

import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.windows import same_padding


class ResolveAutoPad(NodePass):
    """Replace auto_pad by pads.

    1. VALID is no padding.
    2. SAME_UPPER and SAME_LOWER need the sizes of the spatial axes; where they are open, the node stays as it is.
    """

    op_types = ("Conv", "MaxPool", "AveragePool")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the attribute."""
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        if mode == "NOTSET":
            return node.attributes.pop("auto_pad", None) is not None
        kernel = _kernel(node)
        pads = _same(node, kernel, upper=mode == "SAME_UPPER") if mode != "VALID" else [0] * (2 * len(kernel))
        if not pads:
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


def _same(node: ir.Node, kernel: list[int], *, upper: bool) -> list[int] | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    sizes = [] if shape is None else [size for size in list(shape)[2:] if isinstance(size, int)]
    if shape is None or len(sizes) != len(shape) - 2 or not kernel:
        return None
    strides = node.attributes.get_ints("strides", [1] * len(kernel))
    dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
    begins, ends = same_padding(sizes, kernel, strides, dilations, upper=upper)
    return [*begins, *ends]
