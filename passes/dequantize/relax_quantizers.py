"""Remove the rounding of quantized activations, and keep the clipping.

    x -> QuantizeLinear -> DequantizeLinear -> y          ->  x -> Clip(low, high) -> y
    x -> QuantizeLinear -> MaxPool... -> DequantizeLinear ->  x -> Clip(low, high) -> MaxPool... -> y
    Relu(x) -> QuantizeLinear -> DequantizeLinear -> y    ->  x -> Clip(max(low, 0), high) -> y

        low = (lowest code - zero point) * scale,  high = (highest code - zero point) * scale

The limits may be all that is left of a Relu that was fused into a quantizer. So the Clip is left out only where the
graph shows that x stays within half a scale of them, which rounding would have taken off as well.
"""

from collections.abc import Iterator, Set
from enum import Enum, auto

import numpy as np
import onnx_ir as ir

from passes.graph_pass import NodePass, Outcome
from passes.operators import DATA_MOVEMENT
from passes.quantizer_grid import Grid, code_range, constant_codes, constants_of, grid_of, is_quantizer
from passes.surgery import add_constant, free_name, input_at, is_standard, producer, set_type, take_over
from passes.value_ranges import Bounds, bounds, clip_limits, is_blend, within

_CLIP_WITH_INPUTS = 11  # first opset whose Clip takes its limits as inputs
# Operators that pass codes on without computing with them, and which of their inputs are codes: None is all.
_MOVERS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys((*DATA_MOVEMENT, "MaxPool", "Resize"), (0,)),
    **dict.fromkeys(("Concat", "Max", "Min"), None),
    "Pad": (0, 2),
    "Clip": (0, 1, 2),
    "Where": (1, 2),
}


class _Source(Enum):
    """Where codes come from."""

    QUANTIZER = auto()
    CONSTANT = auto()
    INPUT = auto()


