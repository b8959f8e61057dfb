"""Scenes of drawn shapes whose boxes are known, to train and to judge detectors on. Synthesis never sees them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CLASSES: tuple[str, ...] = ("disc", "box", "triangle", "star", "ring")

_FACTOR = 2  # scenes are drawn so many times larger, for soft edges
_SMALLEST, _MOST = 14, 0.6  # least side of a thing in pixels, and its largest share of the scene's side
_HIDDEN = 0.15  # share of a thing's box that another may cover

Array = NDArray[np.float32]
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """A picture and what stands in it.

    Attributes:
        pixels: (side, side, 3) bytes, RGB.
        boxes: (things, 4): x1, y1, x2, y2 in pixels.
        labels: (things,) numbers in ``CLASSES``.

    """

    pixels: NDArray[np.uint8]
    boxes: Array
    labels: NDArray[np.int64]


def draw_scene(gen: np.random.Generator, side: int) -> Scene:
    """Draw up to eight things before a background that has lines and patches of its own."""
    page = _background(gen, _FACTOR * side)
    draw, boxes, labels = ImageDraw.Draw(page), [], []
    for _ in range(int(gen.integers(1, 9))):
        size = _SMALLEST * (_MOST * side / _SMALLEST) ** gen.random()
        wide, tall = size * np.exp(gen.normal(0.0, 0.2, 2))
        left, top = gen.uniform(1, side - 1 - min(wide, side - 2)), gen.uniform(1, side - 1 - min(tall, side - 2))
        box = (left, top, min(left + wide, side - 1), min(top + tall, side - 1))
        if any(_covered(box, other) > _HIDDEN or _covered(other, box) > _HIDDEN for other in boxes):
            continue
        label = int(gen.integers(len(CLASSES)))
        boxes.append(_paint(gen, draw, label, box))
        labels.append(label)
    small = page.reduce(_FACTOR)
    if gen.random() < 0.3:
        small = small.filter(ImageFilter.GaussianBlur(gen.uniform(0.3, 1.0)))
    noisy = np.asarray(small, np.float32) + gen.uniform(0, 10) * gen.standard_normal((side, side, 3), np.float32)
    return Scene(
        pixels=np.clip(np.rint(noisy), 0, 255).astype(np.uint8),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
    )


def _covered(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Share of ``one`` that ``other`` covers."""
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    tall = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    return wide * tall / max((one[2] - one[0]) * (one[3] - one[1]), 1e-6)


def _background(gen: np.random.Generator, side: int) -> Image.Image:
    """Draw clouds of colours, and in half of the scenes lines and dull patches, which are no things."""
    coarse = int(gen.choice((2, 3, 5, 9)))
    spread = gen.uniform(5, 60)
    colours = gen.uniform(30, 225, (1, 1, 3)) + spread * gen.standard_normal((coarse, coarse, 3))
    page = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(page)
    if gen.random() < 0.5:
        for _ in range(int(gen.integers(1, 8))):
            points = [tuple(float(one) for one in gen.uniform(0, side, 2)) for _ in range(int(gen.integers(2, 4)))]
            draw.line(points, _colour(gen), int(gen.integers(1, 5)))
    return page


def _colour(gen: np.random.Generator) -> Colour:
    red, green, blue = (int(one) for one in gen.integers(0, 256, 3))
    return red, green, blue


def _paint(
    gen: np.random.Generator, draw: ImageDraw.ImageDraw, label: int, box: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """Paint a thing and return the box that it fills."""
    left, top, right, bottom = (_FACTOR * one for one in box)
    fill, edge = _colour(gen), _colour(gen) if gen.random() < 0.5 else None
    pen, name = max(1, round(0.03 * (right - left))), CLASSES[label]
    if name == "disc":
        draw.ellipse((left, top, right, bottom), fill, edge, pen)
        return box[0], box[1], box[2], box[3]
    if name == "ring":
        draw.ellipse((left, top, right, bottom), None, fill, max(3, round(gen.uniform(0.12, 0.25) * (right - left))))
        return box[0], box[1], box[2], box[3]
    if name == "box":
        draw.rounded_rectangle((left, top, right, bottom), 0.0, fill, edge, pen)
        return box[0], box[1], box[2], box[3]
    corners = 3 if name == "triangle" else 10
    turn = gen.uniform(0, 2 * math.pi)
    angles = turn + np.arange(corners) * 2 * math.pi / corners
    reach = np.ones(corners) if corners == 3 else np.where(np.arange(corners) % 2, 0.45, 1.0)
    x = 0.5 * (left + right) + 0.5 * (right - left) * reach * np.cos(angles)
    y = 0.5 * (top + bottom) + 0.5 * (bottom - top) * reach * np.sin(angles)
    draw.polygon([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill, edge)
    ends = (x.min(), y.min(), x.max(), y.max())
    return ends[0] / _FACTOR, ends[1] / _FACTOR, ends[2] / _FACTOR, ends[3] / _FACTOR


def box_overlaps(one: Array, other: Array) -> Array:
    """Intersection over union of (N, 4) and (M, 4) boxes: (N, M)."""
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    inside = np.clip(high - low, 0.0, None).prod(-1)
    areas = [np.clip(part[:, 2:] - part[:, :2], 0.0, None).prod(-1) for part in (one, other)]
    found: Array = inside / (areas[0][:, None] + areas[1][None, :] - inside + 1e-9)
    return found


def suppress(boxes: Array, scores: Array, *, least: float, limit: float = 0.5, most: int = 300) -> list[Array]:
    """Drop all boxes but the best of those that overlap, class by class.

    Args:
        boxes: (places, 4), x1, y1, x2, y2.
        scores: (places, classes).
        least: score from which on a box counts.
        limit: intersection over union from which on two boxes show one thing.
        most: boxes that are looked at.

    Returns:
        One (6,) row for each box, best first: x1, y1, x2, y2, score, class.

    """
    places, classes = np.nonzero(scores > least)
    order = np.argsort(-scores[places, classes], kind="stable")[:most]
    rows = np.column_stack([boxes[places], scores[places, classes], classes])[order].astype(np.float32)
    overlaps = box_overlaps(rows[:, :4], rows[:, :4])
    kept: list[int] = []
    for number in range(len(rows)):
        if all(overlaps[number, other] < limit or rows[number, 5] != rows[other, 5] for other in kept):
            kept.append(number)
    return [rows[number] for number in kept]


def mean_precision(found: list[list[Array]], scenes: list[Scene], overlap: float = 0.5) -> float:
    """Mean over classes of the average precision (all points, Everingham et al. 2010), 0 to 1."""
    precisions = []
    for label in range(len(CLASSES)):
        hits: list[tuple[float, bool]] = []
        wanted = 0
        for rows, scene in zip(found, scenes, strict=True):
            truth = scene.boxes[scene.labels == label]
            wanted += len(truth)
            free = np.ones(len(truth), bool)
            for row in (one for one in rows if one[5] == label):
                shares = box_overlaps(row[None, :4], truth)[0] * free if len(truth) else np.zeros(0)
                hit = bool(len(shares)) and float(shares.max()) >= overlap
                if hit:
                    free[int(shares.argmax())] = False
                hits.append((float(row[4]), hit))
        right = np.asarray([hit for _, hit in sorted(hits, key=lambda one: -one[0])], float)
        recall = np.cumsum(right) / max(wanted, 1)
        precision = np.cumsum(right) / (np.arange(len(right)) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        precisions.append(float((np.diff(recall, prepend=0.0) * envelope).sum()))
    return float(np.mean(precisions))
