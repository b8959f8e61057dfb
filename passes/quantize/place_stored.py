"""Decide which large constants of operators that compute in float are stored in integers all the same.

The runtime widens them once, when it opens the file: the arithmetic, and its time, stay those of the float model. Each
row along the last axis has a scale of its own, which needs no data.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from backends.target import NumberFormat, Target
from passes.plan import Refusal, StoredSite
from passes.surgery import input_at, is_standard

_LEAST_ELEMENTS = 1024  # what a smaller one would save is little more than the nodes that widen it take
_LEAST_ROW = 8  # a scale takes four bytes


def place_stored(
    model: ir.Model, target: Target, *, matrices: NumberFormat, tables: NumberFormat
) -> tuple[StoredSite, ...]:
    """Find the constants, each once, by the target's rules.

    Args:
        model: a folded float model.
        target: says which inputs of which operators.
        matrices: format of what is multiplied, as in recurrent layers.
        tables: format of the rows that a Gather looks up: they are what the layers behind it get, as images are.

    """
    found: dict[str, StoredSite] = {}
    for node in model.graph:
        rule = next((rule for rule in target.stored if is_standard(node, rule.op_type)), None)
        for position in rule.inputs if rule is not None else ():
            value = input_at(node, position)
            if value is not None and value.name not in found and _is_worthwhile(value):
                number_format = tables if node.op_type == "Gather" else matrices
                site = StoredSite(node=str(node.name), initializer=str(value.name), number_format=number_format)
                found[site.initializer] = site
    return tuple(found.values())


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
