"""What the user wants in float: patterns become nodes and values, and these keep integer kernels away from themselves.

A layer with weights reads float and makes float. Any other operator reads what there is, rounded where a kernel in
front of it makes integers, because leaving that unrounded would cost the layer in front its kernel; but it never stands
between quantizers on all of its inputs and on its output, where the runtime would take it for one of its kernels:

    Conv -> x -> Sigmoid -> y -> Mul(x, y) -> Conv      Sigmoid excluded: y stays float, and so Mul computes in float
    Sigmoid -> y -> Mul(x, y) -> Conv                   Mul excluded: y stays float, and so does the Sigmoid

Runtimes also quantize a float weight of a Conv, ConvTranspose or Gemm that stands between DequantizeLinear and
QuantizeLinear when they load the file, to int8 with one scale (see ``ort_cpu.toml``); float inputs prevent it.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from backends.target import Target
from passes.operators import DATA_MOVEMENT, WEIGHTED
from passes.surgery import input_at, is_constant, is_standard, only_use, producer, rule_of

REQUESTED = "it stays float, as requested"
BESIDE = "a value that it reads or makes stays float, as requested, so it runs in float"
_MOVING = (*DATA_MOVEMENT, "MaxPool")
_PASSING = (*_MOVING, "Relu", "Clip")  # runtimes carry quantizers past these


class PatternError(ValueError):
    """A pattern matches nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exclusion:
    """Names of the nodes that compute in float, and of the values that stay float with whatever makes or reads them."""

    nodes: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    def __or__(self, other: "Exclusion") -> "Exclusion":
        """Both."""
        return Exclusion(nodes=self.nodes | other.nodes, values=self.values | other.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptFloat:
    """What an exclusion comes to for a target.

    Attributes:
        nodes: that are excluded.
        values: that nothing quantizes.
        readers: by the name of a value, those of the nodes that read it in float where others read it quantized.

    """

    nodes: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    readers: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def touches(self, node: ir.Node) -> bool:
        """Whether a node reads or makes a value that nothing quantizes."""
        return any(value is not None and value.name in self.values for value in (*node.inputs, *node.outputs))


def _fitting(pattern: str, nodes: Iterable[ir.Node]) -> list[str]:
    """Names of the nodes that a pattern fits: those that have it as a name where there are any.

    A pattern has ``*``, ``?`` and ``[...]``, as of a file system, and capital letters count.
    """
    names = {str(node.name): _names(node) for node in nodes}
    exact = [name for name, own in names.items() if pattern in own]
    return exact or [name for name, own in names.items() if any(fnmatchcase(one, pattern) for one in own)]


def _names(node: ir.Node) -> tuple[str, ...]:
    """Return what a pattern may call a node: its name, its operator, and the names of its constants."""
    constants = (str(value.name) for value in node.inputs if value is not None and value.is_initializer())
    return str(node.name), node.op_type, *constants


def find_excluded(graph: ir.Graph, patterns: Sequence[str]) -> Exclusion:
    """Find what patterns name. Values count only where a pattern fits no node, so that ``/head/*`` ends with the head.

    Raises PatternError where one fits nothing.
    """
    found = Exclusion()
    values = [str(value.name) for value in (*graph.inputs, *(one for node in graph for one in node.outputs))]
    for pattern in patterns:
        nodes = frozenset(_fitting(pattern, graph))
        exact = {name for name in values if name == pattern}
        fitting = exact or {name for name in values if name and fnmatchcase(name, pattern)}
        named = frozenset() if nodes else frozenset(fitting)
        if not nodes and not named:
            raise PatternError(_unmatched(pattern, list(graph), "layer, operator or value", values))
        found |= Exclusion(nodes=nodes, values=named)
    return found


def find_layers_named(graph: ir.Graph, pattern: str, layers: Sequence[str]) -> tuple[str, ...]:
    """Names, among those of layers with weights, that a pattern fits. Raises PatternError where it fits none."""
    known = set(layers)
    nodes = [node for node in graph if node.name in known]
    found = tuple(_fitting(pattern, nodes))
    if not found:
        raise PatternError(_unmatched(pattern, nodes, "layer with weights to quantize", ()))
    return found


def with_sharers(graph: ir.Graph, excluded: Exclusion) -> Exclusion:
    """Add the layers that share a weight with an excluded one: it is stored once."""
    names = set(excluded.nodes)
    for node in graph:
        weight = input_at(node, 1) if is_standard(node, *WEIGHTED) else None
        if node.name in excluded.nodes and weight is not None and weight.const_value is not None:
            names |= {str(use.node.name) for use in weight.uses() if is_standard(use.node, *WEIGHTED)}
    return Exclusion(nodes=frozenset(names), values=excluded.values)


def keep_float(graph: ir.Graph, target: Target, excluded: Exclusion) -> KeptFloat:
    """Find what has to stay float for an exclusion: see the head of this file.

    A Relu or Clip that its target computes with the layer in front counts as a part of it: nothing is rounded between.
    """
    if not excluded.nodes and not excluded.values:
        return KeptFloat()
    fused = {node.name for node in graph if _is_fused(node, target, excluded)}
    work = _Release(target, excluded.nodes - fused, set(excluded.values))
    for node in graph:
        if node.name in work.nodes:
            work.release(node)
        elif any(value.name in excluded.values for value in node.outputs):
            work.release_maker(node)
        elif any(value is not None and value.name in excluded.values for value in node.inputs):
            work.release_reader(node)
    for value in (*graph.inputs, *(one for node in graph for one in node.outputs)):
        names = {str(use.node.name) for use in value.uses()}
        if names and names <= work.readers.get(str(value.name), set()) and not value.is_graph_output():
            work.values.add(str(value.name))
    kept = {name: frozenset(nodes) for name, nodes in work.readers.items()}
    return KeptFloat(nodes=frozenset(work.nodes), values=frozenset(work.values), readers=kept)


class _Release:
    """Collects values and readers that have to be float, node by node."""

    def __init__(self, target: Target, nodes: Set[str | None], values: set[str]) -> None:
        self.nodes = {str(name) for name in nodes}
        self.values = values
        self.readers: dict[str, set[str]] = {}
        self._target = target

    def release(self, node: ir.Node) -> None:
        """Keep quantizers away from a node that computes in float."""
        if is_standard(node, *WEIGHTED) and is_constant(node, 1):
            self._read_float(node, _data(node))
        elif rule_of(node, self._target) is not None:
            self._part(node)

    def release_maker(self, node: ir.Node) -> None:
        """Keep them away from what makes a value that stays float, where it is moved or squashed on the way to one."""
        if not is_standard(node, *WEIGHTED):
            self._part(node)
        elif any(is_standard(use.node, *_PASSING) for use in node.outputs[0].uses()):
            self._read_float(node, _data(node))

    def release_reader(self, node: ir.Node) -> None:
        """Leave what moves or squashes such a value in float as well; for all others one float input is enough."""
        if is_standard(node, *_PASSING):
            self.values.update(str(value.name) for value in node.outputs)

    def _part(self, node: ir.Node) -> None:
        """Leave the output in float, or one input where layers with weights read the output."""
        kernels, passed = self._behind(node)
        data = _data(node)
        if kernels and not any(is_standard(one, *WEIGHTED) for one in kernels):
            self.values.update(passed)
        elif kernels and data and not any(str(value.name) in self.values for value in data):
            cheap = (value for value in data if (maker := value.producer()) is not None and not _is_layer(maker))
            self._read_float(node, [next(cheap, data[0])])

    def _behind(self, node: ir.Node) -> tuple[list[ir.Node], set[str]]:
        """Kernels that read what a node makes, past activations and moves, and the names of the values between."""
        kernels, passed, stack = list[ir.Node](), set[str](), list(node.outputs)
        while stack:
            value = stack.pop()
            if str(value.name) in passed:
                continue
            passed.add(str(value.name))
            for reader in (use.node for use in value.uses()):
                if reader.name in self.nodes:
                    continue
                if is_standard(reader, *_PASSING):
                    stack += reader.outputs
                elif rule_of(reader, self._target) is not None:
                    kernels.append(reader)
        return kernels, passed

    def _read_float(self, node: ir.Node, values: Iterable[ir.Value]) -> None:
        """Let a node read values in float, also where they are only moved on the way."""
        for value in values:
            self.readers.setdefault(str(value.name), set()).add(str(node.name))
            maker = value.producer()
            if maker is not None and is_standard(maker, *_MOVING):
                self._read_float(maker, _data(maker)[:1])


def _data(node: ir.Node) -> list[ir.Value]:
    """Float inputs of a node that are no constants."""
    given = (value for value in node.inputs if value is not None and value.const_value is None)
    return [value for value in given if value.dtype in (None, ir.DataType.FLOAT)]


def _is_fused(node: ir.Node, target: Target, excluded: Exclusion) -> bool:
    """Whether a node is an activation that a layer in front computes which is not excluded itself."""
    rule, maker = rule_of(node, target), producer(node, 0)
    if rule is None or rule.kind != "activation" or maker is None or maker.name in excluded.nodes:
        return False
    return rule_of(maker, target) is not None and only_use(maker.outputs[0]) is not None


def _is_layer(node: ir.Node) -> bool:
    """Whether a node is a layer with weights, or the activation behind one."""
    if is_standard(node, "Relu", "Clip"):
        maker = None if node.inputs[0] is None else node.inputs[0].producer()
        return maker is not None and is_standard(maker, *WEIGHTED)
    return is_standard(node, *WEIGHTED)


def _unmatched(pattern: str, nodes: Sequence[ir.Node], wanted: str, values: Sequence[str]) -> str:
    kinds = sorted({node.op_type for node in nodes})
    plain = pattern.replace("*", "").replace("?", "").lower()
    lowered = {name.lower(): name for name in (*values, *(str(node.name) for node in nodes), *kinds)}
    near = [lowered[one] for one in difflib.get_close_matches(plain, list(lowered), n=3, cutoff=0.3)]
    hint = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
    return (
        f"the pattern {pattern!r} fits no {wanted} of this model, batch normalisation being folded{hint}; "
        f"operators there are {', '.join(kinds)}"
    )
