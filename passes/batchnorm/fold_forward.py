"""Fold BatchNormalization into the layers behind it, or write it as a convolution of its own.

    y = f x + t, per channel, with f = g / sqrt(v + e) and t = s - f m

    Conv(y; W, b), nothing padded, or t = 0  ->  Conv(x; W f, b + W t)     Gemm, also behind a Flatten, likewise
    y, made of what targets make in integers ->  Conv(x; f, t)             1 x 1, one filter for each channel

Both come behind FoldBatchNorm, which is cheaper: here are those that stand behind a Relu, an Add, a Concat.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.batchnorm.fold_batchnorm import affine_of, parameter_obstacle
from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.normalize.fuse_scale import is_opening
from passes.operators import REARRANGING
from passes.surgery import add_constant, drop_unused, input_at, is_standard, set_constant
from passes.weight_layout import by_channels, constant_bias, constant_weight

Array = NDArray[np.float64]

_IN_INTEGERS = (
    *("Conv", "Gemm", "Relu", "Clip", "LeakyRelu", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "Split"),
    *("GlobalAveragePool", "DepthToSpace", *REARRANGING),
)


class FoldForward(NodePass):
    """Fold every BatchNormalization whose readers are all layers that can take it.

    What reads an input of the graph stays: one scale for all features of a table is none for most of them.
    """

    op_types = ("BatchNormalization",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Fold the node."""
        source, output = node.inputs[0], node.outputs[0]
        reason = parameter_obstacle(node)
        if reason is not None or source is None or is_opening(source) or output.is_graph_output():
            return reason or "it reads an input of the graph, or makes an output"
        factor, mean, shift = affine_of(node)
        offset = shift - factor * mean
        readers = [layer for user, position in output.uses() for layer in _layers(user, position, factor, offset)]
        if not readers or any(layer is None for layer in readers):
            return "it is read by others than layers that can take it"
        for layer in readers:
            assert layer is not None
            _scale_inputs(graph, layer, factor, offset)
        inputs = tuple(node.inputs)
        output.replace_all_uses_with(source)
        graph.remove(node, safe=True)
        drop_unused(graph, inputs)
        return True


class ConvolveBatchNorm(NodePass):
    """Write a BatchNormalization as a depthwise convolution where its input is made in integers anyway."""

    op_types = ("BatchNormalization",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Make a convolution of the node."""
        source = node.inputs[0]
        maker = source.producer() if source is not None else None
        reason = parameter_obstacle(node)
        if reason is not None:
            return reason
        if source is None or source.shape is None or len(source.shape) < 3 or node.outputs[0].is_graph_output():
            return "it makes no map of channels, or an output of the graph"
        if maker is None or is_opening(source) or not is_standard(maker, *_IN_INTEGERS):
            return f"it stands behind {maker.op_type if maker else 'a graph input'}, which is not made in integers"
        factor, mean, shift = affine_of(node)
        offset = shift - factor * mean
        former = tuple(node.inputs[1:])
        ones = [1] * (len(source.shape) - 2)
        weight = add_constant(graph, f"{node.name}.weight", factor.astype(np.float32).reshape(-1, 1, *ones))
        bias = add_constant(graph, f"{node.name}.bias", offset.astype(np.float32))
        node.op_type = "Conv"
        node.attributes.clear()
        node.attributes["group"] = ir.AttrInt64("group", factor.size)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", ones)
        node.resize_inputs(3)
        node.replace_input_with(1, weight)
        node.replace_input_with(2, bias)
        drop_unused(graph, former)
        return True


def _layers(user: ir.Node, position: int, factor: Array, offset: Array) -> list[ir.Node | None]:
    """Return the layers that read a value, also behind a Flatten, with None in the place of any other reader."""
    if position != 0:
        return [None]
    if is_standard(user, "Flatten", "Reshape") and _is_flat(user) and not user.outputs[0].is_graph_output():
        uses = user.outputs[0].uses()
        return [use.node if use.idx == 0 and _takes(use.node, factor, offset, flat=True) else None for use in uses]
    return [user if _takes(user, factor, offset, flat=False) else None]


def _is_flat(node: ir.Node) -> bool:
    """Tell whether a node makes one row of every sample (N, C, ...), the places of a channel side by side."""
    before, after = node.inputs[0], node.outputs[0].shape
    if before is None or before.shape is None or after is None or len(after) != 2 or len(before.shape) < 3:
        return False
    inner = [size for size in list(before.shape)[1:] if isinstance(size, int)]
    return len(inner) == len(before.shape) - 1 and after[1] == int(np.prod(inner))


def _takes(layer: ir.Node, factor: Array, offset: Array, *, flat: bool) -> bool:
    weight = constant_weight(layer) if is_standard(layer, "Conv", "Gemm") else None
    bias = input_at(layer, 2)
    if weight is None or weight.dtype != np.float32 or (bias is not None and constant_value(bias) is None):
        return False
    rows = by_channels(layer, np.ascontiguousarray(weight, dtype=np.float64))
    inputs = rows.shape[0] * rows.shape[2]
    if constant_bias(layer, rows.shape[0] * rows.shape[1]) is None:
        return False
    if layer.op_type == "Gemm":
        plain = layer.attributes.get_float("alpha", 1.0) == 1.0 and not layer.attributes.get_int("transA", 0)
        return plain and (inputs % factor.size == 0 if flat else inputs == factor.size)
    padded = layer.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    padded |= any(layer.attributes.get_ints("pads", []))
    return not flat and inputs == factor.size and not (padded and bool(offset.any()))


def _scale_inputs(graph: ir.Graph, layer: ir.Node, factor: Array, offset: Array) -> None:
    found = constant_weight(layer)
    assert found is not None
    weight = np.array(found, dtype=np.float64, order="C")
    rows = by_channels(layer, weight)
    groups, outputs, inputs, _ = rows.shape
    each = groups * inputs // factor.size  # places of a channel, behind a Flatten
    bias = constant_bias(layer, groups * outputs)
    assert bias is not None
    bias = bias + (rows * np.repeat(offset, each).reshape(groups, 1, inputs, 1)).sum((2, 3)).reshape(-1)
    rows *= np.repeat(factor, each).reshape(groups, 1, inputs, 1)
    former = layer.inputs[1:]
    set_constant(graph, layer, 1, weight.astype(np.float32), "weight")
    set_constant(graph, layer, 2, bias.astype(np.float32), "bias")
    drop_unused(graph, former)
    if layer.op_type == "Gemm":
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
