"""Stretches of columns that come about alike, and how they are cut and put together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Squash = Literal[
    "none", "sigmoid", "softmax", "log softmax", "exp", "positive", "tanh", "unit length", "arithmetic", "constant"
]
"""What a stretch of numbers went through last. ``arithmetic``: with numbers that differ by place, such as the
centres of a grid; ``softmax`` and ``unit length`` along the axis of the columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Columns that come about alike.

    Attributes:
        size: number of columns.
        squash: what they went through last.
        layers: names of the first outputs of the layers that compute them.
        channels: whether they are channels there, and not places or samples.

    """

    size: int
    squash: Squash
    layers: frozenset[str]
    channels: bool = False


def cut_between(stretches: Sequence[Stretch], start: int, stop: int) -> list[Stretch]:
    """Cut the columns from ``start`` to ``stop`` out of stretches."""
    found, first = [], 0
    for one in stretches:
        size = min(stop, first + one.size) - max(start, first)
        if size > 0:
            found.append(replace(one, size=size))
        first += one.size
    return found


def merge_neighbours(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Join neighbours that come about alike."""
    found: list[Stretch] = []
    for one in stretches:
        if found and (found[-1].squash, found[-1].layers) == (one.squash, one.layers):
            found[-1] = replace(one, size=found[-1].size + one.size)
        else:
            found.append(one)
    return found


def agree(parts: Sequence[list[Stretch]]) -> list[Stretch] | None:
    """Stretches that hold for all parts, cut at the ends of each; a squash in which they differ is arithmetic."""
    if not parts or len({sum(one.size for one in part) for part in parts}) != 1:
        return None
    ends = sorted({end for part in parts for end in _ends(part)})
    found, start = [], 0
    for end in ends:
        pieces = [cut_between(part, start, end)[0] for part in parts]
        squashes = {one.squash for one in pieces}
        layers = frozenset(name for one in pieces for name in one.layers)
        squash = pieces[0].squash if len(squashes) == 1 else "arithmetic"
        channels = all(one.channels for one in pieces)
        found.append(Stretch(size=end - start, squash=squash, layers=layers, channels=channels))
        start = end
    return found


def _ends(part: Sequence[Stretch]) -> list[int]:
    ends, end = [], 0
    for one in part:
        end += one.size
        ends.append(end)
    return ends


def spread_over(part: list[Stretch], size: int) -> list[Stretch]:
    """Stretches of an operand with one column, or none, spread over all columns."""
    if sum(one.size for one in part) == 1 and size > 1:
        return [replace(part[0], size=size)]
    return part or [Stretch(size=size, squash="none", layers=frozenset())]


def are_shares(part: Sequence[Stretch]) -> bool:
    """Whether all columns are probabilities, or constants."""
    return bool(part) and all(one.squash in ("sigmoid", "softmax", "constant") for one in part)
