"""Restore the float model behind a model that computes in integers, wholly or in part.

    codes -> DequantizeLinear                        ->  float constant              fold_dequantizers.py
    QuantizeLinear -> moves -> DequantizeLinear      ->  Clip -> moves               relax_quantizers.py
    QLinearConv(...)                                 ->  the same two around a Conv  expand_qlinear.py
    DynamicQuantizeLinear, MatMulInteger, Cast, Mul  ->  MatMul                      restore_dynamic_layers.py

Weights are exactly those of the file, as they were rounded. Activations are no longer rounded, but still clipped.
Quantizers at the border, where codes go in or out of the graph, stay.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from passes.dequantize.expand_qlinear import ExpandQlinear
from passes.dequantize.fold_dequantizers import FoldDequantizers
from passes.dequantize.relax_quantizers import RelaxQuantizers
from passes.dequantize.restore_dynamic_layers import RestoreDynamicLayers
from passes.graph_pass import GraphPass, Outcome
from passes.normalize.name_nodes import NameNodes
from passes.operators import INTEGER, REARRANGING, WEIGHTED
from passes.plan import Refusal
from passes.quantizer_grid import Grid, constants_of, grid_of, is_quantizer
from passes.surgery import is_standard, producer, standard_nodes

_CONTRIB = "com.microsoft"
_CONTRIB_PARTS = ("QLinear", "QGemm", "QAttention", "QMoE", "NBits", "Integer", "Quantize", "BnB4", "Bfp")


@dataclass
class Restored(Outcome):
    """The float model, and what was done to get it.

    Attributes:
        layers: number of layers with constant weights.
        restored_layers: how many of them had integer weights.
        ranges: number of activation quantizers that were replaced.
        needless: how many of them needed no Clip.
        levels: fewest codes that one of these had, None where there was none.
        dynamic: how many of the restored layers were quantized dynamically.
        kept: names of the inputs and outputs of the graph that are codes, whose quantizers stay.

    """

    layers: int = 0
    restored_layers: int = 0
    ranges: int = 0
    needless: int = 0
    levels: int | None = None
    dynamic: int = 0
    kept: tuple[str, ...] = ()


class RestoreFloat(GraphPass):
    """Remove all quantizers that are not at the border; each that cannot be removed is refused.

    A model with refusals is not a float model, and not to be used.
    """

    def call(self, model: ir.Model) -> Restored:
        """Expand, fold and relax, in this order; a model without quantizers is not touched."""
        if not any(_is_quantized(node) for node in _all_nodes(model.graph)):
            return Restored(model, False)
        graph = model.graph
        modified = bool(common.RemoveInitializersFromInputsPass()(model).modified)
        modified |= bool(NameNodes()(model).modified)  # refusals are matched by name
        dynamic, fold, relax = RestoreDynamicLayers(), FoldDequantizers(), RelaxQuantizers()
        outcomes = [step.call(model) for step in (dynamic, ExpandQlinear(), fold, relax)]
        reasons = {(one.where, one.op_type): one.reason for outcome in outcomes for one in outcome.refusals}
        if any(outcome.modified for outcome in outcomes):
            common.RemoveUnusedNodesPass()(model)
            modified = True
        kept, border = _border(graph)
        modified |= _name_border(border)
        left = [node for node in _all_nodes(graph) if _is_quantized(node) and node not in border]
        layers = _layers(graph)
        folded = {value for value in (*fold.folded, *dynamic.folded) if value.uses()}
        return Restored(
            model,
            modified,
            tuple(_refusal(node, reasons) for node in left),
            layers=len(layers),
            restored_layers=sum(_comes_from(layer.inputs[1], folded) for layer in layers),
            ranges=relax.relaxed,
            needless=relax.needless,
            levels=relax.levels,
            dynamic=len(dynamic.folded),
            kept=kept,
        )


def _is_quantized(node: ir.Node) -> bool:
    if node.domain == _CONTRIB:
        return any(part in node.op_type for part in _CONTRIB_PARTS)
    return is_quantizer(node) or is_standard(node, *INTEGER)


def _all_nodes(graph: ir.Graph) -> Iterable[ir.Node]:
    """All nodes, those of inner graphs included."""
    return ir.traversal.RecursiveGraphIterator(graph)


def _layers(graph: ir.Graph) -> list[ir.Node]:
    constants = constants_of(graph)
    return [node for node in standard_nodes(graph, *WEIGHTED) if node.inputs[1] in constants]


def _comes_from(value: ir.Value | None, folded: set[ir.Value]) -> bool:
    """Tell whether a constant is one of those folded, or computed from one."""
    if value is None or value in folded:
        return value is not None
    node = value.producer()
    return node is not None and any(_comes_from(source, folded) for source in node.inputs)


def _border(graph: ir.Graph) -> tuple[tuple[str, ...], list[ir.Node]]:
    """Return the inputs and outputs that are codes, and the quantizers next to them, or with data movement between."""
    names, nodes = [], []
    for value in graph.inputs:
        found = _readers(value)
        if found:
            names.append(value.name or "")
            nodes.extend(found)
    for value in graph.outputs:
        maker = _maker(value)
        if maker is not None:
            names.append(value.name or "")
            nodes.append(maker)
    return tuple(names), list(dict.fromkeys(nodes))


def _readers(value: ir.Value) -> list[ir.Node]:
    """DequantizeLinear nodes behind an input, through data movement."""
    found, pending, seen = [], [value], set[ir.Value]()
    while pending:
        for node, position in pending.pop().uses():
            if _stays(node, "DequantizeLinear") and position == 0:
                found.append(node)
            elif _moves(node, position) and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return found


def _maker(value: ir.Value) -> ir.Node | None:
    """QuantizeLinear in front of an output, through data movement."""
    node = value.producer()
    while node is not None and _moves(node, 0):
        node = producer(node, 0)
    return node if node is not None and _stays(node, "QuantizeLinear") else None


def _stays(node: ir.Node, op_type: str) -> bool:
    """Tell whether a quantizer can stay: it is ONNX's own, and its parameters are constant."""
    return is_standard(node, op_type) and isinstance(grid_of(node), Grid)


def _moves(node: ir.Node, position: int) -> bool:
    return position == 0 and is_standard(node, *REARRANGING, "MaxPool")


def _name_border(nodes: list[ir.Node]) -> bool:
    """Give the quantizers that stay names that ``qdq_names`` does not make."""
    modified = False
    for node in nodes:
        if not (node.name or "").endswith("_border"):
            node.name = f"{node.name}_border"
            modified = True
    return modified


def _refusal(node: ir.Node, reasons: dict[tuple[str, str], str]) -> Refusal:
    where = node.name or ""
    reason = reasons.get((where, node.op_type))
    if reason is None and is_quantizer(node, "QuantizeLinear"):
        readers = [f"'{use.node.name}' ({use.node.op_type})" for use in node.outputs[0].uses()]
        reason = f"{' and '.join(readers[:2]) or 'something'} reads its codes and computes with them"
    return Refusal.of(node, reason or "what it computes in integers is not supported")
