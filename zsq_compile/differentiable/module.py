"""TorchGraph: runs an ``onnx_ir.Model`` in torch, eagerly and differentiably, whole or in part."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import onnx_ir as ir
import torch

from passes.analysis.find_uneven_values import find_uneven_values
from passes.surgery import captured, has_subgraph
from zsq_compile.differentiable.arguments import TORCH_TYPES, Input, Kernel, describe
from zsq_compile.differentiable.constants import to_tensor
from zsq_compile.differentiable.fake_quantize import find_chains, fuse
from zsq_compile.differentiable.table import build_kernel
from zsq_compile.errors import ExecutionError, UnsupportedModelError

Visit: TypeAlias = Callable[[ir.Node, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...] | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One node: its kernel, and the names of its inputs ("" where one is left out) and outputs."""

    node: ir.Node
    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A call within one schedule: names of its outputs ("" where nobody reads them), and values to free after it."""

    call: _Call
    keep: tuple[str, ...]
    free: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A graph inside a model that is not its main one: the body of an If, Loop or Scan, or a function.

    Attributes:
        graph: its nodes.
        opsets: versions by domain.
        outer: names of values that it reads from outside, to be fed beside its own inputs.

    """

    graph: ir.Graph
    opsets: Mapping[str, int]
    outer: tuple[str, ...] = ()


