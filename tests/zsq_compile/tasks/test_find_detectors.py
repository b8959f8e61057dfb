"""Boxes and scores of detectors are found by structure alone: outputs are called "0", "1" and so on."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest

from tests.zsq_compile.tasks import drawing, heads
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import BoxForm


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the first head of a detector must be; ``scores`` as (output, start, stop)."""

    form: BoxForm
    boxes: tuple[str, int, int, int]
    scores: tuple[tuple[str, int, int], ...]
    logits: bool = False
    exclusive: bool = False
    heads: int = 1
    grid: tuple[int, int] = (0, 0)
    stride: float | None = None
    nothing: int | None = field(default=None)


_GRID = {"heads": 3, "grid": (8, 12), "stride": 8.0}
_DETECTORS = {
    "yolov8": (drawing.yolov8(), Wanted(form="center and size", boxes=("0", 1, 0, 4), scores=(("0", 4, 7),))),
    "yolov8 turned": (
        drawing.yolov8(turned=True, classes=80),
        Wanted(form="center and size", boxes=("0", 2, 0, 4), scores=(("0", 4, 84),)),
    ),
    "yolov8 without bins": (
        drawing.yolov8(bins=1, classes=1),
        Wanted(form="center and size", boxes=("0", 1, 0, 4), scores=(("0", 4, 5),)),
    ),
    "yolov8 corners": (
        drawing.yolov8(corners=True),
        Wanted(form="corners", boxes=("0", 1, 0, 4), scores=(("0", 4, 7),)),
    ),
    "yolov8 with masks": (
        drawing.yolov8(extra=32),
        Wanted(form="center and size", boxes=("0", 1, 0, 4), scores=(("0", 4, 7),)),
    ),
    "yolov8 raw": (
        drawing.yolov8_raw(),
        Wanted(form="bins", boxes=("0", 1, 0, 64), scores=(("0", 64, 67),), logits=True, **_GRID),
    ),
    "yolov8 raw apart": (
        drawing.yolov8_raw(apart=True),
        Wanted(form="bins", boxes=("0", 1, 0, 64), scores=(("1", 0, 3),), logits=True, **_GRID),
    ),
    "yolov5 raw": (
        drawing.yolov5_raw(),
        Wanted(
            form="offsets", boxes=("0", 1, 0, 4), scores=(("0", 4, 5), ("0", 5, 8)), logits=True, **_GRID | {"heads": 9}
        ),
    ),
    "yolov5 raw by anchor": (
        drawing.yolov5_raw(split=True, classes=80),
        Wanted(form="offsets", boxes=("0", 4, 0, 4), scores=(("0", 4, 5), ("0", 5, 85)), logits=True, **_GRID),
    ),
    "yolov2": (
        drawing.yolov5_raw(anchors=5, classes=20, strides=(32,)),
        Wanted(
            form="offsets",
            boxes=("0", 1, 0, 4),
            scores=(("0", 4, 5), ("0", 5, 25)),
            logits=True,
            heads=5,
            grid=(2, 3),
            stride=32.0,
        ),
    ),
    "yolov5": (
        drawing.yolov5(),
        Wanted(form="center and size", boxes=("0", 2, 0, 4), scores=(("0", 4, 5), ("0", 5, 8))),
    ),
    "yolox": (
        drawing.yolox(),
        Wanted(form="center and size", boxes=("0", 2, 0, 4), scores=(("0", 4, 5), ("0", 5, 8))),
    ),
    "yolox raw": (
        drawing.yolox(decoded=False),
        Wanted(form="offsets", boxes=("0", 2, 0, 4), scores=(("0", 4, 5), ("0", 5, 8))),
    ),
    "yolox maps": (
        drawing.yolox(maps=True, classes=80),
        Wanted(form="offsets", boxes=("0", 1, 0, 4), scores=(("0", 4, 5), ("0", 5, 85)), **_GRID),
    ),
    "ssd": (
        heads.ssd(),
        Wanted(form="offsets", boxes=("1", 2, 0, 4), scores=(("0", 0, 5),), exclusive=True, nothing=0),
    ),
    "ssd decoded": (
        heads.ssd(decoded=True, classes=2, anchors=1),
        Wanted(form="corners", boxes=("1", 2, 0, 4), scores=(("0", 0, 2),), exclusive=True, nothing=0),
    ),
    "ssd maps": (
        heads.ssd_maps(),
        Wanted(form="offsets", boxes=("0", 1, 0, 8), scores=(("3", 0, 10),), logits=True, **_GRID),
    ),
    "retinaface": (
        heads.ssd(landmarks=True, classes=2),
        Wanted(form="offsets", boxes=("0", 2, 0, 4), scores=(("1", 0, 2),), exclusive=True, nothing=0),
    ),
    "fcos": (
        heads.fcos(),
        Wanted(form="distances", boxes=("3", 1, 0, 4), scores=(("6", 0, 1), ("0", 0, 3)), logits=True, **_GRID),
    ),
    "fcos lists": (
        heads.fcos(lists=True, exp=False, classes=80),
        Wanted(form="distances", boxes=("3", 2, 0, 4), scores=(("0", 0, 80), ("6", 0, 1)), **_GRID),
    ),
    "yunet": (
        heads.yunet(),
        Wanted(form="offsets", boxes=("6", 2, 0, 4), scores=(("0", 0, 1), ("3", 0, 1)), **_GRID),
    ),
    "centernet": (
        heads.centernet(sigmoid=False, classes=80, points=17),
        Wanted(form="offsets", boxes=("1", 1, 0, 2), scores=(("0", 0, 80),), logits=True, grid=(16, 24), stride=4.0),
    ),
    "centerface": (
        heads.centernet(classes=1, points=5),
        Wanted(form="offsets", boxes=("1", 1, 0, 2), scores=(("0", 0, 1),), grid=(16, 24), stride=4.0),
    ),
    "nanodet": (heads.nanodet(), Wanted(form="bins", boxes=("0", 2, 3, 35), scores=(("0", 0, 3),))),
    "detr": (
        heads.detr(),
        Wanted(form="center and size", boxes=("1", 2, 0, 4), scores=(("0", 0, 7),), logits=True),
    ),
    "yolov10": (heads.yolov10(), Wanted(form="corners", boxes=("0", 2, 0, 4), scores=(("0", 4, 5),))),
}


