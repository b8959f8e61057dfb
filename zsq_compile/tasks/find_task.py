"""Recognise what the outputs of a network are, by structure and by what they hold on samples."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from passes.analysis.find_uneven_values import find_uneven_values
from passes.surgery import is_standard
from zsq_compile.tasks.find_asked import as_asked
from zsq_compile.tasks.find_facts import NetworkFacts, OutputFacts, read_facts
from zsq_compile.tasks.find_joined import find_anchors, find_joined
from zsq_compile.tasks.find_layers import reached_operators, sizes_of
from zsq_compile.tasks.find_listed import find_centres, find_listed
from zsq_compile.tasks.find_maps import read_map
from zsq_compile.tasks.find_rows import read_row, read_steps, row_squash
from zsq_compile.tasks.find_states import find_states
from zsq_compile.tasks.task import BoxHead, OutputMeaning, OutputRole, Task, TaskKind

_KINDS: tuple[tuple[OutputRole, TaskKind], ...] = (
    ("characters", "text"),
    ("class scores", "classification"),
    ("mask", "segmentation"),
    ("heatmap", "heatmaps"),
    ("probabilities", "decisions"),
    ("image", "image"),
    ("embedding", "embedding"),
    ("landmarks", "regression"),
    ("numbers", "regression"),
    ("indices", "indices"),
)
"""Kinds by the roles that make them, the telling ones first."""

_SCORES = ("softmax", "log softmax")
_MANY = 32  # numbers that two shapes hardly have in common by chance
_BOX = 4  # numbers of a box
_ROLE_REASONS: Mapping[str, str] = {
    "boxes": "it has the four numbers of a box for each place that the scores have a number for",
    "scores": "it has the scores of the places that another output has boxes for",
    "objectness": "it has one number for each place that another output has boxes for",
    "landmarks": "it has further numbers for each place that another output has boxes for",
    "numbers": "it has two further numbers for each place of the heat map, such as the offset of a centre",
}


def find_task(
    model: ir.Model, outputs: Mapping[str, NDArray[Any]] | None = None, *, asked: TaskKind | None = None
) -> Task:
    """Say what a network is for.

    Args:
        model: the float network, with shapes inferred as far as they can be.
        outputs: (count, ...) of a few samples, by name, the batch on axis 0; None knows the graph alone.
        asked: the kind that the user names; its outputs are found all the same.

    Raises:
        ConfigError: no output of the network can be what ``asked`` wants.

    """
    facts = read_facts(model, outputs)
    states = find_states(facts)
    uneven = find_uneven_values(model)
    free = [one for one in facts.outputs if one.name not in states and one.name not in uneven]
    heads, roles = _find_heads(facts, free)
    meanings, blank = [], None
    for one in facts.outputs:
        if one.name in states:
            meanings.append(OutputMeaning(name=one.name, role="state", reason=states[one.name]))
        elif one.name in uneven:
            meanings.append(_read_uneven(one))
        elif one.name in roles:
            meanings.append(_boxes_meaning(one, roles[one.name]))
        else:
            meaning, own = _read_alone(one, facts)
            meanings.append(meaning)
            blank = own if blank is None else blank
    kind, reason = _judge(heads, meanings)
    meanings = [
        replace(meaning, entries=one.entries, samples=one.samples)
        for meaning, one in zip(meanings, facts.outputs, strict=True)
    ]
    task = Task(kind=kind, reason=reason, outputs=tuple(meanings), heads=heads, blank=blank)
    return task if asked is None else as_asked(task, facts.outputs, asked)


def _find_heads(facts: NetworkFacts, free: list[OutputFacts]) -> tuple[tuple[BoxHead, ...], dict[str, str]]:
    """Boxes of a detector, and the roles of the outputs that hold them and their scores."""
    joined = {one.name: found for one in free if (found := find_joined(one))}
    if joined:
        return tuple(head for found in joined.values() for head in found), dict.fromkeys(joined, "boxes and scores")
    centred = find_centres(free)
    if centred[0] and not any(one.columns == _BOX for one in free):
        return centred
    listed = find_listed(free, facts.picture)
    if listed[0]:
        return listed
    anchored = {one.name: found for one in free if (found := find_anchors(one))}
    if anchored and len({one.grid for one in free if one.grid[0]}) == sum(bool(one.grid[0]) for one in free):
        return tuple(head for found in anchored.values() for head in found), dict.fromkeys(anchored, "boxes and scores")
    return centred


def _read_uneven(one: OutputFacts) -> OutputMeaning:
    """Say what an output holds whose size depends on the data: boxes that survive, and what is said of each."""
    suppressed = "NonMaxSuppression" in reached_operators(one.value)
    reason = "its size depends on the data" + (", of which NonMaxSuppression leaves some boxes" if suppressed else "")
    role: OutputRole = "indices" if not one.is_float else "numbers"
    if suppressed and one.is_float:
        role = "boxes" if one.columns == _BOX else "scores" if one.columns == 1 else "boxes and scores"
    return OutputMeaning(name=one.name, role=role, reason=reason, axis=one.axis)


def _boxes_meaning(facts: OutputFacts, role: str) -> OutputMeaning:
    reason = _ROLE_REASONS.get(role, f"it has box numbers and scores for each of {facts.places} places")
    return OutputMeaning(name=facts.name, role=role, reason=reason, axis=facts.axis)  # type: ignore[arg-type]


def _read_alone(one: OutputFacts, facts: NetworkFacts) -> tuple[OutputMeaning, int | None]:
    """Say what an output holds that belongs to no boxes."""
    if not one.is_float:
        maker = one.value.producer()
        if maker is not None and is_standard(maker, "QuantizeLinear"):
            return OutputMeaning(name=one.name, role="numbers", reason="it holds codes of quantized numbers"), None
        return OutputMeaning(name=one.name, role="indices", reason="it holds integers"), None
    if one.grid[0] and one.stride is not None:
        return read_map(one), None
    if row_squash(one) not in _SCORES and (source := _same_shape(one, facts)) is not None:
        reason = f"it has the shape of input '{source}', so it is one like that again"
        return OutputMeaning(name=one.name, role="numbers", reason=reason, axis=one.axis), None
    if len(one.shape) <= 2 or one.places == 1:
        return read_row(one), None
    tokens = any(value.dtype is not None and value.dtype.is_integer() for value in facts.inputs)
    return read_steps(one, takes_tokens=tokens)


def _same_shape(one: OutputFacts, facts: NetworkFacts) -> str | None:
    """Name of an input of floats that has the shape of an output, and more numbers than a few classes."""
    shape = sizes_of(one.value)
    if shape is None or math.prod(size or 1 for size in shape[1:]) < _MANY:
        return None
    alike = [value for value in facts.inputs if value.dtype == one.value.dtype and sizes_of(value) is not None]
    return next((str(value.name) for value in alike if (sizes_of(value) or ())[1:] == shape[1:]), None)


def _judge(heads: tuple[BoxHead, ...], meanings: list[OutputMeaning]) -> tuple[TaskKind, str]:
    if heads:
        return "detection", _boxes_reason(heads)
    survivors = next((one for one in meanings if one.role in ("boxes", "boxes and scores")), None)
    if survivors is not None:
        return "detection", f"output '{survivors.name}': {survivors.reason}"
    for role, kind in _KINDS:
        first = next((one for one in meanings if one.role == role), None)
        if first is not None:
            return kind, f"output '{first.name}': {first.reason}"
    return "regression", "no output tells what it holds"


def _boxes_reason(heads: tuple[BoxHead, ...]) -> str:
    """Say where boxes with scores were found."""
    parts = "" if len(heads[0].scores) == 1 else ", each the product of an objectness and of classes"
    form = {"numbers": "of a form that nothing tells", "bins": "as bins of distances"}.get(heads[0].form)
    found = f"it has boxes ({form or f'as {heads[0].form}'}) with scores{parts}"
    strides = sorted({head.stride for head in heads if head.stride and head.height})
    if not strides:
        return f"{found}, in {'a list' if len(heads) == 1 else f'{len(heads)} lists'}"
    anchors = len(heads) // len(strides)
    several = f" with {anchors} anchors each" if anchors > 1 else ""
    return f"{found}, on grids of stride {', '.join(f'{one:g}' for one in strides)}{several}"
