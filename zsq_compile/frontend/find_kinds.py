"""What every input of a graph takes, and why it is thought so: told by the graph, by shapes and sizes, and by names.

Names never decide against the graph: ids are what indexes a table, a mask is what meets scores or gates values, a state
is what a recurrent operator starts from or an output hands on. Names tell apart what the graph treats alike, such as
ids of words and of positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from passes.operators import RECURRENT
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputKind, InputSpec
from zsq_compile.frontend.find_masks import Masking, find_masking
from zsq_compile.frontend.find_signal_kinds import find_signal_kind
from zsq_compile.frontend.find_states import find_state
from zsq_compile.frontend.kind_clues import (
    HIDING_WORDS,
    POSITION_WORDS,
    STATE_WORDS,
    TYPE_WORDS,
    names_length,
    names_mask,
    names_rate,
    names_scale,
    names_size,
    split_name,
)
from zsq_compile.frontend.open_batch import batch_first
from zsq_compile.frontend.trace_input import Reading, constant_of, trace

_MOST_TYPES = 16  # rows of a table of token types; tables of words and of positions have more
_DEFAULT_RATE = 16000.0
_RATES = (16000.0, 8000.0, 24000.0, 22050.0, 44100.0, 48000.0, 32000.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What an input takes, why, and the numbers that go with it (see ``InputSpec``)."""

    kind: InputKind
    reason: str
    neutral: float | None = None
    limit: int | None = None
    usual: tuple[float, ...] | None = None


def find_kinds(model: ir.Model, inputs: Sequence[InputSpec], *, inside: bool = True) -> tuple[InputSpec, ...]:
    """Return the specs of a normalized model's inputs with what each takes; what is a spectrogram is no picture.

    ``inside`` tells whether their shapes have the batch on axis 0, wherever the file has it.
    """
    values = {value.name: value for value in model.graph.inputs}
    seen = inputs if inside else tuple(map(batch_first, inputs))
    found = [_find(values[spec.name], spec, seen, model.graph.outputs) for spec in seen]
    specs = [
        replace(
            spec,
            kind=one.kind,
            reason=one.reason,
            neutral=one.neutral,
            limit=one.limit,
            usual=one.usual,
            layout=spec.layout if one.kind == "picture" else None,
        )
        for spec, one in zip(inputs, found, strict=True)
    ]
    return tuple(_with_full_length(spec, specs) for spec in specs)


def _find(value: ir.Value, spec: InputSpec, inputs: Sequence[InputSpec], outputs: Sequence[ir.Value]) -> Finding:
    readings, masking = list(trace(value)), find_masking(value)
    finding = (
        _as_ids(readings, spec)
        or _as_length(readings, spec)
        or _as_size(spec, inputs)  # before masks: boxes are multiplied by it
        or _as_mask(masking, spec)
        or _as_rate(readings, spec)
    )
    if finding is not None:
        return finding
    if np.issubdtype(spec.dtype, np.floating):
        state = _as_state(value, spec, inputs, outputs)
        if state is not None:
            return state
    told = find_signal_kind(value, spec, inputs)
    return Finding(kind=told.kind, reason=told.reason, limit=told.steps)


def _as_ids(readings: Sequence[Reading], spec: InputSpec) -> Finding | None:
    """Integers that index a constant table: ids of words, of their types, or of positions."""
    rows, table = None, ""
    for one in readings if np.issubdtype(spec.dtype, np.integer) else ():
        size = _rows(one)
        if size is not None and (rows is None or size < rows):
            rows, table = size, str(one.node.name or one.node.op_type)
    if rows is None:
        return None
    words, reason = set(split_name(spec.name)), f"it indexes the {rows} rows of {table}"
    if rows <= _MOST_TYPES and words & TYPE_WORDS:
        return Finding(kind="types", reason=f"{reason}, and its name", limit=rows)
    if words & POSITION_WORDS:
        return Finding(kind="positions", reason=f"{reason}, and its name", limit=rows)
    return Finding(kind="tokens", reason=reason, neutral=_padding_id(readings), limit=rows)


def _rows(reading: Reading) -> int | None:
    """Rows of the table that a node looks integers up in."""
    node = reading.node
    if is_standard(node, "Gather") and reading.place == 1 and node.inputs[0] is not None:
        table = node.inputs[0]
        if table.const_value is not None and len(table.const_value.shape) > 0:
            return int(table.const_value.shape[node.attributes.get_int("axis", 0)])  # type: ignore[arg-type]
    if is_standard(node, "OneHot") and reading.place == 0:
        depth = constant_of(node.inputs[1])
        return None if depth is None else int(depth.reshape(-1)[0])
    if is_standard(node, "Equal"):  # as jax writes one_hot
        classes = constant_of(reading.other())
        numbers = np.unique(classes) if classes is not None else np.zeros(0)
        return numbers.size if numbers.size > 1 and numbers[0] == 0 and _counts(numbers) else None
    return None


