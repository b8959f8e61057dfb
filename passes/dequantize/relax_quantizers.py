"""Take the rounding out of activations that are quantized, and leave the limits in.

    x -> QuantizeLinear -> DequantizeLinear -> y          ->  x -> Clip(low, high) -> y
    x -> QuantizeLinear -> MaxPool... -> DequantizeLinear ->  x -> Clip(low, high) -> MaxPool... -> y
    Relu(x) -> QuantizeLinear -> DequantizeLinear -> y    ->  x -> Clip(max(low, 0), high) -> y

        low = (lowest code - zero point) * scale,  high = (highest code - zero point) * scale

The limits are all that may be left of a Relu that a quantizer swallowed, so they go only where no number can reach
them: where the graph proves that x stays within half a step of them, which rounding would have taken off as well.
"""

from collections.abc import Iterator, Set

import numpy as np
import onnx_ir as ir

from passes.outcome import Outcome
from passes.plan import Refusal
from passes.quantizer_grid import Grid, constant_codes, constants_of, grid_of, is_quantizer
from passes.surgery import add_constant, free_name, is_standard
from passes.value_ranges import Bounds, bounds, clip_limits, is_blend, within

_CLIP_WITH_INPUTS = 11  # first opset whose Clip takes its limits as inputs
# Operators that hand codes on without computing with them, and which of their inputs are codes: None is all.
_MOVERS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"), (0,)),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "Expand", "Tile"), (0,)),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "MaxPool", "Resize"), (0,)),
    **dict.fromkeys(("Concat", "Max", "Min"), None),
    "Pad": (0, 2),
    "Clip": (0, 1, 2),
    "Where": (1, 2),
}


_COMPARE = ("ArgMax", "ArgMin")


class RelaxQuantizers(ir.passes.InPlacePass):
    """Replace every DequantizeLinear behind quantizers by the clipped float value.

    1. Several may read one QuantizeLinear: they share its Clip.
    2. Between the two may stand operators that move codes, with constants (a padding, a limit) among what they move.
    3. What only asks which code is the largest or the smallest asks it of the floats.
    4. Codes that are an input of the graph stay codes, and so does what leads to an output of the graph.

    After a call ``relaxed`` counts the QuantizeLinear nodes that were replaced, ``needless`` those of them that needed
    no Clip, and ``levels`` is the fewest codes that one of them had. Nodes that nobody reads any more are left for a
    later pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relaxed = 0
        self.needless = 0
        self.levels: int | None = None

    def call(self, model: ir.Model) -> Outcome:
        """Visit all nodes in order; the refusals name those that stay for another reason than 4."""
        self.relaxed, self.needless = 0, 0
        writer, refusals, modified = _Writer(model), list[Refusal](), False
        for node in list(model.graph):
            if is_quantizer(node, "DequantizeLinear"):
                reason = writer.replace(node)
            elif is_standard(node, *_COMPARE) and node.inputs[0] is not None:
                reason = writer.compare_floats(node, node.inputs[0])
            else:
                continue
            modified |= reason is None
            if reason:
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=reason))
        self.relaxed, self.needless, self.levels = writer.relaxed, writer.needless, writer.levels
        return Outcome(model, modified, tuple(refusals))


class _Writer:
    """Makes the float values that stand in for codes, each once."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._opset = model.graph.opset_imports.get("") or _CLIP_WITH_INPUTS
        self._constants = constants_of(model.graph)
        self._made: dict[tuple[ir.Value, object], ir.Value] = {}
        self.relaxed = 0
        self.needless = 0
        self.levels: int | None = None

    def replace(self, node: ir.Node) -> str | None:
        """Let the float value take the place of a DequantizeLinear; why not, or "" where it reads input codes."""
        grid, codes, output = grid_of(node), node.inputs[0], node.outputs[0]
        if isinstance(grid, str):
            return grid
        assert codes is not None
        if (reason := self._obstacle(codes, grid)) is not None:
            return reason
        stand_in = self._float(codes, grid)
        if output.is_graph_output():
            # outputs belong to nodes of their own
            same = ir.node("Identity", [stand_in], name=node.name)
            self._type(same.outputs[0], output.shape)
            self._graph.insert_before(node, same)
            name, output.name = output.name, None
            output.replace_all_uses_with(same.outputs[0], replace_graph_outputs=True)
            same.outputs[0].name = name
        else:
            output.replace_all_uses_with(stand_in)
        self._graph.remove(node, safe=True)
        return None

    def compare_floats(self, node: ir.Node, codes: ir.Value) -> str | None:
        """Let a node compare floats where it compares their codes; why not, or "" where there are no codes to relax."""
        value: ir.Value | None = codes
        maker = codes.producer()
        while maker is not None and is_standard(maker, *_MOVERS):
            value = maker.inputs[_moved_inputs(maker)[0]]
            maker = None if value is None else value.producer()
        if maker is None or not is_quantizer(maker, "QuantizeLinear"):
            return ""
        grid = grid_of(maker)
        if isinstance(grid, str):
            return grid
        if (reason := self._obstacle(codes, grid)) is not None:
            return reason
        node.replace_input_with(0, self._float(codes, grid))
        return None

    def _obstacle(self, codes: ir.Value, grid: Grid) -> str | None:
        """Why codes that are read on a grid have no float value, or "" where they are an input of the graph."""
        sources = set(_sources(codes, grid, self._constants))
        if sources == {"input"}:
            return ""
        if reasons := sorted(sources - {"quantizer", "constant"}):
            return "codes of a graph input are mixed with others" if reasons[0] == "input" else reasons[0]
        return "its scale differs from place to place, and one range is wanted" if grid.scale.ndim else None

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
            self._count_levels(*grid.limits)
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
            inputs = [*inputs[:2], self._number(f"{node.name}_fill", grid, 0), *inputs[3:]]
        copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        self._graph.insert_before(node, copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            self._type(new, old.shape)
            new.name = free_name(self._graph, f"{old.name}_float") if old.name else ""
            self._made[(old, grid.key)] = new
        copy.name = copy.outputs[0].name
        return self._made[(codes, grid.key)]

    def _code_limits(self, clip: ir.Node, grid: Grid) -> tuple[int, int] | None:
        """Limits of a Clip on codes, where they are constant."""
        limits = list(grid.limits)
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

    def _number(self, name: str, grid: Grid, code: int) -> ir.Value:
        return add_constant(self._graph, name, grid.real(np.array(code, np.int32)))

    def _limited(self, node: ir.Node, source: ir.Value, limits: Bounds, grid: Grid) -> ir.Value:
        """Cut a value to what a quantizer or a Clip on codes cuts it to, merged with a Relu or Clip before it."""
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
        ends = (("low", low), ("high", high))
        if self._opset < _CLIP_WITH_INPUTS:
            node = ir.node("Clip", [source], {"min": float(low), "max": float(high)})
        else:
            lowest, highest = (add_constant(self._graph, f"{name}_{end}", limit) for end, limit in ends)
            node = ir.node("Clip", [source, lowest, highest])
        self._type(node.outputs[0], source.shape)
        node.name = node.outputs[0].name = free_name(self._graph, f"{name}_range")
        self._graph.insert_before(at, node)
        return node.outputs[0]

    @staticmethod
    def _type(value: ir.Value, shape: ir.Shape | None) -> None:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), None if shape is None else shape.copy()


