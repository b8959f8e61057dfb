"""Decide which large constants of operators that compute in float are stored in integers all the same.

The runtime widens them once, when it opens the file: the arithmetic, and its time, stay those of the float model. Each
row along the last axis has a scale of its own, which needs no data.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from backends.target import NumberFormat, Target
from passes.plan import Refusal, StoredSite, WeightSite
from passes.surgery import input_at, is_standard

_LEAST_ELEMENTS = 1024  # what a smaller one would save is little more than the nodes that widen it take
_LEAST_ROW = 8  # a scale takes four bytes


def place_stored(
    model: ir.Model,
    target: Target,
    weights: Sequence[WeightSite],
    *,
    matrices: NumberFormat,
    tables: NumberFormat,
    excluded: Set[str] = frozenset(),
) -> tuple[StoredSite, ...]:
    """Find the constants, each once, by the target's rules.

    Args:
        model: a folded float model.
        target: says which inputs of which operators.
        weights: of layers; a constant that holds the numbers of one of them shares its codes.
        matrices: format of what is multiplied, as in recurrent layers.
        tables: format of the rows that a Gather looks up: they are what the layers behind it get, as images are.
        excluded: names of nodes whose constants stay float.

    """
    found: dict[str, StoredSite] = {}
    for node in model.graph:
        rule = next((rule for rule in target.stored if is_standard(node, rule.op_type)), None)
        for position in rule.inputs if rule is not None else ():
            value = input_at(node, position)
            kept = value is not None and any(use.node.name in excluded for use in value.uses())
            if value is not None and not kept and value.name not in found and _is_worthwhile(value):
                number_format = tables if node.op_type == "Gather" else matrices
                twin = _find_twin(model.graph, value, weights)
                found[str(value.name)] = StoredSite(
                    node=str(node.name),
                    initializer=str(value.name),
                    number_format=number_format if twin is None else twin.number_format,
                    tied=None if twin is None else twin.initializer,
                )
    return tuple(found.values())


def _find_twin(graph: ir.Graph, value: ir.Value, weights: Sequence[WeightSite]) -> WeightSite | None:
    """Find the weight that has the channels of a matrix's rows, and the same numbers."""
    if value.const_value is None or len(value.const_value.shape) != 2:
        return None
    table = value.const_value.numpy()
    for site in weights:
        weight = graph.initializers[site.initializer].const_value
        if weight is None or site.axis is None or len(weight.shape) != 2:
            continue
        rows = weight.numpy() if site.axis == 0 else weight.numpy().T
        if rows.shape == table.shape and np.array_equal(rows, table):
            return site
    return None


def say_stored(refusals: Sequence[Refusal], sites: Sequence[StoredSite]) -> tuple[Refusal, ...]:
    """Add to the refusals of the operators that their constants are stored in integers."""
    nodes, words = {site.node for site in sites}, "its constants are stored in integers, and widened at load"
    return tuple(replace(one, reason=f"{one.reason}; {words}") if one.where in nodes else one for one in refusals)


def _is_worthwhile(value: ir.Value) -> bool:
    if value.const_value is None or not value.is_initializer() or value.is_graph_output():
        return False
    shape = value.const_value.shape.numpy()
    large = math.prod(shape) >= _LEAST_ELEMENTS and len(shape) > 1 and shape[-1] >= _LEAST_ROW
    return large and value.const_value.dtype == ir.DataType.FLOAT
