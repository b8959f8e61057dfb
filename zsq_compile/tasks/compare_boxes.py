"""Compare the boxes that two detectors find: those of one that the other finds too, and how near it is to a loss."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.boxes import (
    Floats,
    Integers,
    Outputs,
    Places,
    best_classes,
    best_scores,
    box_corners,
    box_groups,
    box_numbers,
    class_probabilities,
    place_count,
)
from zsq_compile.tasks.scores import least_probability, log_odds
from zsq_compile.tasks.suppress import OVERLAP, overlaps, pair_overlaps, suppress
from zsq_compile.tasks.task import BoxHead, Task, TaskQuality

MEASURE = "boxes with IoU above 0.9"
_CLOSE, _LOOSE = 0.9, 0.5
_FORGIVEN = 0.8  # the other may be so much less sure of a box before it counts as lost, as scores near a threshold are
_MOST = 400  # boxes of a sample before suppression
_STRONGEST = 128  # places of a sample that ``harm`` looks at: more than a picture has objects; no table compares counts
_LEAST = 1e-4  # probability
_SHIFT = 0.25  # box sizes that a spread of numbers of unknown meaning stands for


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """Boxes of one sample, strongest first: (k, 4) corners, (k,) scores, classes and groups (see ``box_groups``)."""

    corners: Floats
    scores: Floats
    classes: Integers
    groups: Integers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scored:
    """Probabilities (N, places) of the best classes of all heads behind each other; ``starts`` of each head."""

    scores: NDArray[np.float32]
    starts: Integers


def compare_boxes(task: Task, wanted: Outputs, got: Outputs) -> TaskQuality:
    """Compare what two detectors find; ``kept`` falls for lost boxes and, half as much, for extra ones.

    A box of the first above ``task.threshold`` is kept where the other has one of the same class above 0.8 of it; a box
    of the other above the threshold is extra where it overlaps none of the first's above 0.8 of it by half.
    """
    scored = _score(task.heads, wanted), _score(task.heads, got)
    spreads = [_spread(head, order, wanted, scored[0]) for order, head in enumerate(task.heads)]
    decoder = _Decoder(heads=task.heads, wanted=wanted, spreads=spreads, starts=scored[0].starts)
    least = task.threshold * _FORGIVEN
    count = close = loose = extra = 0
    error = 0.0
    for sample in range(len(scored[0].scores)):
        one, other = (
            decoder.find(outputs, own, sample, least) for outputs, own in zip((wanted, got), scored, strict=True)
        )
        own = one.scores >= task.threshold
        same = overlaps(one.corners, other.corners) * (one.groups[:, None] == other.groups[None])
        best = same[own].max(1, initial=0.0)
        count += int(own.sum())
        close += int((best > _CLOSE).sum())
        loose += int((best > _LOOSE).sum())
        extra += int((same[:, other.scores >= task.threshold].max(0, initial=0.0) < _LOOSE).sum())
        if other.scores.size:
            nearest = same[own].argmax(1)
            error += float(np.abs(one.scores[own] - other.scores[nearest])[best > _LOOSE].sum())
    share = count + extra / 2.0
    details = (
        {}
        if not count
        else {"IoU above 0.5": loose / count, "found again": close / count, "extra boxes": extra / count}
    )
    if loose:
        details["score error"] = error / loose
    return TaskQuality(
        measure=MEASURE,
        kept=close / share if share else None,
        count=count,
        harm=_harm(decoder, wanted, got, scored),
        details=details,
        weights={"kept": share, "harm": float(len(scored[0].scores)), "score error": float(loose)},
    )


def find_boxes(task: Task, outputs: Outputs, least: float, *, overlap: float = OVERLAP) -> list[Found]:
    """Return the boxes of every sample that a detector finds with at least such a probability, after suppression."""
    scored = _score(task.heads, outputs)
    spreads = [_spread(head, order, outputs, scored) for order, head in enumerate(task.heads)]
    decoder = _Decoder(heads=task.heads, wanted=outputs, spreads=spreads, starts=scored.starts)
    return [decoder.find(outputs, scored, sample, least, overlap) for sample in range(len(scored.scores))]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Decoder:
    """Decodes boxes of all heads; numbers of unknown meaning are seen against those of ``wanted``."""

    heads: tuple[BoxHead, ...]
    wanted: Outputs
    spreads: list[Floats]
    starts: Integers

    def corners(self, outputs: Outputs, samples: Integers, places: Integers) -> Floats:
        """Decode places, numbered over all heads, to (k, 4) corners."""
        corners = np.zeros((len(places), 4))
        for order, own, where in self._by_head(samples, places):
            corners[own] = self._decoded(order, outputs, where)
        return corners

    def probabilities(self, outputs: Outputs, samples: Integers, places: Integers, classes: Integers) -> Floats:
        """Probability of classes at places, (k,)."""
        found = np.zeros(len(places))
        for order, own, where in self._by_head(samples, places):
            found[own] = class_probabilities(self.heads[order], outputs, where, classes[own])
        return found

    def classes(self, outputs: Outputs, samples: Integers, places: Integers) -> Integers:
        """Best class at places, (k,)."""
        found = np.zeros(len(places), np.int64)
        for order, own, where in self._by_head(samples, places):
            found[own] = best_classes(self.heads[order], outputs, where)
        return found

    def find(self, outputs: Outputs, scored: _Scored, sample: int, least: float, overlap: float = OVERLAP) -> Found:
        """Find the boxes of a sample."""
        places = np.flatnonzero(scored.scores[sample] >= least)
        if len(places) > _MOST:
            places = places[np.argpartition(-scored.scores[sample, places], _MOST)[:_MOST]]
        samples = np.full(len(places), sample)
        scores, classes = scored.scores[sample, places].astype(np.float64), self.classes(outputs, samples, places)
        corners, groups = self.corners(outputs, samples, places), np.zeros(len(places), np.int64)
        for order, own, where in self._by_head(samples, places):
            groups[own] = box_groups(self.heads[order], order, where, classes[own])
        kept = suppress(corners, scores, groups, overlap)
        return Found(corners=corners[kept], scores=scores[kept], classes=classes[kept], groups=groups[kept])

    def partners(
        self, source: Outputs, other: Outputs, samples: Integers, places: Integers
    ) -> tuple[Integers, NDArray[np.bool_]]:
        """Return the (k,) places of another network's outputs to compare with, and where there is one."""
        partners, found = places.copy(), np.ones(len(places), bool)
        for order, own, where in self._by_head(samples, places):
            if self.heads[order].labels is not None:
                chosen, there = _nearest_boxes(self.heads[order], source, other, where)
                partners[own], found[own] = chosen + self.starts[order], there
        return partners, found

    def _by_head(self, samples: Integers, places: Integers) -> list[tuple[int, NDArray[np.bool_], Places]]:
        heads = np.searchsorted(self.starts, places, side="right") - 1
        parts = []
        for order in np.unique(heads):
            own = heads == order
            parts.append((int(order), own, Places(samples=samples[own], places=places[own] - self.starts[order])))
        return parts

    def _decoded(self, order: int, outputs: Outputs, where: Places) -> Floats:
        head = self.heads[order]
        numbers = box_numbers(head, outputs, where)
        if head.form != "numbers":
            return box_corners(head, numbers, outputs, where)
        error = (numbers - box_numbers(head, self.wanted, where)) / self.spreads[order]
        shift = _SHIFT * np.sqrt(np.mean(np.square(error), axis=1))
        zeros = np.zeros(len(shift))
        return np.stack([shift, zeros, shift + 1.0, zeros + 1.0], 1)


