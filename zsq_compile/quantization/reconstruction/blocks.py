"""Cut a network into the blocks that are learned one after the other (BRECQ, Li et al. 2021, section 3.2).

A block is a run of nodes in graph order. Between two blocks a network is cut where a single value crosses, so residual
and inverted residual blocks come out whole, whatever their class was called. Where a stretch without such a cut holds
too many layers to be learned together (a pyramid of detection heads), it is cut behind its layers one by one, and
several values cross. A depthwise layer stays with the layer behind it, and with one before it that widens it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from passes.plan import QuantizationPlan, WeightSite

_MOST_LAYERS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Nodes that are learned together.

    Attributes:
        name: of its last weighted node.
        inputs: names of the float values that enter from the blocks before it, or from outside the network.
        outputs: names of the values made in it that later blocks or the outside read; their first axis counts samples.
        layers: its weighted layers.
        weights: initializers that no other layers than these read, so that they can be learned here.
        values: names of all values that it makes.
        read: names of all values that its nodes read.

    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[WeightSite, ...]
    weights: frozenset[str]
    values: frozenset[str]
    read: frozenset[str]


def find_blocks(model: ir.Model, plan: QuantizationPlan, batched: Collection[str]) -> tuple[Block, ...]:
    """Cut a float model into blocks that cover all its nodes, in graph order.

    ``batched`` names the values whose first axis counts samples; no other may cross a cut. Every value that crosses one
    is a float graph input or a value that the plan quantizes, so it has the same name before and after quantization.
    There is a weighted layer in each block, unless the model has none.
    """
    cuts = _Cuts(model, plan, batched)
    stops = [place for place in range(1, len(cuts.nodes)) if len(cuts.crossing(place)) == 1 and cuts.allowed(place)]
    stops = _with_layers([*stops, len(cuts.nodes)], cuts)
    stops = _split_long(_depthwise_together(stops, cuts), cuts)
    return tuple(_block(cuts, start, stop) for start, stop in zip([0, *stops], stops, strict=False))


def whole_network(model: ir.Model, plan: QuantizationPlan, batched: Collection[str]) -> Block:
    """Take a float model as one block, from its inputs to those outputs whose first axis counts samples."""
    cuts = _Cuts(model, plan, batched)
    return _block(cuts, 0, len(cuts.nodes))


class _Cuts:
    """What crosses each place between two nodes of a graph."""

    def __init__(self, model: ir.Model, plan: QuantizationPlan, batched: Collection[str]) -> None:
        self.nodes = list(model.graph)
        self.outputs = {str(value.name) for value in model.graph.outputs} & set(batched)
        self.layers = {site.node: site for site in plan.weights}
        self.sites = {name: set(sites) for name, sites in plan.sites_by_weight().items()}
        moved = {site.value for site in plan.activations if site.moved_from is not None}
        inputs = [value for value in model.graph.inputs if not value.is_initializer()]
        quantized = {site.value for site in plan.activations} - moved
        self._safe = (quantized | {str(value.name) for value in inputs}) & set(batched)
        self._last_use: dict[str, int] = {}
        self._values = {str(value.name): value for value in inputs}
        self._made = {str(value.name): 0 for value in inputs}
        for place, node in enumerate(self.nodes):
            for value in _reads(node):
                if str(value.name) in self._made:
                    self._last_use[str(value.name)] = place
            if any(str(value.name) in self._made for value in _reads(node)):  # else it is a constant
                self._made.update({str(value.name): place + 1 for value in node.outputs if value.name})

    def crossing(self, place: int) -> tuple[str, ...]:
        """Values made before a place and read at or behind it."""
        return tuple(name for name, made in self._made.items() if made <= place <= self._last_use.get(name, -1))

    def allowed(self, place: int) -> bool:
        """Whether every value that crosses can be fed to the float and to the quantized graph."""
        return all(name in self._safe for name in self.crossing(place))

    def layers_in(self, start: int, stop: int) -> list[WeightSite]:
        """Weighted layers of a run of nodes."""
        return [self.layers[str(node.name)] for node in self.nodes[start:stop] if node.name in self.layers]

    def node_of(self, layer: WeightSite) -> ir.Node:
        """Node of a layer."""
        return next(node for node in self.nodes if node.name == layer.node)


def _reads(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _with_layers(stops: Sequence[int], cuts: _Cuts) -> list[int]:
    """Let runs without a layer join the one before them; those at the start join the one behind."""
    kept: list[int] = []
    for stop in stops:
        if cuts.layers_in(kept[-1] if kept else 0, stop) or not kept:
            kept.append(stop)
        else:
            kept[-1] = stop
    while len(kept) > 1 and not cuts.layers_in(0, kept[0]):
        kept.pop(0)
    return kept


def _depthwise_together(stops: Sequence[int], cuts: _Cuts) -> list[int]:
    kept: list[int] = []
    start = 0
    for position, stop in enumerate(stops):
        layers = cuts.layers_in(start, stop)
        behind = cuts.layers_in(stop, stops[position + 1]) if position + 1 < len(stops) else []
        ends_depthwise = bool(layers) and _groups(cuts.node_of(layers[-1])) > 1
        widens = len(layers) == 1 and len(behind) == 1 and _widens(cuts, layers[0], behind[0])
        if behind and (ends_depthwise or widens) and len(layers) + len(behind) <= _MOST_LAYERS:
            continue
        kept.append(stop)
        start = stop
    return kept


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1


def _widens(cuts: _Cuts, layer: WeightSite, behind: WeightSite) -> bool:
    """Whether a pointwise layer makes more channels than it reads, for the depthwise layer behind it."""
    node = cuts.node_of(layer)
    weight = node.inputs[1]
    if _groups(cuts.node_of(behind)) == 1 or node.op_type != "Conv" or weight is None or weight.shape is None:
        return False
    sizes = weight.shape.numpy()
    return int(sizes[0]) > 2 * int(sizes[1]) and all(size == 1 for size in sizes[2:])


def _split_long(stops: Sequence[int], cuts: _Cuts) -> list[int]:
    kept: list[int] = []
    start = 0
    for stop in stops:
        if len(cuts.layers_in(start, stop)) > _MOST_LAYERS:
            kept.extend(_behind_layers(start, stop, cuts))
        kept.append(stop)
        start = stop
    return kept


def _behind_layers(start: int, stop: int, cuts: _Cuts) -> list[int]:
    """Places inside a run behind each of its layers but the last, as soon as a cut is allowed there."""
    places: list[int] = []
    for place in range(start + 1, stop):
        fresh = cuts.layers_in(places[-1] if places else start, place)
        if fresh and cuts.layers_in(place, stop) and cuts.allowed(place):
            places.append(place)
    return places


def _block(cuts: _Cuts, start: int, stop: int) -> Block:
    made = {str(value.name) for node in cuts.nodes[start:stop] for value in node.outputs if value.name}
    read = {str(value.name) for node in cuts.nodes[start:stop] for value in _reads(node)}
    layers = cuts.layers_in(start, stop)
    behind = cuts.crossing(stop) if stop < len(cuts.nodes) else ()
    return Block(
        name=layers[-1].node if layers else str(cuts.nodes[stop - 1].name),
        inputs=tuple(name for name in cuts.crossing(start) if name in read),
        outputs=tuple(name for name in (*behind, *sorted(cuts.outputs - set(behind))) if name in made),
        layers=tuple(layers),
        weights=frozenset(name for name in {site.initializer for site in layers} if cuts.sites[name] <= set(layers)),
        values=frozenset(made),
        read=frozenset(read),
    )
