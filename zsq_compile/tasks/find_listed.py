"""Find boxes and scores that stand in outputs of their own, for the same places."""

from collections.abc import Sequence

import numpy as np

from zsq_compile.tasks.find_facts import OutputFacts, Picture
from zsq_compile.tasks.find_joined import box_form, is_bins
from zsq_compile.tasks.find_rows import row_squash
from zsq_compile.tasks.task import BoxHead, Columns

_STRIDES = (4, 8, 16, 32, 64, 128)
_SCORE_SQUASHES = ("sigmoid", "softmax", "log softmax")
_MOST_ANCHORS = 9
_POINTS = (2, 10, 136)  # columns of offsets, of five points and of 68
_RULES = 0.8  # share of the places at which background wins


def find_listed(outputs: Sequence[OutputFacts], picture: Picture | None) -> tuple[tuple[BoxHead, ...], dict[str, str]]:
    """Heads of outputs that share their places, and the roles of these outputs by name."""
    heads: list[BoxHead] = []
    roles: dict[str, str] = {}
    for group in _groups(outputs):
        found = _find_head(group, picture)
        if found is not None:
            heads.append(found[0])
            roles |= found[1]
    return tuple(heads), roles


def _groups(outputs: Sequence[OutputFacts]) -> list[list[OutputFacts]]:
    """Sort outputs by the places that they have numbers for."""
    groups: dict[tuple[int, ...], list[OutputFacts]] = {}
    for facts in outputs:
        if not facts.is_float or len(facts.shape) < 3 or facts.axis is None or facts.places < 2:
            continue
        key = facts.grid if len(facts.shape) == 4 and facts.grid[0] else (facts.places,)
        groups.setdefault(key, []).append(facts)
    return [group for group in groups.values() if len(group) > 1]