class TorchGraph:
    """An ONNX graph as a differentiable torch function.

    The model is read once, at construction; later changes of it have no effect. Batch and other open sizes follow the
    feeds. QuantizeLinear gives a float tensor of integer codes, straight-through, so that gradients reach inputs and
    scales; everything else has ONNX's types. Initializers are on ``device``, but int64 ones (shapes) on the CPU. With
    ``part`` that graph is run in the place of the main one.

    Attributes:
        model: the model.
        input_names: graph inputs that are not initializers.
        output_names: graph outputs.
        initializers: the constants by name; later runs use entries that are replaced here. A tensor that holds sizes or
            axes must be replaced, not changed in place.
        device: of floating-point work and of the feeds.

    Raises:
        UnsupportedModelError: a node cannot be executed; the message names it, its operator and opset.

    """

    def __init__(self, model: ir.Model, *, device: torch.device | str = "cpu", part: Part | None = None) -> None:
        part = part or Part(model.graph, model.opset_imports)
        graph = part.graph
        self.model = model
        self.device = torch.device(device)
        self.initializers: dict[str, torch.Tensor] = {
            name: _initializer(value, self.device) for name, value in graph.initializers.items()
        }
        self.input_names: tuple[str, ...] = tuple(
            name for name in (*map(_name, graph.inputs), *part.outer) if name not in self.initializers
        )
        self.output_names: tuple[str, ...] = tuple(map(_name, graph.outputs))
        self._integer_outputs = {
            _name(value): TORCH_TYPES[value.dtype]
            for value in graph.outputs
            if value.dtype is not None
            and value.dtype in TORCH_TYPES
            and not TORCH_TYPES[value.dtype].is_floating_point
            and value.dtype != ir.DataType.BOOL
        }
        self._calls = tuple(_prepare(node, model, part.opsets, self.device) for node in graph)
        self._chains = find_chains([call.node for call in self._calls])
        self._producers = {name: index for index, call in enumerate(self._calls) for name in call.outputs if name}
        self._schedules: dict[tuple[frozenset[str], tuple[str, ...]], tuple[_Step, ...]] = {}

    @cached_property
    def even_outputs(self) -> tuple[str, ...]:
        """Graph outputs but those whose size depends on the data."""
        uneven = find_uneven_values(self.model)
        return tuple(name for name in self.output_names if name not in uneven)

    def run(
        self,
        feeds: Mapping[str, torch.Tensor],
        outputs: Sequence[str] | None = None,
        *,
        replace: Mapping[str, torch.Tensor] | None = None,
        visit: Visit | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute named values from named values; only the nodes between them run.

        Args:
            feeds: tensors for any values, inner ones included.
            outputs: names of any values, feeds and initializers included; default: the graph outputs.
            replace: initializers for this call only, such as torch Parameters; gradients flow to them.
            visit: called after each node with the node and its outputs, which it may replace by what it returns. A
                quantizer and its dequantizer run as one, the latter, where nothing else reads the codes.

        Returns:
            The wanted values by name; graph outputs have the type that they are declared with.

        Raises:
            KeyError: a name is not in the graph, or a needed value is neither fed nor computable.
            ExecutionError: a node failed on its inputs; the message names it.

        """
        wanted = self.output_names if outputs is None else tuple(outputs)
        values = self._constants(replace or {})
        values.update(feeds)
        for step in self._schedule(frozenset(feeds), wanted):
            call = step.call
            arguments = [values[name] if name else None for name in call.inputs]
            try:
                made = call.kernel(*arguments)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                    raise  # no fault of the node's
                raise _failure(call.node, arguments, error) from error
            results = made if isinstance(made, tuple) else (made,)
            if visit is not None:
                changed = visit(call.node, results)
                results = results if changed is None else changed
            for name, result in zip(step.keep, results, strict=False):
                if name:
                    values[name] = result
            for name in step.free:
                del values[name]
        return {name: self._finish(name, values[name]) for name in wanted}

    def _constants(self, replace: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if unknown := sorted(replace.keys() - self.initializers.keys()):
            raise KeyError(f"replace names {unknown}, but the graph has no initializers of these names")
        return {**self.initializers, **replace}

    def _finish(self, name: str, value: torch.Tensor) -> torch.Tensor:
        declared = self._integer_outputs.get(name)
        return value.to(declared) if declared is not None and value.is_floating_point() else value

    def _schedule(self, feeds: frozenset[str], wanted: tuple[str, ...]) -> tuple[_Step, ...]:
        key = (feeds, wanted)
        if key not in self._schedules:
            known = self._producers.keys() | self.initializers.keys() | set(self.input_names)
            if unknown := sorted(feeds - known):
                raise KeyError(f"feeds name {unknown}, but the graph has no values of these names")
            self._schedules[key] = self._lay_out(self._needed(feeds, wanted), feeds, wanted)
        return self._schedules[key]

    def _needed(self, feeds: frozenset[str], wanted: tuple[str, ...]) -> list[int]:
        """Return the indices of the calls that lead from ``feeds`` to ``wanted``, in graph order."""
        needed: set[int] = set()
        pending = list(wanted)
        while pending:
            name = pending.pop()
            if name in feeds or name in self.initializers:
                continue
            index = self._producers.get(name)
            if index is None:
                fed = ", ".join(sorted(feeds)) or "nothing"
                kind = "graph input" if name in self.input_names else "value"
                raise KeyError(f"{kind} {name!r} is needed, but it is not fed and no node makes it; fed: {fed}")
            if index not in needed:
                needed.add(index)
                pending.extend(source for source in self._calls[index].inputs if source)
        return sorted(needed)

    def _lay_out(self, needed: list[int], feeds: frozenset[str], wanted: tuple[str, ...]) -> tuple[_Step, ...]:
        """Make the steps of a schedule: fuse quantizers, free each computed value after its last reader."""
        calls = self._fused({index: self._calls[index] for index in needed}, feeds | set(wanted))
        last_use = {name: index for index, call in calls.items() for name in call.inputs if name}
        steps = []
        for index, call in calls.items():
            keep = tuple(
                name if name not in feeds and (name in last_use or name in wanted) else "" for name in call.outputs
            )
            free = tuple(
                name
                for name in dict.fromkeys(call.inputs)
                if last_use.get(name) == index and name in self._producers and name not in feeds and name not in wanted
            )
            steps.append(_Step(call, keep, free))
        return tuple(steps)

    def _fused(self, calls: dict[int, _Call], named: Set[str]) -> dict[int, _Call]:
        """Fuse each quantizer with its dequantizer, unless a value between them is named."""
        for place, inner in self._chains.items():
            members = [calls.get(index) for index in inner]
            if place not in calls or not all(call and call.outputs[0] not in named for call in members):
                continue
            chain = [calls.pop(index) for index in inner]
            limits = [name for call in chain[1:] for name in call.inputs[1:]]
            kernel = fuse(chain[0].node, [call.kernel for call in (*chain, calls[place])])
            calls[place] = _Call(calls[place].node, kernel, (*chain[0].inputs, *limits), calls[place].outputs)
        return calls


def _failure(node: ir.Node, arguments: Sequence[Input], error: Exception) -> ExecutionError:
    given = ", ".join("-" if one is None else f"{str(one.dtype)[6:]}{list(one.shape)}" for one in arguments)
    reason = str(error).strip().split("\n")[0]
    return ExecutionError(f"{describe(node)} cannot be computed on {given or 'no inputs'}: {reason}")


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name


def _prepare(node: ir.Node, model: ir.Model, opsets: Mapping[str, int], device: torch.device) -> _Call:
    inputs = list(map(_name, node.inputs))
    while inputs and not inputs[-1]:
        inputs.pop()
    if (function := model.functions.get(node.op_identifier())) is not None:
        part = Part(function.graph, function.opset_imports)
        return _Call(node, _callable(model, part, device), tuple(inputs), tuple(map(_name, node.outputs)))
    # onnx_ir writes the standard domain as "" on nodes, but leaves the model's imports as they were
    opset = opsets.get(node.domain) if node.domain or "" in opsets else opsets.get("ai.onnx")
    kernel, host = build_kernel(node, opset)
    if has_subgraph(node):
        outer = tuple(map(_name, captured(node)))
        kernel = _with_bodies(kernel, len(inputs), _callable_bodies(node, model, opsets, device))
        inputs += outer
    if device.type != "cpu":
        kernel = _on_device(kernel, host, device)
    return _Call(node, kernel, tuple(inputs), tuple(map(_name, node.outputs)))


def _callable(model: ir.Model, part: Part, device: torch.device) -> Kernel:
    """Make a function of a part of the model: its inputs and then its outer values, in order."""
    graph = TorchGraph(model, device=device, part=part)

    def run(*arguments: Input) -> tuple[torch.Tensor, ...]:
        given = zip(graph.input_names, arguments, strict=False)
        made = graph.run({name: value for name, value in given if value is not None})
        return tuple(made[name] for name in graph.output_names)

    return run


def _callable_bodies(
    node: ir.Node, model: ir.Model, opsets: Mapping[str, int], device: torch.device
) -> dict[str, Kernel]:
    """Make functions of the bodies of a node, by attribute."""
    outer = tuple(map(_name, captured(node)))
    graphs = {name: attr.as_graph() for name, attr in node.attributes.items() if attr.type == ir.AttributeType.GRAPH}
    return {name: _callable(model, Part(graph, opsets, outer), device) for name, graph in graphs.items()}


def _with_bodies(kernel: Kernel, count: int, bodies: Mapping[str, Kernel]) -> Kernel:
    """Give a kernel the bodies of its node; the values that these capture are read behind the node's own inputs."""

    def run(*arguments: Input) -> torch.Tensor | tuple[torch.Tensor, ...]:
        own, outer = arguments[:count], arguments[count:]
        called = {name: _behind(body, outer) for name, body in bodies.items()}
        return kernel(called, *own)

    return run


def _behind(body: Kernel, outer: tuple[Input, ...]) -> Kernel:
    return lambda *own: body(*own, *outer)


def _on_device(kernel: Kernel, host: tuple[int, ...], device: torch.device) -> Kernel:
    """Bring CPU tensors (sizes, indices) to the device for kernels that mix them with tensors there."""

    def run(*arguments: Input) -> torch.Tensor | tuple[torch.Tensor, ...]:
        movable = {place: value for place, value in enumerate(arguments) if value is not None and place not in host}
        if all(value.device.type == "cpu" for value in movable.values()):
            return kernel(*arguments)
        return kernel(*(movable[place].to(device) if place in movable else x for place, x in enumerate(arguments)))

    return run


def _initializer(value: ir.Value, device: torch.device) -> torch.Tensor:
    constant = value.const_value
    if constant is None:
        raise UnsupportedModelError(
            f"initializer {value.name!r} has no data; load the model together with its external data"
        )
    tensor = to_tensor(constant)
    return tensor if tensor.dtype == torch.int64 else tensor.to(device)
