"""What it costs to try a network, counted and not measured, so that the same network is always tried on as much.

The unit is a multiplication of a convolution or a matrix product, of which a core does some 10 000 000 000 a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from passes.analysis.count_work import layer_work
from passes.operators import RECURRENT

_ELEMENT = 10  # of what any operator writes
_MOMENTS = 100  # of what moments are taken of
_STEP = 4  # times: a recurrent layer multiplies frame by frame


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCost:
    """Of one sample, where not even one of a fixed batch can be left out of the others.

    Attributes:
        work: multiplications, or what takes as long.
        elements: that are written on the way.
        watched: of the values that are asked for.

    """

    work: int
    elements: int
    watched: int

    @property
    def with_moments(self) -> int:
        """Work, and that of taking the moments of all that is asked for."""
        return self.work + _MOMENTS * self.watched


def count_trial(model: ir.Model, values: Sequence[str]) -> TrialCost:
    """Count what a run costs that computes some values, for one sample; an open size counts as 1.

    What loops and branches compute inside is not known, and counts by what they return.
    """
    needed = _behind(model, values)
    layers = layer_work(model)
    outputs = [value for node in needed for value in node.outputs]
    elements = sum(map(_size, outputs))
    watched = sum(_size(value) for value in outputs if value.name in values)
    work = sum(layers.get(str(node.name), 0) + _recurrent_work(node) for node in needed)
    first = next((value.shape for value in model.graph.inputs if value.shape is not None), None)
    batch = first[0] if first is not None and len(first) and isinstance(first[0], int) else 1
    whole = work + _ELEMENT * elements
    share = max(batch, 1)
    return TrialCost(work=-(-whole // share), elements=-(-elements // share), watched=-(-watched // share))


def _behind(model: ir.Model, values: Sequence[str]) -> list[ir.Node]:
    """Nodes that some values are computed by."""
    makers = {value.name: node for node in model.graph for value in node.outputs}
    waiting, seen = list(values), dict[ir.Node, None]()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node not in seen:
            seen[node] = None
            waiting.extend(str(value.name) for value in node.inputs if value is not None)
    return list(seen)


def _recurrent_work(node: ir.Node) -> int:
    if node.op_type not in RECURRENT or len(node.inputs) < 3 or node.inputs[0] is None:
        return 0
    frames = _size(node.inputs[0]) // max(_last(node.inputs[0]), 1)
    return _STEP * frames * sum(_size(value) for value in node.inputs[1:3] if value is not None)


def _last(value: ir.Value) -> int:
    size = value.shape[-1] if value.shape is not None and len(value.shape) else 1
    return size if isinstance(size, int) else 1


def _size(value: ir.Value) -> int:
    return 0 if value.shape is None else math.prod(size if isinstance(size, int) else 1 for size in value.shape)