def _find_head(group: Sequence[OutputFacts], picture: Picture | None) -> tuple[BoxHead, dict[str, str]] | None:
    for boxes, anchors in _candidates(group):
        others = [one for one in group if one is not boxes]
        scores = [one for one in others if row_squash(one) in _SCORE_SQUASHES]
        if not scores:
            plain = [one for one in others if one.columns // anchors not in _POINTS or len(others) == 1]
            scores = sorted(plain, key=lambda one: one.columns)
        if scores:
            return _make_head(boxes, scores[:2], anchors, picture), _roles(group, boxes, scores[:2])
    return None


def _candidates(group: Sequence[OutputFacts]) -> list[tuple[OutputFacts, int]]:
    """Return outputs that may be boxes, and the anchors of a place then, the likely ones first.

    A place has four numbers, or four for each of its anchors, or four rows of bins. Probabilities are rather scores.
    """
    found: list[tuple[tuple[bool, bool, int], OutputFacts, int]] = []
    for one in group:
        squashed = row_squash(one) in _SCORE_SQUASHES
        others = [other.columns for other in group if other is not one]
        for anchors in range(1, _MOST_ANCHORS + 1 if one.grid[0] else 2):
            if one.columns == 4 * anchors and all(columns % anchors == 0 for columns in others):
                found.append(((squashed, False, anchors), one, anchors))
        if is_bins(one.columns) and row_squash(one) == "none":
            found.append(((squashed, True, 1), one, 1))
    return [(one, anchors) for _, one, anchors in sorted(found, key=lambda entry: entry[0])]


def _make_head(boxes: OutputFacts, scores: Sequence[OutputFacts], anchors: int, picture: Picture | None) -> BoxHead:
    axis = boxes.axis or 0
    squashes = [row_squash(one) for one in scores]
    height, width, stride = _grid_of(boxes, picture)
    form = box_form(boxes, axis, 0, boxes.columns // anchors, _box_squash(boxes))
    exclusive = tuple(squash in ("softmax", "log softmax") for squash in squashes)
    nothing = None
    for one, excludes in zip(scores, exclusive, strict=True):
        if excludes and one.columns // anchors > 1:
            nothing = _background(one, anchors)
    if not any(exclusive):
        ruling = [_ruling(one, anchors) for one in scores]
        exclusive = tuple(squash == "none" and one is not None for squash, one in zip(squashes, ruling, strict=True))
        nothing = next((one for one in ruling if one is not None), None) if any(exclusive) else None
    return BoxHead(
        boxes=Columns(output=boxes.name, axis=axis, start=0, stop=boxes.columns),
        form=form,
        scores=tuple(Columns(output=one.name, axis=one.axis or 0, start=0, stop=one.columns) for one in scores),
        logits=tuple(squash == "none" for squash in squashes),
        exclusive=exclusive,
        nothing=nothing,
        height=height,
        width=width,
        stride=stride,
    )


def _box_squash(boxes: OutputFacts) -> str:
    squash = row_squash(boxes)
    return "arithmetic" if squash in ("mixed", "sigmoid") else squash


def _background(facts: OutputFacts, anchors: int) -> int:
    """Class of a softmax that stands for nothing: the one that wins at most places, else by custom the first."""
    found = _ruling(facts, anchors)
    return 0 if found is None else found


def _ruling(facts: OutputFacts, anchors: int) -> int | None:
    """Class of scores that wins nearly everywhere, if it is the first or the last; None without samples."""
    rows = facts.rows
    if rows is None or rows.shape[-1] < 2 * anchors or not rows.size:
        return None
    rows = rows.reshape(len(rows), -1, rows.shape[-1] // anchors)
    wins = np.bincount(rows.argmax(-1).reshape(-1), minlength=rows.shape[-1])
    chosen = int(wins.argmax())
    return chosen if wins[chosen] >= _RULES * wins.sum() and chosen in (0, rows.shape[-1] - 1) else None


def _grid_of(boxes: OutputFacts, picture: Picture | None) -> tuple[int, int, float | None]:
    """Rows, columns and stride of the grid that boxes stand on; zeros where a list joins several grids."""
    if boxes.grid[0] and len(boxes.shape) == 4:
        return *boxes.grid, boxes.stride
    if picture is None:
        return 0, 0, None
    for anchors in (1, 2, 3):
        for stride in _STRIDES:
            height, width = -(-picture.height // stride), -(-picture.width // stride)
            if height * width * anchors == boxes.places and height > 1:
                return height, width, float(stride)
    return 0, 0, None


def _roles(group: Sequence[OutputFacts], boxes: OutputFacts, scores: Sequence[OutputFacts]) -> dict[str, str]:
    roles = {one.name: "landmarks" for one in group}
    roles |= {one.name: "scores" for one in scores}
    if len(scores) == 2 and scores[1].columns == 1 and scores[0].columns >= 1:
        roles[scores[1].name] = "objectness"
    elif len(scores) == 2 and scores[0].columns == 1:
        roles[scores[0].name] = "objectness"
    return roles | {boxes.name: "boxes"}


def find_centres(
    outputs: Sequence[OutputFacts],
) -> tuple[tuple[BoxHead, ...], dict[str, str]]:
    """Heads of maps with heat, sizes and offsets of centres on one grid (CenterNet), and the roles of these outputs."""
    maps = [one for one in outputs if one.is_float and len(one.shape) == 4 and one.grid[0]]
    grids = {one.grid for one in maps}
    if len(grids) != 1 or not maps[0].stride:
        return (), {}
    pairs = [one for one in maps if one.columns == 2 and row_squash(one) not in _SCORE_SQUASHES]
    rest = [one for one in maps if one not in pairs]
    heats = [one for one in rest if row_squash(one) == "sigmoid"] or rest[:1]
    if not pairs or not heats:
        return (), {}
    heat, sizes = heats[0], _choose_sizes(pairs)
    raw = row_squash(heat) != "sigmoid"
    roles = {one.name: "landmarks" for one in maps}
    roles |= {one.name: "numbers" for one in pairs} | {sizes.name: "boxes", heat.name: "scores"}
    head = BoxHead(
        boxes=Columns(output=sizes.name, axis=sizes.axis or 0, start=0, stop=2),
        form="offsets",
        scores=(Columns(output=heat.name, axis=heat.axis or 0, start=0, stop=heat.columns),),
        logits=(raw,),
        exclusive=(False,),
        height=heat.grid[0],
        width=heat.grid[1],
        stride=heat.stride,
    )
    return (head,), roles


def _choose_sizes(pairs: Sequence[OutputFacts]) -> OutputFacts:
    """Map of the sizes: the one with the larger numbers on samples, else the first."""
    if len(pairs) == 1 or any(one.values is None for one in pairs):
        return pairs[0]
    return max(pairs, key=lambda one: float(np.abs(one.values).mean()) if one.values is not None else 0.0)