def _padding_id(readings: Sequence[Reading]) -> float:
    """Return the id that a graph compares ids with to see where they end; 0 where it does not."""
    for one in readings:
        if is_standard(one.node, "Equal"):
            compared = constant_of(one.other())
            if compared is not None and compared.size == 1 and compared.item() >= 0:
                return float(compared.item())
    return 0.0


def _as_length(readings: Sequence[Reading], spec: InputSpec) -> Finding | None:
    """One number for each sample, or for all, that ends a sequence."""
    if np.prod([size or 1 for size in spec.shape[1:]]) != 1 or spec.dtype == np.bool_:
        return None
    full = None
    for one in readings:
        if is_standard(one.node, *RECURRENT) and one.place == 4:
            return Finding(kind="length", reason=f"{one.node.op_type} {one.node.name or ''} ends sequences there")
        if is_standard(one.node, "Range") and one.place == 1:
            full = full or 0
        if is_standard(one.node, "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
            steps = constant_of(one.other())
            if steps is not None and steps.size > 1 and _counts(steps):
                full = max(full or 0, steps.size)
    named = names_length(spec.name)
    if np.issubdtype(spec.dtype, np.floating):
        # as a share of the longest, which is how fractions of a padded batch are given
        return Finding(kind="length", reason="its name and shape", usual=(1.0,)) if named else None
    if full is not None or named:
        reason = "its name and shape" if full is None else "positions are compared with it"
        return Finding(kind="length", reason=reason, limit=full or None)
    return None


def _counts(steps: np.typing.NDArray[np.generic]) -> bool:
    flat = np.asarray(steps, np.float64).reshape(-1)
    return bool(np.array_equal(flat - flat[0], np.arange(flat.size)))


def _as_mask(masking: Masking | None, spec: InputSpec) -> Finding | None:
    named = names_mask(spec.name)
    if masking is not None and masking.attention:
        return Finding(kind="mask", reason="it meets scores of attention", neutral=masking.neutral)
    is_whole = not np.issubdtype(spec.dtype, np.floating)
    if masking is not None and (named or spec.dtype == np.bool_ or (is_whole and len(spec.shape) > 1)):
        reason = "it gates what the network computes" + (", and its name" if named else "")
        return Finding(kind="mask", reason=reason, neutral=masking.neutral)
    if named and len(spec.shape) == 4 and spec.is_image:
        return Finding(kind="mask", reason="its name, and the shape of a picture with one channel")
    if named and len(spec.shape) > 1:
        hides = bool(HIDING_WORDS & set(split_name(spec.name)))
        return Finding(kind="mask", reason="its name", neutral=0.0 if hides else 1.0)
    return None


def _as_rate(readings: Sequence[Reading], spec: InputSpec) -> Finding | None:
    """One number for all samples, or for each, by its name; the graph may say which rates it knows."""
    if not names_rate(spec.name) or np.prod([size or 1 for size in spec.shape[1:]]) != 1:
        return None
    known = [
        float(number)
        for one in readings
        if is_standard(one.node, "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Div")
        for number in np.asarray(constant_of(one.other()) if one.other() is not None else ()).reshape(-1)
        if number in _RATES
    ]
    chosen = next((rate for rate in _RATES if rate in known), _DEFAULT_RATE)
    reason = "its name and shape" + (f"; the graph compares it with {chosen:g}" if known else "")
    return Finding(kind="rate", reason=reason, usual=(chosen,))


def _as_size(spec: InputSpec, inputs: Sequence[InputSpec]) -> Finding | None:
    """Height and width of a picture, or the factor that it was resized by: two or three numbers beside a picture."""
    numbers = int(np.prod([size or 1 for size in spec.shape[1:]]))
    if len(spec.shape) > 2 or numbers not in (1, 2, 3) or not any(one.is_image for one in inputs):
        return None
    if names_scale(spec.name) and numbers <= 2:
        return Finding(kind="scale", reason="its name and shape, beside a picture", usual=(1.0,))
    if names_size(spec.name) and numbers >= 2:
        picture = next(one for one in inputs if one.is_image)
        size = (float(picture.height), float(picture.width), 1.0)[:numbers]
        return Finding(kind="size", reason="its name and shape, beside a picture", usual=size)
    return None


def _as_state(
    value: ir.Value, spec: InputSpec, inputs: Sequence[InputSpec], outputs: Sequence[ir.Value]
) -> Finding | None:
    """Tell a float input that a run takes from the run before; never the only one that data come through."""
    if len(inputs) == 1 or (spec.is_image and not STATE_WORDS & set(split_name(spec.name))):
        return None
    reason = find_state(value, spec, outputs)
    return None if reason is None else Finding(kind="state", reason=reason)


def _with_full_length(spec: InputSpec, inputs: Sequence[InputSpec]) -> InputSpec:
    """Set the largest length where the graph does not say it: that of the sequence that comes before it."""
    if spec.kind != "length" or spec.limit is not None or np.issubdtype(spec.dtype, np.floating):
        return spec
    place = next(number for number, one in enumerate(inputs) if one.name == spec.name)
    before = [one for one in (*reversed(inputs[:place]), *inputs[place:]) if one.steps is not None]
    return replace(spec, limit=before[0].steps if before else None)
