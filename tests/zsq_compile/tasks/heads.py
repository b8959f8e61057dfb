"""Draw detectors whose boxes and scores are outputs of their own, and end-to-end ones."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tests.zsq_compile.tasks.drawing import Drawing, centres


def ssd(
    *, classes: int = 5, anchors: int = 2, softmax: bool = True, landmarks: bool = False, decoded: bool = False
) -> ir.Model:
    """Lists over all grids: scores (N, places, classes), boxes (N, places, 4), and landmarks (N, places, 10)."""
    drawing = Drawing(1, 3, 64, 96)
    levels = drawing.levels()

    def head(columns: int) -> str:
        lists = [drawing.listed(drawing.conv(x, anchors * columns, 8), columns) for x in levels]
        return drawing.put("Concat", *lists, axis=1)

    scores, boxes = head(classes), head(4)
    if softmax:
        scores = drawing.put("Softmax", scores, axis=2)
    if decoded:
        points, strides = centres(drawing)
        at, size = (drawing.constant(np.repeat(one.T, anchors, 0)[None]) for one in (points, np.repeat(strides, 2, 0)))
        shift, growth = drawing.slice(boxes, 0, 2, 2), drawing.slice(boxes, 2, 4, 2)
        centre = drawing.put("Add", at, drawing.put("Mul", shift, size))
        half = drawing.put("Div", drawing.put("Mul", drawing.put("Exp", growth), size), drawing.constant(2.0))
        low, high = drawing.put("Sub", centre, half), drawing.put("Add", centre, half)
        boxes = drawing.put("Concat", low, high, axis=2)
    return drawing.model(*([boxes, scores, head(10)] if landmarks else [scores, boxes]))


def ssd_maps(*, classes: int = 5, anchors: int = 2) -> ir.Model:
    """Maps of each grid: boxes (N, anchors * 4, h, w), then class logits (N, anchors * classes, h, w)."""
    drawing = Drawing(1, 3, 64, 96)
    levels = drawing.levels()
    maps = [drawing.conv(x, anchors * 4, 8) for x in levels] + [drawing.conv(x, anchors * classes, 8) for x in levels]
    return drawing.model(*maps)


def fcos(*, classes: int = 3, exp: bool = True, lists: bool = False) -> ir.Model:
    """Class logits, distances and centerness of each grid, as maps or as lists."""
    drawing = Drawing(1, 3, 64, 96)
    levels = drawing.levels()
    scores = [
        drawing.put("Sigmoid", drawing.conv(x, classes, 8)) if lists else drawing.conv(x, classes, 8) for x in levels
    ]
    boxes = [drawing.put("Exp" if exp else "Relu", drawing.conv(x, 4, 8)) for x in levels]
    middles = [drawing.put("Sigmoid", drawing.conv(x, 1, 8)) if lists else drawing.conv(x, 1, 8) for x in levels]
    outputs = [*scores, *boxes, *middles]
    return drawing.model(
        *(
            [drawing.listed(x, size) for x, size in zip(outputs, [classes] * 3 + [4] * 3 + [1] * 3, strict=True)]
            if lists
            else outputs
        )
    )


def yunet() -> ir.Model:
    """Lists of each grid: class, objectness, boxes, points."""
    drawing = Drawing(1, 3, 64, 96)
    levels = drawing.levels()
    outputs = []
    for columns, squashed in ((1, True), (1, True), (4, False), (10, False)):
        for x in levels:
            rows = drawing.listed(drawing.conv(x, columns, 8), columns)
            outputs.append(drawing.put("Sigmoid", rows) if squashed else rows)
    return drawing.model(*outputs)


def centernet(*, classes: int = 3, points: int = 0, sigmoid: bool = True, order: Sequence[int] = (0, 1, 2)) -> ir.Model:
    """Heat, sizes and offsets of stride 4."""
    drawing = Drawing(1, 3, 64, 96)
    (x,) = drawing.levels((4,))
    heat = drawing.conv(x, classes, 8)
    maps = [drawing.put("Sigmoid", heat) if sigmoid else heat, drawing.conv(x, 2, 8), drawing.conv(x, 2, 8)]
    maps = [maps[place] for place in order]
    return drawing.model(*maps, *([drawing.conv(x, 2 * points, 8)] if points else []))


def nanodet(*, classes: int = 3, bins: int = 8) -> ir.Model:
    """Class probabilities and bins joined over all grids: (N, places, classes + 4 * bins)."""
    drawing = Drawing(1, 3, 64, 96)
    rows = []
    for x in drawing.levels():
        parts = drawing.put("Sigmoid", drawing.conv(x, classes, 8)), drawing.conv(x, 4 * bins, 8)
        rows.append(drawing.reshape(drawing.put("Concat", *parts, axis=1), 1, classes + 4 * bins, -1))
    return drawing.model(drawing.put("Transpose", drawing.put("Concat", *rows, axis=2), perm=[0, 2, 1]))


def detr(*, classes: int = 7, queries: int = 20) -> ir.Model:
    """Class logits (N, queries, classes) with nothing as the last, boxes (N, queries, 4) under a sigmoid."""
    drawing = Drawing(1, 3, 64, 96)
    (x,) = drawing.levels((16,), channels=queries)
    rows = drawing.reshape(x, 1, queries, -1)
    logits = drawing.dense(rows, classes, 24)
    return drawing.model(logits, drawing.put("Sigmoid", drawing.dense(rows, 4, 24)))


def yolov10(*, classes: int = 3, kept: int = 10) -> ir.Model:
    """The strongest boxes of a grid: (N, kept, 6) with corners, score and number of the class."""
    drawing = Drawing(1, 3, 64, 96)
    (x,) = drawing.levels((8,))
    points, strides = centres(drawing, (8,))
    at = drawing.constant(points.T[None])
    distances = drawing.put("Relu", drawing.listed(drawing.conv(x, 4, 8), 4))
    low = drawing.put("Sub", at, drawing.slice(distances, 0, 2, 2))
    high = drawing.put("Add", at, drawing.slice(distances, 2, 4, 2))
    boxes = drawing.put("Mul", drawing.put("Concat", low, high, axis=2), drawing.constant(strides.T[None]))
    scores = drawing.put("Sigmoid", drawing.listed(drawing.conv(x, classes, 8), classes))
    best = drawing.put("ReduceMax", scores, axes=[2], keepdims=0)
    _, places = drawing.put("TopK", best, drawing.constant([kept], np.int64), count=2, axis=1)
    index = drawing.put("Unsqueeze", places, drawing.constant([2], np.int64))
    boxes = drawing.put(
        "GatherElements", boxes, drawing.put("Tile", index, drawing.constant([1, 1, 4], np.int64)), axis=1
    )
    scores = drawing.put(
        "GatherElements", scores, drawing.put("Tile", index, drawing.constant([1, 1, classes], np.int64)), axis=1
    )
    flat = drawing.reshape(scores, 1, kept * classes)
    strongest, chosen = drawing.put("TopK", flat, drawing.constant([kept], np.int64), count=2, axis=1)
    labels = drawing.put("Mod", chosen, drawing.constant(classes, np.int64))
    parts = [
        drawing.put("Unsqueeze", one, drawing.constant([2], np.int64))
        for one in (strongest, drawing.put("Cast", labels, to=1))
    ]
    return drawing.model(drawing.put("Concat", boxes, *parts, axis=2))
