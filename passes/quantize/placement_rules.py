"""What a target's placement rules (``keep_float`` in its file) come to in a graph: structures, never names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from backends.target import Structure, Target
from passes.quantize.find_branches import attention_products, first_layers, squeeze_branches
from passes.quantize.find_decode_tails import decode_tails
from passes.quantize.float_regions import FloatRegion, power_region, score_region, spectrum_region

_FINDERS: Mapping[Structure, Callable[[ir.Graph], FloatRegion]] = {
    "powers": power_region,
    "softmax_input": score_region,
    "decode_tail": decode_tails,
    "spectrum": spectrum_region,
    "squeeze_excite": squeeze_branches,
    "attention": attention_products,
    "first_layer": first_layers,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptByRule:
    """What stays float, with the reason of the rule: ``FloatRegion`` for all rules of a target.

    Attributes:
        nodes: by node.
        values: by name.
        spared: names of the values whose makers keep an integer kernel that can make no float numbers.

    """

    nodes: Mapping[ir.Node, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()


def apply_rules(graph: ir.Graph, target: Target) -> KeptByRule:
    """Find what a target keeps in float; of several rules the first gives the reason."""
    nodes: dict[ir.Node, str] = {}
    values: dict[str, str] = {}
    bound: set[str] = set()
    for rule in target.keep_float:
        region = _FINDERS[rule.structure](graph)
        nodes = dict.fromkeys(region.nodes, rule.reason) | nodes
        values = dict.fromkeys(region.values, rule.reason) | values
        bound |= frozenset() if region.spared else region.values
    return KeptByRule(nodes=nodes, values=values, spared=frozenset(values.keys() - bound))