def _nearest_boxes(head: BoxHead, source: Outputs, other: Outputs, where: Places) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the (k,) places that other outputs have the nearest box of the same label at, and whether there is one."""
    chosen, found = np.zeros(len(where.places), np.int64), np.zeros(len(where.places), bool)
    count = place_count(head, other)
    corners, labels = _labelled_boxes(head, source, where)
    for sample in np.unique(where.samples) if count else ():
        own = where.samples == sample
        rest, others = _labelled_boxes(
            head, other, Places(samples=np.full(count, sample), places=np.arange(count, dtype=np.int64))
        )
        table = overlaps(corners[own], rest) * (labels[own][:, None] == others[None])
        touched, same = table.max(1) > 0.0, np.minimum(where.places[own], count - 1)
        chosen[own] = np.where(touched, table.argmax(1), same)  # places that are filled up touch nothing
        found[own] = touched | (labels[own] == others[same])
    return chosen, found


def _labelled_boxes(head: BoxHead, outputs: Outputs, where: Places) -> tuple[Floats, Integers]:
    return box_corners(head, box_numbers(head, outputs, where), outputs, where), best_classes(head, outputs, where)


def _score(heads: tuple[BoxHead, ...], outputs: Outputs) -> _Scored:
    parts = [best_scores(head, outputs) for head in heads]
    starts = np.cumsum([0, *(scores.shape[1] for scores in parts[:-1])])
    return _Scored(scores=np.nan_to_num(np.concatenate(parts, 1)), starts=starts)


def _spread(head: BoxHead, order: int, outputs: Outputs, scored: _Scored) -> Floats:
    """Spread of box numbers of unknown meaning at the strongest places, (numbers,); nothing of others."""
    if head.form != "numbers":
        return np.ones(1)
    start = scored.starts[order]
    stop = scored.starts[order + 1] if order + 1 < len(scored.starts) else scored.scores.shape[1]
    samples, places = _strongest(scored.scores[:, start:stop])
    spread = box_numbers(head, outputs, Places(samples=samples, places=places)).std(0)
    return np.asarray(np.maximum(spread, 1e-6 + 1e-3 * spread.max(initial=0.0)))


def _strongest(scores: NDArray[np.float32]) -> tuple[Integers, Integers]:
    """Return the samples and places of the strongest places of each sample, (k,) each."""
    count = min(_STRONGEST, scores.shape[1])
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return np.repeat(np.arange(len(scores)), count), chosen.reshape(-1).astype(np.int64)


def _harm(decoder: _Decoder, wanted: Outputs, got: Outputs, scored: tuple[_Scored, _Scored]) -> float:
    """Change of log-odds and boxes where either answers most, weighted by the square of its probability.

    Places are compared with themselves; in a list with labels, which is sorted by scores, with the box of the other
    that has the same label and overlaps most.
    """
    total = weight = 0.0
    least = least_probability(float(scored[0].scores.max(initial=0.0)), _LEAST)
    for own, source, other in ((scored[0], wanted, got), (scored[1], got, wanted)):
        samples, places = _strongest(own.scores)
        classes = decoder.classes(source, samples, places)
        partners, found = decoder.partners(source, other, samples, places)
        one = decoder.probabilities(source, samples, places, classes)
        two = np.zeros(len(places))
        two[found] = decoder.probabilities(other, samples[found], partners[found], classes[found])
        changed = np.abs(log_odds(one, least) - log_odds(two, least)) / 2.0
        boxes = np.zeros(len(places))
        here = decoder.corners(source, samples[found], places[found])
        there = decoder.corners(other, samples[found], partners[found])
        boxes[found] = np.where((here == there).all(1), 1.0, pair_overlaps(here, there))  # 0 of two without an area
        moved = (1.0 - boxes) / (1.0 - _CLOSE)
        change = changed + np.square(moved)
        weights = np.square(own.scores[samples, places].astype(np.float64)) + 1e-12
        total += float(np.sum(weights * change / (1.0 + change)))
        weight += float(np.sum(weights))
    return total / max(weight, 1e-12) if np.isfinite(total) else float("inf")
