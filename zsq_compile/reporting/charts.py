"""Geometry of the report's charts: numbers to places on a sheet of 720 units; the templates draw them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 24.0, 14.0, 30.0
_MOST_TICKS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column, from the ground up; ``note`` is shown when it is pointed at, ``mark`` stands above it."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    note: str
    mark: str = ""
    dot: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve; ``points`` is what an SVG polyline takes, ``end`` its last point."""

    points: str
    tone: str
    label: str
    end: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart with a scale on the left: columns, curves, or both.

    Attributes:
        name: what it shows, for those who cannot see it.
        unit: of the scale.
        ticks: on the left.
        bottom_ticks: below.
        columns: in order.
        lines: in order.
        ground: where the columns stand.
        limit: a place to compare with, and what it means.

    """

    name: str
    unit: str
    ticks: tuple[Tick, ...]
    bottom_ticks: tuple[Tick, ...] = ()
    columns: tuple[Column, ...] = ()
    lines: tuple[Line, ...] = ()
    ground: float = HEIGHT - _BOTTOM
    limit: Tick | None = None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A bar of parts beside each other, each with its share of the sheet, 0 to 100, and what it is."""

    label: str
    text: str
    parts: tuple[tuple[float, float, str, str], ...]
    spread: tuple[float, float] | None = None


def column_chart(
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    notes: Sequence[str],
    tones: Sequence[str] | None = None,
    marks: Sequence[str] | None = None,
    dots: Sequence[float] | None = None,
    logarithmic: bool = False,
    limit: tuple[float, str] | None = None,
) -> Chart:
    """Draw one column for each value, a dot on it where ``dots`` has a second number.

    A logarithmic scale takes values above 0 only; smaller ones are drawn as the smallest of the others.
    """
    given = [*values, *(dots or ()), *([limit[0]] if limit else [])]
    scale = _LogScale(given) if logarithmic else _Scale([0.0, *given])
    room = (WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    ground = scale.place(0.0) if not logarithmic else HEIGHT - _BOTTOM
    columns = []
    for number, value in enumerate(values):
        top = scale.place(value)
        columns.append(
            Column(
                x=_round(_LEFT + room * (number + 0.5) - 0.5 * min(0.78 * room, 46.0)),
                y=_round(min(top, ground)),
                width=_round(min(0.78 * room, 46.0)),
                height=_round(max(abs(ground - top), 1.0)),
                tone=tones[number] if tones else "plain",
                note=notes[number],
                mark=marks[number] if marks else "",
                dot=_round(scale.place(dots[number])) if dots else None,
            )
        )
    last = len(values)
    bottom = [Tick(place=_round(_LEFT + room * (n - 0.5)), text=str(n)) for n in _landmarks(last)]
    drawn = None if limit is None else Tick(place=_round(scale.place(limit[0])), text=limit[1])
    return Chart(
        name=name,
        unit=unit,
        ticks=scale.ticks(),
        bottom_ticks=tuple(bottom),
        columns=tuple(columns),
        ground=_round(ground),
        limit=drawn,
    )


def line_chart(
    name: str, unit: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, logarithmic: bool = False
) -> Chart:
    """Draw curves of (x, y) points, x rising from the left; see ``column_chart`` for the scale."""
    heights = [y for _, points in curves for _, y in points]
    scale = _LogScale(heights) if logarithmic else _Scale(heights)
    widths = [x for _, points in curves for x, _ in points]
    low, high = min(widths), max(widths)
    across = (WIDTH - _LEFT - _RIGHT - 12.0) / max(high - low, 1e-9)
    lines = []
    for number, (label, points) in enumerate(curves):
        places = [(_round(_LEFT + 6.0 + across * (x - low)), _round(scale.place(y))) for x, y in points]
        lines.append(
            Line(
                points=" ".join(f"{x:g},{y:g}" for x, y in places),
                tone=("plain", "second", "third")[number % 3],
                label=label,
                end=places[-1],
            )
        )
    ends = [Tick(place=_round(_LEFT + 6.0 + across * (x - low)), text=f"{x:g}") for x in dict.fromkeys((low, high))]
    return Chart(name=name, unit=unit, ticks=scale.ticks(), bottom_ticks=tuple(ends), lines=tuple(lines))


def bar(
    label: str,
    text: str,
    parts: Sequence[tuple[float, str, str]],
    most: float,
    spread: tuple[float, float] | None = None,
) -> Bar:
    """Lay parts (amount, tone, what it is) beside each other; ``most`` fills the whole sheet."""
    placed, start = [], 0.0
    for amount, tone, note in parts:
        share = 100.0 * amount / max(most, 1e-12)
        placed.append((_round(start), _round(share), tone, note))
        start += share
    ends = None if spread is None else (_round(100.0 * spread[0] / most), _round(100.0 * spread[1] / most))
    return Bar(label=label, text=text, parts=tuple(placed), spread=ends)


class _Scale:
    """A linear scale over all values, with round ticks."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        span = high - low or abs(high) or 1.0
        self._step = _round_step(span / _MOST_TICKS)
        self._low, self._high = math.floor(low / self._step) * self._step, math.ceil(high / self._step) * self._step
        if self._high <= self._low:
            self._high = self._low + self._step

    def place(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def ticks(self) -> tuple[Tick, ...]:
        count = round((self._high - self._low) / self._step)
        values = [self._low + number * self._step for number in range(count + 1)]
        return tuple(Tick(place=_round(self.place(value)), text=f"{_clean(value, self._step):g}") for value in values)


class _LogScale:
    """A logarithmic scale over all values above 0, with ticks at powers of ten, or at 1, 2 and 5 of a short one."""

    def __init__(self, values: Sequence[float]) -> None:
        above = [value for value in values if value > 0.0] or [1.0]
        self._smallest = min(above)
        # room below the smallest, so that its column can be seen
        self._low, self._high = math.log10(self._smallest) - 0.15, math.log10(max(above)) + 0.05
        if self._high - self._low < 0.5:
            middle = 0.5 * (self._low + self._high)
            self._low, self._high = middle - 0.25, middle + 0.25

    def place(self, value: float) -> float:
        share = (math.log10(max(value, self._smallest)) - self._low) / (self._high - self._low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def ticks(self) -> tuple[Tick, ...]:
        powers = range(math.ceil(self._low), math.floor(self._high) + 1)
        every = max(1, math.ceil(len(powers) / _MOST_TICKS))
        values = [10.0**power for power in powers if (power - powers.start) % every == 0]
        if len(powers) < 3:
            around = range(math.floor(self._low), math.ceil(self._high) + 1)
            values = [step * 10.0**power for power in around for step in (1.0, 2.0, 5.0)]
        inside = [value for value in values if self._low <= math.log10(value) <= self._high]
        return tuple(Tick(place=_round(self.place(value)), text=f"{value:g}") for value in inside)


def _round_step(least: float) -> float:
    """Smallest of 1, 2 or 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= least * (1.0 - 1e-9))


def _clean(value: float, step: float) -> float:
    return 0.0 if abs(value) < 1e-9 * step else round(value, 12)


def _landmarks(last: int) -> list[int]:
    """Numbers to write below so many columns: the first, the last, and round ones between."""
    if last <= 12:
        return list(range(1, last + 1))
    step = int(_round_step(last / _MOST_TICKS))
    between = [number for number in range(step, last, step) if last - number > step / 2]
    return [1, *between, last]


def _round(value: float) -> float:
    return round(value, 2)