def _gives_way(reader: ir.Node, node: ir.Node) -> bool:
    """Tell whether a reader has no part in the float graph once a node is replaced: it, or a quantizer for it alone."""
    uses = reader.outputs[0].uses()
    return reader is node or (is_quantizer(reader, "QuantizeLinear") and [use.node for use in uses] == [node])


def _moved_inputs(node: ir.Node) -> tuple[int, ...]:
    positions = _MOVERS[node.op_type]
    return tuple(range(len(node.inputs))) if positions is None else positions


def _sources(codes: ir.Value, grid: Grid, constants: Set[ir.Value]) -> Iterator[str]:
    """Where codes that are read on a grid come from: "quantizer", "constant", "input", or why that cannot be told."""
    pending, seen = [codes], set[ir.Value]()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if value in constants:
            yield "constant"
        elif node is None:
            yield "input"
        elif is_quantizer(node, "QuantizeLinear"):
            yield _read_rightly(node, grid)
        elif obstacle := _obstacle(node, constants):
            yield obstacle
        else:
            inputs = [node.inputs[place] for place in _moved_inputs(node) if place < len(node.inputs)]
            pending.extend(source for source in inputs if source is not None)


def _read_rightly(quantizer: ir.Node, grid: Grid) -> str:
    own, kind = grid_of(quantizer), quantizer.inputs[0].dtype if quantizer.inputs[0] is not None else None
    if isinstance(own, str):
        return f"it reads '{quantizer.name}' (QuantizeLinear), and {own.replace('its', 'that its', 1)}"
    if kind not in (None, ir.DataType.FLOAT):
        return f"'{quantizer.name}' (QuantizeLinear) makes its codes out of {kind.name}, not of float32"
    if own.scale.ndim or grid.scale.ndim:
        return f"'{quantizer.name}' (QuantizeLinear) has a scale for each channel of an activation; wanted one for all"
    if own.key != grid.key:
        return f"it reads the codes of '{quantizer.name}' (QuantizeLinear) on another grid than they were made on"
    return "quantizer"


def _obstacle(node: ir.Node, constants: Set[ir.Value]) -> str | None:
    """Why a node that makes codes does more than to move them, or None."""
    if not is_standard(node, *_MOVERS):
        return f"'{node.name}' ({node.op_type}) computes with the codes that it reads"
    if node.op_type == "MaxPool" and any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return f"positions that '{node.name}' (MaxPool) finds among codes are read"
    if node.op_type == "Resize" and not is_blend(node):
        return f"'{node.name}' (Resize) computes with the codes that it reads"
    if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        if fill is not None and fill not in constants:
            return f"'{node.name}' (Pad) fills codes with a number that is computed at run time"
    return None
