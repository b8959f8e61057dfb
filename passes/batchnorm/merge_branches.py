"""Merge convolutions of one value whose results are added, as RepVGG and MobileOne have them in training.

    Conv(x; W, b) + Conv(x; V, c)  ->  Conv(x; W + V, b + c)

The smaller kernel is put where its taps meet the same pixels in the larger one; one filter for each channel (a
normalised way round the others) is spread over the channels of the other convolution (Ding et al., CVPR 2021).
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import absorb, drop_unused, input_at, is_standard, only_use, producer, set_constant

Array = NDArray[np.float64]


class MergeBranches(NodePass):
    """Merge two convolutions of the same value that are read by nothing but the Add, and have the same strides."""

    op_types = ("Add",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Merge the convolutions in front of the Add; of several Adds in a row each is merged in turn."""
        pair = [producer(node, position) for position in (0, 1)]
        kept, gone = pair
        if kept is None or gone is None or kept is gone or not all(_is_free(layer) for layer in (kept, gone)):
            return False
        if kept.inputs[0] is not gone.inputs[0] or _steps(kept) != _steps(gone):
            return False
        if _taps(gone) > _taps(kept) or _groups(gone) < _groups(kept):
            kept, gone = gone, kept
        weight = _merged(kept, gone)
        if weight is None:
            return False
        bias = _bias(kept) + _bias(gone)
        former = kept.inputs[1:]
        set_constant(graph, kept, 1, weight.astype(np.float32), "weight")
        set_constant(graph, kept, 2, bias.astype(np.float32), "bias")
        drop_unused(graph, former)
        position = 0 if node.inputs[0] is kept.outputs[0] else 1
        node.replace_input_with(1 - position, None)
        unused = tuple(gone.inputs)
        graph.remove(gone, safe=True)
        drop_unused(graph, unused)
        absorb(graph, node, kept.outputs[0])
        return True


def _is_free(layer: ir.Node) -> bool:
    if not is_standard(layer, "Conv") or only_use(layer.outputs[0]) is None:
        return False
    weight, bias = constant_value(layer.inputs[1]), input_at(layer, 2)
    explicit = layer.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    constant = bias is None or constant_value(bias) is not None
    return explicit and constant and weight is not None and weight.dtype == np.float32


def _weight(layer: ir.Node) -> Array:
    weight = constant_value(layer.inputs[1])
    assert weight is not None
    return weight.astype(np.float64)


def _bias(layer: ir.Node) -> Array:
    bias = constant_value(input_at(layer, 2))
    return np.zeros(len(_weight(layer))) if bias is None else bias.astype(np.float64)


def _groups(layer: ir.Node) -> int:
    return layer.attributes.get_int("group", 1)


def _taps(layer: ir.Node) -> int:
    return int(np.prod(_weight(layer).shape[2:]))


def _ints(layer: ir.Node, name: str, default: int, count: int) -> list[int]:
    return list(layer.attributes.get_ints(name, [default] * count))


def _steps(layer: ir.Node) -> list[int]:
    return _ints(layer, "strides", 1, _weight(layer).ndim - 2)


def _merged(kept: ir.Node, gone: ir.Node) -> Array | None:
    """Weight of the larger convolution with that of the other in it; None where that one does not fit in."""
    weight, other = _weight(kept), _weight(gone)
    spread = _spread(other, _groups(gone), weight.shape[1], _groups(kept))
    if spread is None or len(weight) != len(spread):
        return None
    axes = weight.ndim - 2
    ours, theirs = _ints(kept, "pads", 0, 2 * axes), _ints(gone, "pads", 0, 2 * axes)
    steps = _ints(kept, "dilations", 1, axes), _ints(gone, "dilations", 1, axes)
    slices = []
    for axis, (size, small, step, fine) in enumerate(zip(weight.shape[2:], spread.shape[2:], *steps, strict=True)):
        before, behind = ours[axis] - theirs[axis], ours[axes + axis] - theirs[axes + axis]
        # both have as many outputs, so what is padded more is what the kernel reaches further
        if before < 0 or behind < 0 or before + behind != (size - 1) * step - (small - 1) * fine:
            return None
        if before % step or (small > 1 and fine != step):
            return None
        slices.append(slice(before // step, before // step + small))
    weight[(slice(None), slice(None), *slices)] += spread
    return weight


def _spread(weight: Array, groups: int, inputs: int, wanted: int) -> Array | None:
    """Write a weight (out, in / groups, taps...) with fewer groups, of ``inputs`` channels; None if it cannot be."""
    if groups == wanted:
        return weight if weight.shape[1] == inputs else None
    if groups % wanted or weight.shape[1] * groups != inputs * wanted:
        return None
    wide = np.zeros((len(weight), inputs, *weight.shape[2:]))
    outputs, each = len(weight) // groups, weight.shape[1]
    for group in range(groups):
        first = group % (groups // wanted) * each
        wide[group * outputs : (group + 1) * outputs, first : first + each] = weight[
            group * outputs : (group + 1) * outputs
        ]
    return wide