class RelaxQuantizers(NodePass):
    """Replace every DequantizeLinear behind quantizers by the clipped float value; others are refused.

    1. Several may read one QuantizeLinear: they share its Clip.
    2. Between the two may stand data movement, with constants (a padding, a limit) among what is moved.
    3. ArgMax and ArgMin of codes become those of the floats.
    4. Codes that are an input of the graph stay codes, and so does what leads to an output of the graph.

    After a call ``relaxed`` counts the QuantizeLinear nodes that were replaced, ``needless`` those of them that needed
    no Clip, and ``levels`` is the fewest codes that one of them had. Nodes that nobody reads any more are left for a
    later pass.
    """

    relaxed = 0
    needless = 0
    levels: int | None = None

    def call(self, model: ir.Model) -> Outcome:
        """Replace all nodes."""
        self.relaxed, self.needless, self.levels = 0, 0, None
        self._graph = model.graph
        self._opset = model.graph.opset_imports.get("") or _CLIP_WITH_INPUTS
        self._constants = constants_of(model.graph)
        self._made: dict[tuple[ir.Value, object], ir.Value] = {}  # float values by codes and grid
        return super().call(model)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Replace the node, or the codes that it compares; not where they are input codes, or none at all."""
        if is_quantizer(node, "DequantizeLinear"):
            return self._replace(node)
        if is_standard(node, "ArgMax", "ArgMin") and node.inputs[0] is not None:
            return self._compare_floats(node, node.inputs[0])
        return False

    def _replace(self, node: ir.Node) -> bool | str:
        grid, codes, output = grid_of(node), node.inputs[0], node.outputs[0]
        if isinstance(grid, str):
            return grid
        assert codes is not None
        relaxed = self._relaxed(codes, grid)
        if not isinstance(relaxed, ir.Value):
            return relaxed
        if output.is_graph_output():
            # outputs belong to nodes of their own
            same = ir.node("Identity", [relaxed], name=node.name)
            set_type(same.outputs[0], ir.DataType.FLOAT, output.shape)
            self._graph.insert_before(node, same)
            take_over(output, same.outputs[0])
        else:
            output.replace_all_uses_with(relaxed)
        self._graph.remove(node, safe=True)
        return True

    def _compare_floats(self, node: ir.Node, codes: ir.Value) -> bool | str:
        maker = codes.producer()
        while maker is not None and is_standard(maker, *_MOVERS):
            maker = producer(maker, _moved_inputs(maker)[0])
        if maker is None or not is_quantizer(maker, "QuantizeLinear"):
            return False
        grid = grid_of(maker)
        if isinstance(grid, str):
            return grid
        relaxed = self._relaxed(codes, grid)
        if not isinstance(relaxed, ir.Value):
            return relaxed
        node.replace_input_with(0, relaxed)
        return True

    def _relaxed(self, codes: ir.Value, grid: Grid) -> ir.Value | bool | str:
        """Float value of codes that are read on a grid, False for input codes, or why there is none."""
        sources = set(_sources(codes, grid, self._constants))
        if sources == {_Source.INPUT}:
            return False
        if reasons := sorted(source for source in sources if isinstance(source, str)):
            return reasons[0]
        if _Source.INPUT in sources:
            return "codes of a graph input are mixed with others"
        if grid.scale.ndim:
            return "its scale differs from place to place, and one range is wanted"
        return self._float(codes, grid)

    def _float(self, codes: ir.Value, grid: Grid) -> ir.Value:
        key = (codes, grid.key)
        if key not in self._made:
            self._made[key] = self._new_float(codes, grid)
        return self._made[key]

    def _new_float(self, codes: ir.Value, grid: Grid) -> ir.Value:
        constant = constant_codes(codes) if codes in self._constants else None
        if constant is not None:
            return add_constant(self._graph, f"{codes.name}_float", grid.real(constant))
        node = codes.producer()
        assert node is not None
        if is_quantizer(node, "QuantizeLinear"):
            self.relaxed += 1
            self._count_levels(*code_range(grid.dtype))
            assert node.inputs[0] is not None
            return self._limited(node, node.inputs[0], grid.range, grid)
        if node.op_type == "Clip" and (ends := self._code_limits(node, grid)) is not None:
            assert node.inputs[0] is not None
            self._count_levels(*ends)
            low, high = grid.real(np.array(ends, np.int32)).tolist()
            return self._limited(node, self._float(node.inputs[0], grid), (low, high), grid)
        moved = set(_moved_inputs(node))
        inputs = [
            self._float(value, grid) if position in moved and value is not None else value
            for position, value in enumerate(node.inputs)
        ]
        if node.op_type == "Pad" and (len(inputs) < 3 or inputs[2] is None):  # it fills with the code 0
            fill = add_constant(self._graph, f"{node.name}_fill", grid.real(np.zeros((), np.int32)))
            inputs = [*inputs[:2], fill, *inputs[3:]]
        copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        self._graph.insert_before(node, copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            set_type(new, ir.DataType.FLOAT, old.shape)
            new.name = free_name(self._graph, f"{old.name}_float") if old.name else ""
            self._made[(old, grid.key)] = new
        copy.name = copy.outputs[0].name
        return self._made[(codes, grid.key)]

    def _code_limits(self, clip: ir.Node, grid: Grid) -> tuple[int, int] | None:
        """Limits of a Clip on codes, where they are constant."""
        limits = list(code_range(grid.dtype))
        for position, given in enumerate(clip.inputs[1:3]):
            if given is None:
                continue
            number = constant_codes(given) if given in self._constants else None
            if number is None:
                return None
            limits[position] = int(number.item())
        return limits[0], limits[1]

    def _count_levels(self, low: int, high: int) -> None:
        levels = high - low + 1
        self.levels = levels if self.levels is None else min(self.levels, levels)

    def _limited(self, node: ir.Node, source: ir.Value, limits: Bounds, grid: Grid) -> ir.Value:
        """Clip a value as a quantizer or a Clip on codes does, merged with a Relu or Clip before it."""
        half = float(grid.scale) / 2
        low, high = bounds(source)
        if low >= limits[0] - half and high <= limits[1] + half:
            self.needless += is_quantizer(node)
            return source
        before = source.producer()
        own = None if before is None else clip_limits(before)
        alone = not source.is_graph_output() and all(_gives_way(use.node, node) for use in source.uses())
        if before is not None and own is not None and alone:
            limits = within(own, limits)
            assert before.inputs[0] is not None
            source = before.inputs[0]
        return self._clip(node, source, limits)

    def _clip(self, at: ir.Node, source: ir.Value, limits: Bounds) -> ir.Value:
        name = at.outputs[0].name or ""
        low, high = (np.array(limit, np.float32) for limit in limits)
        if self._opset < _CLIP_WITH_INPUTS:
            node = ir.node("Clip", [source], {"min": float(low), "max": float(high)})
        else:
            lowest, highest = (add_constant(self._graph, f"{name}_{k}", x) for k, x in (("low", low), ("high", high)))
            node = ir.node("Clip", [source, lowest, highest])
        set_type(node.outputs[0], ir.DataType.FLOAT, source.shape)
        node.name = node.outputs[0].name = free_name(self._graph, f"{name}_range")
        self._graph.insert_before(at, node)
        return node.outputs[0]


def _gives_way(reader: ir.Node, node: ir.Node) -> bool:
    """Tell whether a reader goes together with a node: it is the node, or a quantizer that only the node reads."""
    uses = reader.outputs[0].uses()
    return reader is node or (is_quantizer(reader, "QuantizeLinear") and [use.node for use in uses] == [node])


def _moved_inputs(node: ir.Node) -> tuple[int, ...]:
    positions = _MOVERS[node.op_type]
    return tuple(range(len(node.inputs))) if positions is None else positions


def _sources(codes: ir.Value, grid: Grid, constants: Set[ir.Value]) -> Iterator[_Source | str]:
    """Where codes that are read on a grid come from; or why they have no float value."""
    pending, seen = [codes], set[ir.Value]()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if value in constants:
            yield _Source.CONSTANT
        elif node is None:
            yield _Source.INPUT
        elif is_quantizer(node, "QuantizeLinear"):
            yield _mismatch(node, grid) or _Source.QUANTIZER
        elif obstacle := _obstacle(node, constants):
            yield obstacle
        else:
            inputs = [node.inputs[place] for place in _moved_inputs(node) if place < len(node.inputs)]
            pending.extend(source for source in inputs if source is not None)


def _mismatch(quantizer: ir.Node, grid: Grid) -> str | None:
    """Why the codes of a quantizer are not those of a float value on a grid, or None."""
    own, kind = grid_of(quantizer), quantizer.inputs[0].dtype if quantizer.inputs[0] is not None else None
    if isinstance(own, str):
        return f"it reads '{quantizer.name}' (QuantizeLinear), of which holds: {own}"
    if kind not in (None, ir.DataType.FLOAT):
        return f"'{quantizer.name}' (QuantizeLinear) makes its codes out of {kind.name}, not of float32"
    if own.scale.ndim or grid.scale.ndim:
        return f"'{quantizer.name}' (QuantizeLinear) has a scale for each channel of an activation; wanted one for all"
    if own.key != grid.key:
        return f"'{quantizer.name}' (QuantizeLinear) made its codes with another scale, zero point or type"
    return None


def _obstacle(node: ir.Node, constants: Set[ir.Value]) -> str | None:
    """Why a node that makes codes does more than move them, or None."""
    if not is_standard(node, *_MOVERS):
        return f"'{node.name}' ({node.op_type}) computes with the codes that it reads"
    if node.op_type == "MaxPool" and any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return f"positions that '{node.name}' (MaxPool) finds among codes are read"
    if node.op_type == "Resize" and not is_blend(node):
        return f"'{node.name}' (Resize) computes with the codes that it reads"
    fills = node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant"
    if fills and (fill := input_at(node, 2)) is not None and fill not in constants:
        return f"'{node.name}' (Pad) pads codes with a number that is computed at run time"
    return None
