"""What a network is for, as its outputs tell it: values that recognition makes and comparison reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TaskKind = Literal[
    "classification",
    "detection",
    "segmentation",
    "heatmaps",
    "text",
    "decisions",
    "embedding",
    "regression",
    "image",
    "indices",
]
"""What decides how two networks are compared.

``classification``  one row of class scores for each sample: the same largest score.
``detection``       boxes with scores: matched boxes.
``segmentation``    a class, or a probability, for each pixel: equal pixels and intersection over union.
``heatmaps``        a map for each point, whose peak is the answer: distance of the peaks.
``text``            a row of character scores for each step, with a blank (CTC): equal texts.
``decisions``       probabilities of a sample or of steps in time: the same side of a threshold, and their error.
``embedding``       vectors that are compared with each other: cosine.
``regression``      landmarks, angles, boxes without scores, anything else: error in units of the output's spread.
``image``           pictures of the input's kind: peak signal to noise ratio.
``indices``         integers: equal ones.
"""

OutputRole = Literal[
    "class scores",
    "boxes",
    "scores",
    "objectness",
    "boxes and scores",
    "landmarks",
    "mask",
    "heatmap",
    "characters",
    "probabilities",
    "embedding",
    "numbers",
    "image",
    "indices",
    "count",
    "state",
]
"""What one output holds: ``state`` is one that goes back in, ``count`` says how many rows of others are valid."""

BoxForm = Literal["corners", "center and size", "distances", "offsets", "bins", "numbers"]
"""What the four numbers of a box are.

``corners``          x1, y1, x2, y2, in pixels or in shares of the picture.
``center and size``  cx, cy, w, h, likewise.
``distances``        left, top, right, bottom from the place's centre, in strides (FCOS).
``offsets``          dx, dy from the place, log w, log h (SSD, YuNet, RetinaFace; CenterNet with its size maps).
``bins``             four rows of bins whose softmax has the distance as its mean (DFL).
``numbers``          not known: compared where the place answers, in units of their spread.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputMeaning:
    """What one output holds.

    Attributes:
        name: of the output.
        role: see OutputRole.
        reason: a clause for the user, about "it".
        axis: of classes, characters, channels or columns, the batch being axis 0 whatever the file has; None without.
        scores: whether its numbers are "logits", "probabilities" or "log probabilities"; None where it has no scores.
        samples: axis of the samples in the file, 1 of (steps, samples, classes).
        entries: of axis 0 of the file for each sample, of a list without a batch, (samples * entries, columns), or of
            steps in front of the samples. Axes here and in heads are those of outputs that ``by_samples`` arranges.

    """

    name: str
    role: OutputRole
    reason: str
    axis: int | None = None
    scores: Literal["logits", "probabilities", "log probabilities"] | None = None
    samples: int = 0
    entries: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Some columns of an output: a contiguous range ``start`` to ``stop`` along ``axis``, the batch being axis 0."""

    output: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxHead:
    """Boxes of one grid or list: what to read off the outputs for each place, all parts with equally many places.

    Attributes:
        boxes: the box numbers, four for each place (times the bins of ``bins``; times the anchors of a place).
        form: what these numbers are.
        scores: parts whose probabilities are multiplied: objectness of one column, classes of several.
        logits: for each of ``scores``, whether a sigmoid has still to be taken; a softmax where ``exclusive``.
        exclusive: for each of ``scores``, whether its columns exclude each other, as under a softmax.
        labels: numbers of the classes, where these are given instead of scores of each class.
        nothing: column of ``scores`` that stands for background, in the part that excludes; None without.
        height: rows of the grid, 0 for a list without.
        width: its columns.
        stride: pixels of the input between two places; None where unknown.

    """

    boxes: Columns
    form: BoxForm
    scores: tuple[Columns, ...]
    logits: tuple[bool, ...]
    exclusive: tuple[bool, ...]
    labels: Columns | None = None
    nothing: int | None = None
    height: int = 0
    width: int = 0
    stride: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a network is for.

    Attributes:
        kind: see TaskKind.
        reason: a clause for the user: why it is thought to be of this kind, or that the user says so.
        outputs: what each holds, in the order of the graph.
        heads: of a detector, in the order of the graph.
        blank: class that stands for no character in a text.
        threshold: probability from which on an answer counts, in boxes, masks and decisions.
        asked: the user has named the kind.

    """

    kind: TaskKind
    reason: str
    outputs: tuple[OutputMeaning, ...] = ()
    heads: tuple[BoxHead, ...] = ()
    blank: int | None = None
    threshold: float = 0.5
    asked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskQuality:
    """How much of what one network says another says as well.

    Attributes:
        measure: what ``kept`` counts, such as "boxes with IoU above 0.9".
        kept: share of it that the other keeps, 0 to 1; None where the first network says nothing that could be kept.
        count: how many boxes, texts, decisions, pixels or samples ``kept`` is a share of.
        harm: a smooth measure of the same, 0 or more, 0 for equal outputs, comparable within one network: it tells two
            candidates apart where ``kept`` is the same. It is defined also where ``kept`` is None.
        details: other figures by name, such as "IoU above 0.5", "extra boxes", "mean error".
        weights: of ``kept``, ``harm`` and the details in a join of parts, where it is not ``count``.

    """

    measure: str
    kept: float | None
    count: int
    harm: float
    details: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
