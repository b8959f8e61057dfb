"""Find boxes and scores that stand beside each other in one output."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.surgery import is_standard
from zsq_compile.tasks.find_facts import OutputFacts
from zsq_compile.tasks.find_stretches import Stretch
from zsq_compile.tasks.task import BoxForm, BoxHead, Columns

_SCORES = ("sigmoid", "softmax", "log softmax", "constant")
_FEWEST_BINS, _MOST_BINS = 8, 33  # for each side of a box
_ANCHORS = (3, 5, 1, 2, 4, 6, 9)  # likely first
_FEW = 6  # operators between an output and the joining of its corners
_ALIKE = 0.5  # correlation of the channels of two anchors that do the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Parted:
    """Columns of one place: box numbers from ``start`` to ``stop``, and parts of scores behind or in front of them."""

    start: int
    stop: int
    scores: tuple[tuple[int, int], ...]
    logits: tuple[bool, ...]
    exclusive: tuple[bool, ...]
    boxes: Stretch


def part_columns(stretches: Sequence[Stretch]) -> Parted | None:
    """Tell boxes from scores in stretches; None where these are no boxes with scores."""
    starts = [sum(one.size for one in stretches[:place]) for place in range(len(stretches))]
    if any(one.squash in _SCORES for one in stretches):
        return _part_squashed(stretches, starts)
    return _part_plain(stretches, starts)


def _part_squashed(stretches: Sequence[Stretch], starts: Sequence[int]) -> Parted | None:
    run: list[int] = []
    for place, one in enumerate(stretches):
        if one.squash not in _SCORES:
            run.append(place)
        if run and (one.squash in _SCORES or place == len(stretches) - 1):
            found = _around_run(stretches, starts, run)
            if found is not None:
                return found
            run = []
    return None


def _around_run(stretches: Sequence[Stretch], starts: Sequence[int], run: Sequence[int]) -> Parted | None:
    """Take a run of stretches for boxes, with the scores around it."""
    size = sum(stretches[place].size for place in run)
    if not _may_be_boxes(size):
        return None
    behind: list[int] = []
    for place in range(run[-1] + 1, len(stretches)):
        if stretches[place].squash not in _SCORES or len(behind) == 2:
            break
        behind.append(place)
    before = [place for place in range(run[0]) if stretches[place].squash in _SCORES][-1:]
    chosen = [*before, *behind][:2]
    layers = frozenset(name for place in run for name in stretches[place].layers)
    parts: list[tuple[int, int, str]] = []
    for place in chosen:
        one, start = stretches[place], starts[place]
        if len(chosen) == 1 and one.layers == layers and one.size > 1 and one.squash == "sigmoid":
            parts += [(start, start + 1, one.squash), (start + 1, start + one.size, one.squash)]
        else:
            parts.append((start, start + one.size, one.squash))
    if not parts:
        return None
    return Parted(
        start=starts[run[0]],
        stop=starts[run[0]] + size,
        scores=tuple(part[:2] for part in parts),
        logits=tuple(False for _ in parts),
        exclusive=tuple(part[2] in ("softmax", "log softmax") for part in parts),
        boxes=Stretch(size=size, squash=stretches[run[0]].squash, layers=layers),
    )


def _part_plain(stretches: Sequence[Stretch], starts: Sequence[int]) -> Parted | None:
    """Take the first stretch of several that nothing squashes for boxes, if others come from other layers."""
    if not 2 <= len(stretches) <= 3 or any(one.squash != "none" for one in stretches):
        return None
    first = stretches[0]
    if not _may_be_boxes(first.size) or first.layers & stretches[1].layers:
        return None
    scores = tuple((start, start + one.size) for start, one in zip(starts[1:], stretches[1:], strict=True))
    return Parted(
        start=0,
        stop=first.size,
        scores=scores,
        logits=tuple(True for _ in scores),
        exclusive=tuple(False for _ in scores),
        boxes=first,
    )


def _may_be_boxes(size: int) -> bool:
    return size == 4 or is_bins(size)


def is_bins(size: int) -> bool:
    """Whether so many numbers of a place may be bins of the four sides of a box."""
    return size % 4 == 0 and _FEWEST_BINS <= size // 4 <= _MOST_BINS


def box_form(facts: OutputFacts, axis: int, start: int, stop: int, squash: str) -> BoxForm:
    """Form of box numbers, by what they went through and by what they are on samples."""
    if stop - start != 4 and is_bins(stop - start):
        return "bins"
    if squash in ("exp", "positive"):
        return "distances"
    if squash == "none":
        return "offsets"
    if facts.values is None or not facts.values.size:
        return "corners" if _ends_in_corners(facts.value) else "center and size"
    numbers = np.moveaxis(facts.values, axis, -1)[..., start:stop].reshape(-1, stop - start)
    ordered = (numbers[:, 2] >= numbers[:, 0]) & (numbers[:, 3] >= numbers[:, 1])
    return "corners" if ordered.mean() > 0.99 else "center and size"


def _ends_in_corners(value: ir.Value | None) -> bool:
    """Whether the graph joins what it takes away from the same values and what it adds to them: two corners."""
    for _ in range(_FEW):
        node = None if value is None else value.producer()
        if node is None:
            return False
        parts = [_behind_moves(one) for one in node.inputs if one is not None][:2]
        if is_standard(node, "Concat") and len(parts) == 2:
            makers = [one.producer() for one in parts]
            if all(one is not None and is_standard(one, "Sub", "Add") for one in makers):
                return makers[0] is not makers[1] and _same_base(makers)
        value = next((one for one in node.inputs if one is not None and one.const_value is None), None)
    return False


def _behind_moves(value: ir.Value) -> ir.Value:
    node = value.producer()
    while node is not None and is_standard(node, "Unsqueeze", "Identity", "Slice") and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _same_base(makers: Sequence[ir.Node | None]) -> bool:
    """Whether a difference and a sum are of the same first value."""
    one, other = makers
    if one is None or other is None or (one.op_type, other.op_type) != ("Sub", "Add"):
        return False
    return any(a is b for a in one.inputs[:1] for b in other.inputs)


def find_joined(facts: OutputFacts) -> tuple[BoxHead, ...]:
    """Heads of an output that has both boxes and scores for each of its places; empty where it has not."""
    axis = facts.axis
    if axis is None or len(facts.shape) < 3 or facts.columns < 5 or facts.places < 2 or not facts.is_float:
        return ()
    stretches = facts.stretches()
    parted = part_columns(stretches)
    if parted is None:
        return ()
    form = box_form(facts, axis, parted.start, parted.stop, parted.boxes.squash)
    height, width = facts.grid
    labels = _labels_start(facts, parted)
    return (
        BoxHead(
            boxes=Columns(output=facts.name, axis=axis, start=parted.start, stop=parted.stop),
            form=form,
            scores=tuple(Columns(output=facts.name, axis=axis, start=a, stop=b) for a, b in parted.scores),
            logits=parted.logits,
            exclusive=parted.exclusive,
            labels=None if labels is None else Columns(output=facts.name, axis=axis, start=labels, stop=labels + 1),
            height=height,
            width=width,
            stride=facts.stride,
        ),
    )


def _labels_start(facts: OutputFacts, parted: Parted) -> int | None:
    """Column with the number of the class: the one behind a single score of the strongest places (TopK)."""
    end = parted.scores[-1][1]
    if facts.columns != 6 or end - parted.scores[-1][0] != 1 or len(parted.scores) > 1 or "TopK" not in facts.operators:
        return None
    taken = {*range(parted.start, parted.stop), parted.scores[0][0]}
    return next((column for column in range(6) if column not in taken), None)


def find_anchors(facts: OutputFacts) -> tuple[BoxHead, ...]:
    """Heads of a map with box, objectness and classes of several anchors behind each other, as YOLO has them."""
    axis, rank, stretches = facts.axis, len(facts.shape), facts.stretches()
    if not facts.is_float or len(stretches) != 1 or stretches[0].squash not in ("none", "sigmoid"):
        return ()
    if axis is None or not facts.grid[0] or facts.stride is None or facts.stride < 8 or facts.grid == (1, 1):
        return ()
    if rank == 5:
        return _anchor_heads(facts, axis, 1, facts.columns)
    count = next((count for count in _ANCHORS if _may_be_anchors(facts, count)), None)
    return () if count is None else _anchor_heads(facts, axis, count, facts.columns // count)


def _anchor_heads(facts: OutputFacts, axis: int, count: int, size: int) -> tuple[BoxHead, ...]:
    raw = facts.stretches()[0].squash == "none"
    height, width = facts.grid
    heads = []
    for first in range(0, count * size, size):
        parts = [(first + 4, first + 5)] + ([(first + 5, first + size)] if size > 5 else [])
        heads.append(
            BoxHead(
                boxes=Columns(output=facts.name, axis=axis, start=first, stop=first + 4),
                form="offsets" if raw else "numbers",
                scores=tuple(Columns(output=facts.name, axis=axis, start=a, stop=b) for a, b in parts),
                logits=tuple(raw for _ in parts),
                exclusive=tuple(False for _ in parts),
                height=height,
                width=width,
                stride=facts.stride,
            )
        )
    return tuple(heads)


def _may_be_anchors(facts: OutputFacts, count: int) -> bool:
    """Whether the channels of a map repeat for so many anchors: their mean over samples does."""
    if facts.columns % count or facts.columns // count < 5:
        return False
    rows = facts.rows
    if rows is None or count == 1:
        return count > 1 or facts.columns // count < 5
    profile = rows.reshape(-1, rows.shape[-1]).mean(0, dtype=np.float64).reshape(count, -1)
    alike = np.corrcoef(profile)[np.triu_indices(count, 1)]
    low = profile[:, 4].mean() < profile[:, :4].mean()
    return bool(alike.mean() > _ALIKE and low)
