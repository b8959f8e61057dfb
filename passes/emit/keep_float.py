"""Remove quantizers from a QDQ graph where integers cost more time than they save.

    x -> QuantizeLinear -> DequantizeLinear -> Conv (w: DequantizeLinear)   ->   x -> Conv (w: Cast -> Mul)

Layers that stay float keep the codes of their weights, and so the size of the file: a Cast and a Mul, which the runtime
folds when it opens the model, make them float, where a DequantizeLinear would run on every inference. Activation
quantizers stay where an integer kernel needs them: on all its inputs and on its output. What moves codes (Pad) moves
floats where no kernel reads them: else the codes of a waveform would be the largest noise of a file of float kernels.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.constants import constant_value
from passes.graph_pass import GraphPass
from passes.operators import WEIGHTED
from passes.quantize.shared_bias import bias_behind
from passes.quantizer_grid import along_axis, grid_of
from passes.surgery import (
    add_constant,
    dequantizer,
    input_at,
    is_standard,
    only_use,
    producer,
    remove_unread,
    rule_of,
    set_constant,
    set_type,
    standard_nodes,
)

_MOVERS = ("Pad", "SpaceToDepth")  # may stand between a QuantizeLinear and a DequantizeLinear, on codes


@dataclass(frozen=True, slots=True)
class KeepFloat(GraphPass):
    """Keep integer kernels for the layers that are named, and for other operators only if ``others``.

    Works on a graph as InsertQdq made it, before weights are packed.
    """

    target: Target
    layers: frozenset[str]
    others: bool = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove every quantizer that no kernel needs any more."""
        graph = model.graph
        sites = {site.value: site for node in graph if (site := _site(node)) is not None}
        kernels, needed = self._find_kernels(graph, set(sites))
        modified = False
        widened: dict[ir.Value, ir.Value] = {}  # of a weight that layers share
        for node in standard_nodes(graph, *WEIGHTED):
            if node not in kernels and _constant_weight(node) is not None:
                for position in range(1, len(node.inputs)):
                    modified |= widen(graph, node, position, widened)
        for value in [value for value in sites if value not in needed][::-1]:  # a site may read another's output
            sites[value].remove(graph)
            modified = True
        for node in standard_nodes(graph, *_MOVERS):
            modified |= _move_floats(graph, node, kernels)
        return ir.passes.PassResult(model, modified)

    def _find_kernels(self, graph: ir.Graph, quantized: set[ir.Value]) -> tuple[set[ir.Node], set[ir.Value]]:
        """Find the kernels that can stay in integers, and the values that these need quantized."""
        kernels = {node for node in graph if self._wanted(node)}
        while True:
            fitting = {node for node in kernels if self._fits(node, quantized)}
            needed = {value for node in fitting for value in self._around(node)} & quantized
            if fitting == kernels and needed == quantized:
                return kernels, quantized
            kernels, quantized = fitting, needed

    def _wanted(self, node: ir.Node) -> bool:
        rule = rule_of(node, self.target)
        if rule is None or rule.kind == "activation":
            return False
        if rule.kind == "weighted" and _constant_weight(node) is not None:
            return str(node.name) in self.layers
        return self.others

    def _fits(self, node: ir.Node, quantized: set[ir.Value]) -> bool:
        rule = rule_of(node, self.target)
        assert rule is not None
        free = rule.float_output or not self.target.quantize_results
        return all(value in quantized for value in _read(node)) and (free or self._made(node) in quantized)

    def _around(self, node: ir.Node) -> Iterator[ir.Value]:
        yield from _read(node)
        yield self._made(node)

    def _made(self, node: ir.Node) -> ir.Value:
        """Output of a kernel, or that of the activation that is fused into it."""
        use = only_use(node.outputs[0])
        rule = None if use is None else rule_of(use[0], self.target)
        fused = use is not None and rule is not None and rule.kind == "activation"
        return use[0].outputs[0] if use is not None and fused else node.outputs[0]


@dataclass(frozen=True, slots=True)
class _Site:
    """The nodes that quantize one value, QuantizeLinear first and DequantizeLinear last."""

    value: ir.Value
    nodes: tuple[ir.Node, ...]

    def remove(self, graph: ir.Graph) -> None:
        """Replace the dequantized value by the float one, clipped to the range of a quantizer of few bits.

        Such a quantizer may have replaced a Clip of the network.
        """
        last = self.nodes[-1]
        value = self._clipped(graph) if len(self.nodes) > 2 else self.value
        last.outputs[0].replace_all_uses_with(value)
        remove_unread(graph, last)

    def _clipped(self, graph: ir.Graph) -> ir.Value:
        first, last = self.nodes[0], self.nodes[-1]
        clip, grid = next(node for node in self.nodes if is_standard(node, "Clip")), grid_of(first)
        assert not isinstance(grid, str)
        limits = []
        for code, name in zip(clip.inputs[1:3], ("lowest", "highest"), strict=True):
            end = constant_value(code)
            assert end is not None
            limits.append(add_constant(graph, f"{self.value.name}_{name}", grid.real(end)))
        node = ir.node("Clip", [self.value, *limits], name=f"{self.value.name}_Limit")
        made = node.outputs[0]
        made.name, made.type, made.shape = f"{self.value.name}_limited", self.value.type, self.value.shape
        graph.insert_after(last, node)
        return made


