"""Find outputs that are states: what a network hands to its next run."""

import onnx_ir as ir

from passes.operators import RECURRENT
from passes.surgery import input_at, is_standard
from zsq_compile.tasks.find_facts import NetworkFacts
from zsq_compile.tasks.find_layers import sizes_of

_MOVING = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Concat", "Cast", "Gather", "Expand")
_INITIAL = (5, 6)  # inputs of a recurrent operator where it starts from


def find_states(facts: NetworkFacts) -> dict[str, str]:
    """Reasons by the name of each output that goes back in."""
    found = {}
    for output in facts.outputs:
        reason = _last_state(output.value, facts) or _handed_on(output.value, facts)
        if reason is not None:
            found[output.name] = reason
    return found


def _last_state(value: ir.Value, facts: NetworkFacts) -> str | None:
    """Whether an output is the last state of a recurrent operator that starts from an input."""
    for source in _behind(value):
        node = source.producer()
        if node is None or not is_standard(node, *RECURRENT):
            continue
        starts = [start for place in _INITIAL if (start := input_at(node, place)) is not None]
        inputs = {one.name for start in starts for one in _behind(start) if one in facts.inputs}
        if inputs and source is not node.outputs[0]:
            return f"it is the last state of {node.op_type} {node.name or ''}".rstrip() + ", which starts from an input"
    return None


def _handed_on(value: ir.Value, facts: NetworkFacts) -> str | None:
    """Whether one further input, and no other output, has the shape of an output that has at least two known sizes."""
    shape = sizes_of(value)
    if shape is None or len(facts.inputs) < 2 or len(facts.outputs) < 2 or len(shape) < 2:
        return None
    first = facts.inputs[0]
    same = [one for one in facts.inputs if one is not first and sizes_of(one) == shape and one.dtype == value.dtype]
    outputs = [one for one in facts.outputs if sizes_of(one.value) == shape]
    if not same or len(outputs) != len(same) or sum(size is not None for size in shape) < 2:
        return None
    return f"input '{same[0].name}' has its shape, and takes it in the next run"


def _behind(value: ir.Value) -> list[ir.Value]:
    """Values that a value is arranged from, itself the first."""
    found, pending = [], [value]
    while pending:
        one = pending.pop()
        if one in found:
            continue
        found.append(one)
        node = one.producer()
        if node is not None and is_standard(node, *_MOVING):
            pending += [source for source in node.inputs if source is not None and source.const_value is None]
    return found
