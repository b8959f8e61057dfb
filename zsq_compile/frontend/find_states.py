"""Which inputs are states: what a network hands from one run to the next, zeros in the first."""

from collections.abc import Sequence

import onnx_ir as ir

from passes.operators import RECURRENT
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.kind_clues import ENCODER_WORDS, STATE_WORDS, related_names, split_name
from zsq_compile.frontend.trace_input import trace

_INITIAL = (5, 6)  # places of initial_h and initial_c


def find_state(value: ir.Value, spec: InputSpec, outputs: Sequence[ir.Value]) -> str | None:
    """Say why a float input is a state; None where it is none.

    It is one where a recurrent operator starts from it; or where an output has its shape and a related name, or its
    shape and the input a name of states that no encoder hands over.
    """
    for reading in trace(value):
        if is_standard(reading.node, *RECURRENT) and reading.place in _INITIAL:
            return f"{reading.node.op_type} {reading.node.name or ''} starts from it".replace("  ", " ")
    fitting = [one for one in outputs if _same_shape(value, one)]
    related = next((one for one in fitting if related_names(spec.name, str(one.name))), None)
    if related is not None:
        return f"output '{related.name}' has its shape and a related name"
    words = set(split_name(spec.name))
    if fitting and STATE_WORDS & words and not ENCODER_WORDS & words:
        return f"its name, and output '{fitting[0].name}' has its shape"
    return None


def _same_shape(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values may have the same shape: equal where both are known, and known in two places at least."""
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape) or one.dtype != other.dtype:
        return False
    pairs = list(zip(one.shape, other.shape, strict=True))
    known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return all(a == b for a, b in known) and bool(known)