def _move_floats(graph: ir.Graph, node: ir.Node, kernels: Set[ir.Node]) -> bool:
    """Let an operator that moves codes move the float value itself, where no kernel reads what it makes."""
    use, quantize = only_use(node.outputs[0]), producer(node, 0)
    if use is None or quantize is None or not is_standard(use[0], "DequantizeLinear"):
        return False
    dequantize, grid = use[0], grid_of(use[0])
    made = dequantize.outputs[0]
    if not is_standard(quantize, "QuantizeLinear") or isinstance(grid, str) or made.is_graph_output():
        return False  # codes of few bits are clipped between, and stay
    if any(one.node in kernels for one in made.uses()):
        return False
    moved, source = node.outputs[0], quantize.inputs[0]
    if is_standard(node, "Pad") and (fill := constant_value(input_at(node, 2))) is not None:
        set_constant(graph, node, 2, grid.real(fill), "fill")
    node.replace_input_with(0, source)
    set_type(moved, ir.DataType.FLOAT, moved.shape)
    made.replace_all_uses_with(moved)
    remove_unread(graph, dequantize)
    if not quantize.outputs[0].uses():
        remove_unread(graph, quantize)
    return True


def _site(node: ir.Node) -> _Site | None:
    """Return the nodes that quantize a value, up to a DequantizeLinear; None where its codes are read elsewhere."""
    if not is_standard(node, "DequantizeLinear") or node.outputs[0].is_graph_output():
        return None
    nodes, codes = [node], node.inputs[0]
    while codes is not None and len(codes.uses()) == 1 and (maker := codes.producer()) is not None:
        nodes.append(maker)
        if is_standard(maker, "QuantizeLinear") and maker.inputs[0] is not None:
            return _Site(maker.inputs[0], tuple(reversed(nodes)))
        if not is_standard(maker, "Clip"):
            return None
        codes = maker.inputs[0]
    return None


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Float inputs of a kernel: those in front of their quantizers, where there are any."""
    positions = range(1) if _constant_weight(node) is not None else range(len(node.inputs))
    for value in (node.inputs[position] for position in positions):
        if value is None or value.const_value is not None or not _is_float(value):
            continue
        maker = value.producer()
        site = None if maker is None else _site(maker)
        yield value if site is None else site.value


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.FLOAT)


def _constant_weight(node: ir.Node) -> ir.Node | None:
    """Return the DequantizeLinear of a layer's constant weight."""
    maker = dequantizer(node, 1) if is_standard(node, *WEIGHTED) else None
    return None if maker is None or constant_value(maker.inputs[0]) is None else maker


def widen(graph: ir.Graph, node: ir.Node, position: int, widened: dict[ir.Value, ir.Value]) -> bool:
    """Dequantize a constant of a layer by a Cast and a Mul, once for all layers in ``widened``."""
    maker = dequantizer(node, position)
    if maker is None:
        return False
    value, codes, scale = maker.outputs[0], maker.inputs[0], maker.inputs[1]
    if codes is None or scale is None or codes.shape is None:
        return False
    if (bias := bias_behind(codes)) is not None:
        widened[value] = bias
    elif codes.const_value is None:
        return False
    if value not in widened:
        widened[value] = _insert_product(graph, node, maker, codes, scale)
    node.replace_input_with(position, widened[value])
    if not value.uses():
        remove_unread(graph, maker)
    return True


def _insert_product(graph: ir.Graph, node: ir.Node, maker: ir.Node, codes: ir.Value, scale: ir.Value) -> ir.Value:
    """Insert in front of a layer what dequantizes a constant of it."""
    value, rank = maker.outputs[0], 0 if codes.shape is None else len(codes.shape)
    cast = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT.value}, name=f"{value.name}_Cast")
    factor = _factor(graph, scale, maker, rank)
    scaled = ir.node("Mul", [cast.outputs[0], factor], name=f"{value.name}_Widen")
    for made, kind in ((cast.outputs[0], "codes"), (scaled.outputs[0], "widened")):
        made.name = f"{value.name}_{kind}"
        set_type(made, ir.DataType.FLOAT, codes.shape)
    graph.insert_before(node, [cast, scaled])
    return scaled.outputs[0]


def _factor(graph: ir.Graph, scale: ir.Value, dequantizer: ir.Node, rank: int) -> ir.Value:
    """Return what codes are multiplied with: the scale, along its axis."""
    numbers = constant_value(scale)
    if numbers is None or numbers.ndim == 0 or rank < 2:
        return scale
    shaped = along_axis(np.asarray(numbers, np.float32), rank, dequantizer.attributes.get_int("axis", 1))
    return add_constant(graph, f"{scale.name}_factor", shaped)
