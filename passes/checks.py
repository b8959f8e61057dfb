"""Invariants of graphs, checked after every pass and between stages, so that a mistake is found where it was made."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.operators import QUANTIZERS, WEIGHTED, WITH_BIAS
from passes.plan import Refusal
from passes.surgery import dequantizer, has_subgraph, input_at, is_standard, only_use, producer, standard_nodes
from passes.weight_layout import channel_axis

MINIMUM_OPSET = 21
_BIAS_TOLERANCE = 1e-6


class GraphInvariant(Enum):
    """What holds for a graph.

    WELL_FORMED, after every pass: nodes read graph inputs, initializers and what earlier nodes made; values that are
        made or fed have names, each its own.
    NORMALIZED, in front of harvesting, synthesis and folding: opset 21 or later; no Constant or control flow; unique
        node names; initializers are no inputs; the rank of every value known; no BatchNormalization in training mode.
    FOLDED, in front of placing quantizers: NORMALIZED, and no BatchNormalization that could be folded.
    EMITTED, in front of the runtime: every scale is constant, positive and finite; zero points have the type of the
        codes; a scale per channel has an axis that exists and is the layer's output axis, and blocks lie along another;
        an int32 bias has scale(data) * scale(weight).
    """

    WELL_FORMED = "well formed"
    NORMALIZED = "normalized"
    FOLDED = "folded"
    EMITTED = "emitted"


class IllegalGraphError(ValueError):
    """A graph violates an invariant; ``violations`` says where and why."""

    def __init__(self, invariant: GraphInvariant, violations: tuple[Refusal, ...]) -> None:
        super().__init__(f"the graph violates {invariant.name}: {describe(violations)}")
        self.violations = violations


def check(model: ir.Model, invariant: GraphInvariant) -> None:
    """Raise IllegalGraphError if the invariant does not hold."""
    if found := violations(model, invariant):
        raise IllegalGraphError(invariant, found)


def describe(found: tuple[Refusal, ...]) -> str:
    """Name the first three violations, and the number of the others."""
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(f"{item.op_type} '{item.where}': {item.reason}" for item in found[:3]) + more


def violations(model: ir.Model, invariant: GraphInvariant) -> tuple[Refusal, ...]:
    """Return every place where the invariant does not hold."""
    normalized = (_opset, _node_names, _operators, _inputs, _shapes)
    rules: dict[GraphInvariant, tuple[Callable[[ir.Model], Iterable[Refusal]], ...]] = {
        GraphInvariant.WELL_FORMED: (_wiring,),
        GraphInvariant.NORMALIZED: normalized,
        GraphInvariant.FOLDED: (*normalized, _unfolded),
        GraphInvariant.EMITTED: (_opset, _node_names, _quantizers, _weights, _biases),
    }
    return tuple(refusal for rule in rules[invariant] for refusal in rule(model))


def _wiring(model: ir.Model) -> Iterator[Refusal]:
    graph = model.graph
    known = {*graph.inputs, *graph.initializers.values()}
    names = {value.name for value in known}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                yield Refusal.of(node, f"no node before it makes '{value.name}', which it reads")
        for value in node.outputs:
            known.add(value)
            if value.name and value.name in names:
                yield Refusal.of(node, f"another value is called '{value.name}', too")
            elif not value.name and (value.uses() or value.is_graph_output()):
                yield Refusal.of(node, "an output of it is read, but has no name")
            names.add(value.name)
    for value in graph.outputs:
        if value not in known:
            yield Refusal(where=value.name or "", op_type="output", reason="no node makes it")


def _opset(model: ir.Model) -> Iterator[Refusal]:
    version = model.graph.opset_imports.get("")
    if version is None or version < MINIMUM_OPSET:
        reason = f"it uses opset {version}; wanted {MINIMUM_OPSET} or later"
        yield Refusal(where=model.graph.name or "", op_type="graph", reason=reason)


def _node_names(model: ir.Model) -> Iterator[Refusal]:
    counts = Counter(node.name for node in model.graph)
    for node in model.graph:
        if not node.name:
            yield Refusal.of(node, "it has no name")
        elif counts[node.name] > 1:
            yield Refusal.of(node, f"{counts[node.name]} nodes have this name")


def _operators(model: ir.Model) -> Iterator[Refusal]:
    for node in model.graph:
        if is_standard(node, "Constant"):
            yield Refusal.of(node, "constants must be initializers")
        elif is_standard(node, "BatchNormalization") and node.attributes.get_int("training_mode", 0) == 1:
            yield Refusal.of(node, "it is in training mode")
        elif has_subgraph(node):
            yield Refusal.of(node, "it holds a graph of its own")


def _inputs(model: ir.Model) -> Iterator[Refusal]:
    for value in model.graph.inputs:
        if value.is_initializer():
            yield Refusal(where=value.name or "", op_type="input", reason="an initializer is listed as a graph input")


def _shapes(model: ir.Model) -> Iterator[Refusal]:
    for node in model.graph:
        if any(value is not None and value.shape is None for value in node.inputs):
            continue  # it follows from another
        for value in node.outputs:
            if value.name and value.shape is None:
                yield Refusal.of(node, f"the shape of '{value.name}', which it makes, cannot be inferred")


def _unfolded(model: ir.Model) -> Iterator[Refusal]:
    for node in standard_nodes(model.graph, "BatchNormalization"):
        layer = producer(node, 0)
        if layer is None or not is_standard(layer, *WITH_BIAS):
            continue
        if only_use(layer.outputs[0]) is not None and constant_value(layer.inputs[1]) is not None:
            yield Refusal.of(node, f"it stands directly behind '{layer.name}' and is not folded into it")


def _quantizers(model: ir.Model) -> Iterator[Refusal]:
    for node in standard_nodes(model.graph, *QUANTIZERS):
        if (reason := _quantizer_fault(node)) is not None:
            yield Refusal.of(node, reason)


def _quantizer_fault(node: ir.Node) -> str | None:
    scale = constant_value(node.inputs[1])
    if scale is None:
        return "its scale is not constant"
    numbers = scale.astype(np.float64)
    if not np.isfinite(numbers).all() or not (numbers > 0).all():
        return f"its scale must be positive and finite, got {scale.reshape(-1)[:4].tolist()}"
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    zero = input_at(node, 2)
    if zero is not None:
        zeros = constant_value(zero)
        if zeros is None or zeros.shape != scale.shape:
            return f"its zero point must be constant and have the shape of its scale, {scale.shape}"
        if codes is not None and codes.dtype is not None and zero.dtype is not None and codes.dtype != zero.dtype:
            return f"its zero point is {zero.dtype.name}, its codes are {codes.dtype.name}"
        if zero.dtype == ir.DataType.INT32 and zeros.any():
            return "int32 codes must have the zero point 0"
    return _axis_fault(node, scale)


def _axis_fault(node: ir.Node, scale: NDArray[np.generic]) -> str | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    size = node.attributes.get_int("block_size", 0)
    if shape is None or (scale.ndim == 0 and not size):
        return None
    axis = node.attributes.get_int("axis", 1)
    if not -len(shape) <= axis < len(shape):
        return f"its axis {axis} does not exist in {shape}"
    if size == 0 and scale.shape != (shape[axis],):
        return f"it has {scale.size} scales for axis {axis} of {shape}"
    return None if size == 0 else _block_fault(shape, axis, size, scale)


def _block_fault(shape: ir.Shape, axis: int, size: int, scale: NDArray[np.generic]) -> str | None:
    if not shape.is_static():
        return "it has a scale for each block, and its shape is open"
    wanted = tuple(
        -(-length // size) if place == axis % len(shape) else length for place, length in enumerate(shape.numpy())
    )
    return None if scale.shape == wanted else f"its scales are {scale.shape}; blocks of {size} want {wanted}"


def _weights(model: ir.Model) -> Iterator[Refusal]:
    for node in standard_nodes(model.graph, *WEIGHTED):
        weight = dequantizer(node, 1)
        scale = constant_value(weight.inputs[1]) if weight is not None else None
        if weight is None or scale is None or scale.ndim == 0 or weight.inputs[0] is None:
            continue
        rank = len(weight.inputs[0].shape or ())
        axis = weight.attributes.get_int("axis", 1) % max(rank, 1)
        wanted = channel_axis(node, rank)
        if weight.attributes.get_int("block_size", 0):
            if axis == wanted:
                yield Refusal.of(node, f"its weight has blocks along axis {axis}, where its outputs are")
        elif constant_value(weight.inputs[0]) is not None and axis != wanted:
            place = "along no single axis" if wanted is None else f"axis {wanted}"
            yield Refusal.of(node, f"its weight has a scale for every index of axis {axis}; its outputs are {place}")


def _biases(model: ir.Model) -> Iterator[Refusal]:
    for node in standard_nodes(model.graph, *WITH_BIAS):
        bias = dequantizer(node, 2)
        if bias is None or bias.inputs[0] is None or bias.inputs[0].dtype != ir.DataType.INT32:
            continue
        factors = [dequantizer(node, 0), dequantizer(node, 1), bias]
        scales = [constant_value(factor.inputs[1]) if factor is not None else None for factor in factors]
        data, weight, own = scales
        if data is None or weight is None or own is None:
            yield Refusal.of(node, "its bias is int32, but its data or its weight is not quantized")
            continue
        wanted = data.astype(np.float64) * weight.astype(np.float64)
        if own.size not in (1, wanted.size) or not np.allclose(own, wanted, rtol=_BIAS_TOLERANCE, atol=0.0):
            yield Refusal.of(node, "the scale of its int32 bias is not the product of those of its data and its weight")
