"""Geometry of the report's charts: numbers to places on a sheet of 720 units; the templates draw them as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH, HEIGHT = 720.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 24.0, 14.0, 30.0
_GROUND = HEIGHT - _BOTTOM
_MOST_TICKS = 5


class Tick(NamedTuple):
    """A labelled place on an axis."""

    place: float
    text: str


class Point(NamedTuple):
    """One value of a column chart: what is shown when it is pointed at, its colour, and a label above it."""

    value: float
    note: str
    tone: str = "plain"
    label: str = ""
    dot: float | None = None  # a second value


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column, from the ground up, and the place of its dot."""

    x: float
    y: float
    width: float
    height: float
    point: Point
    dot: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Columns or a curve, with a scale on the left.

    Attributes:
        name: for those who cannot see it.
        unit: of the scale.
        ticks: on the left.
        bottom_ticks: below.
        columns: in order.
        curve: places of the curve.
        ground: where the columns stand.
        limit: a place to compare with, and what it means.

    """

    name: str
    unit: str
    ticks: tuple[Tick, ...]
    bottom_ticks: tuple[Tick, ...]
    columns: tuple[Column, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    ground: float = _GROUND
    limit: Tick | None = None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT


class Bar(NamedTuple):
    """A bar of parts: start and width on a sheet of 100, tone and note of each; ``spread`` is a span on it."""

    label: str
    text: str
    parts: tuple[tuple[float, float, str, str], ...]
    spread: tuple[float, float] | None


def column_chart(
    name: str,
    unit: str,
    points: Sequence[Point],
    *,
    logarithmic: bool = False,
    limit: tuple[float, str] | None = None,
) -> Chart:
    """Place one column for each point. On a logarithmic scale, 0 is drawn as the smallest of the other values."""
    values = [value for point in points for value in (point.value, point.dot) if value is not None]
    values += [limit[0]] if limit else []
    place, ticks = _logarithmic(values) if logarithmic else _linear([0.0, *values])
    room = (WIDTH - _LEFT - _RIGHT) / max(len(points), 1)
    width, ground = min(0.78 * room, 46.0), _GROUND if logarithmic else place(0.0)
    columns = tuple(
        Column(
            x=round(_LEFT + room * (number + 0.5) - 0.5 * width, 2),
            y=round(min(place(point.value), ground), 2),
            width=round(width, 2),
            height=round(max(abs(ground - place(point.value)), 1.0), 2),
            point=point,
            dot=None if point.dot is None else place(point.dot),
        )
        for number, point in enumerate(points)
    )
    return Chart(
        name=name,
        unit=unit,
        ticks=ticks,
        bottom_ticks=tuple(Tick(round(_LEFT + room * (n - 0.5), 2), str(n)) for n in _landmarks(len(points))),
        columns=columns,
        ground=ground,
        limit=None if limit is None else Tick(place(limit[0]), limit[1]),
    )


def line_chart(name: str, unit: str, points: Sequence[tuple[float, float]]) -> Chart:
    """Place a curve of (x, y) points, x rising from the left, on a logarithmic scale."""
    place, ticks = _logarithmic([y for _, y in points])
    low, high = points[0][0], points[-1][0]
    across = (WIDTH - _LEFT - _RIGHT - 12.0) / max(high - low, 1e-9)
    xs = [round(_LEFT + 6.0 + across * (x - low), 2) for x, _ in points]
    return Chart(
        name=name,
        unit=unit,
        ticks=ticks,
        bottom_ticks=tuple({Tick(xs[end], f"{points[end][0]:g}"): None for end in (0, -1)}),
        curve=tuple((x, place(y)) for x, (_, y) in zip(xs, points, strict=True)),
    )


def bar(
    label: str,
    text: str,
    parts: Sequence[tuple[float, str, str]],
    most: float,
    spread: tuple[float, float] | None = None,
) -> Bar:
    """Place parts (amount, tone, note) beside each other; ``most`` fills the whole sheet."""
    placed, start = [], 0.0
    for amount, tone, note in parts:
        share = 100.0 * amount / max(most, 1e-12)
        placed.append((round(start, 2), round(share, 2), tone, note))
        start += share
    ends = None if spread is None else (round(100.0 * spread[0] / most, 2), round(100.0 * spread[1] / most, 2))
    return Bar(label, text, tuple(placed), ends)


_Scale = tuple[Callable[[float], float], tuple[Tick, ...]]


def _linear(values: Sequence[float]) -> _Scale:
    """Places on a scale over all values, with round ticks."""
    low, high = min(values), max(values)
    step = _round_step((high - low or abs(high) or 1.0) / _MOST_TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)

    def place(value: float) -> float:
        return _height((value / step - first) / (last - first))

    return place, tuple(Tick(place(n * step), f"{round(n * step, 12):g}") for n in range(first, last + 1))


def _logarithmic(values: Sequence[float]) -> _Scale:
    """Places on a scale over all values above 0, with ticks at powers of ten, or at 1, 2 and 5 of a short one."""
    above = [value for value in values if value > 0.0] or [1.0]
    smallest = min(above)
    # room below the smallest, so that its column can be seen
    low, high = math.log10(smallest) - 0.15, math.log10(max(above)) + 0.05
    if high - low < 0.8:  # room for two ticks at least
        low, high = 0.5 * (low + high) - 0.4, 0.5 * (low + high) + 0.4

    def place(value: float) -> float:
        return _height((math.log10(max(value, smallest)) - low) / (high - low))

    powers = range(math.ceil(low), math.floor(high) + 1)
    marks = [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / _MOST_TICKS))]]
    if len(powers) < 3:
        around = range(math.floor(low), math.ceil(high) + 1)
        marks = [step * 10.0**power for power in around for step in (1.0, 2.0, 5.0)]
    return place, tuple(Tick(place(mark), f"{mark:g}") for mark in marks if low <= math.log10(mark) <= high)


def _height(share: float) -> float:
    return round(_GROUND - share * (_GROUND - _TOP), 2)


def _round_step(least: float) -> float:
    """Smallest of 1, 2 or 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= least * (1.0 - 1e-9))


def _landmarks(last: int) -> list[int]:
    """Numbers to write below so many columns: the first, the last, and round ones between."""
    if last <= 12:
        return list(range(1, last + 1))
    step = int(_round_step(last / _MOST_TICKS))
    return [1, *(number for number in range(step, last, step) if last - number > step / 2), last]