@pytest.mark.parametrize("name", _DETECTORS)
def test_boxes_and_scores_are_found_by_structure(name: str) -> None:
    """The first head, the number of heads and the grid are those that the graph was drawn with."""
    model, wanted = _DETECTORS[name]

    task = find_task(model)

    assert (task.kind, len(task.heads)) == ("detection", wanted.heads)
    head = task.heads[0]
    boxes = head.boxes
    assert (head.form, (boxes.output, boxes.axis, boxes.start, boxes.stop)) == (wanted.form, wanted.boxes)
    assert tuple((one.output, one.start, one.stop) for one in head.scores) == wanted.scores
    assert {head.logits, head.exclusive} == {
        tuple(wanted.logits for _ in wanted.scores),
        tuple(wanted.exclusive for _ in wanted.scores),
    }
    assert (head.height, head.width) == wanted.grid
    assert (head.stride, head.nothing) == (wanted.stride, wanted.nothing)


def test_number_of_a_class_is_a_label() -> None:
    """An end-to-end detector gives one score and the number of the class behind it."""
    (head,) = find_task(heads.yolov10()).heads

    assert head.labels is not None
    assert (head.labels.start, head.labels.stop) == (5, 6)


def test_samples_tell_corners_background_and_exclusion() -> None:
    """Logits of which the last class rules exclude each other; boxes whose ends are in order are corners."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 20, 7))
    logits[..., 6] += 8.0
    low = rng.random((2, 20, 2))
    boxes = np.concatenate([low, low + 0.1], 2)

    (head,) = find_task(heads.detr(), {"0": logits.astype(np.float32), "1": boxes.astype(np.float32)}).heads

    assert (head.exclusive, head.nothing, head.form) == ((True,), 6, "corners")


def test_anchors_are_told_by_channels_that_repeat() -> None:
    """54 channels are 3 anchors of 18 numbers, and not 9 of 6, where every 18th behaves alike."""
    model = drawing.yolov5_raw(anchors=3, classes=13, strides=(16,))
    rng = np.random.default_rng(0)
    profile = np.tile(np.r_[rng.standard_normal(4), -6.0, -3.0 + rng.standard_normal(13)], 3)
    values = profile[None, :, None, None] + 0.1 * rng.standard_normal((2, 54, 4, 6))

    task = find_task(model, {"0": values.astype(np.float32)})

    assert len(task.heads) == 3
    assert (task.heads[1].boxes.start, task.heads[1].scores[1].stop) == (18, 36)


@pytest.mark.parametrize("model", [heads.ssd(classes=4, softmax=True)], ids=["four classes"])
def test_four_classes_are_no_boxes(model: ir.Model) -> None:
    """Scores of four classes are told from boxes by their softmax."""
    (head,) = find_task(model).heads

    assert (head.boxes.output, head.scores[0].output) == ("1", "0")
