"""Draw the ends of networks that are no detectors."""

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

from tests.zsq_compile.tasks.drawing import Drawing


def classifier(*heads: int, squash: str | None = None, common: float = 0.0) -> ir.Model:
    """Rows of numbers (N, heads) behind a mean over places."""
    drawing = Drawing(1, 3, 64, 96)
    (x,) = drawing.levels((8,), channels=32)
    row = drawing.put("Flatten", drawing.put("GlobalAveragePool", x))
    rows = [drawing.dense(row, size, 32, common=common) for size in heads]
    return drawing.model(*(drawing.put(squash, one) if squash else one for one in rows))


def pooled(*, scores: bool) -> ir.Model:
    """The mean over places of scores, or of features behind a ReLU."""
    drawing = Drawing(1, 3, 64, 96)
    (x,) = drawing.levels((8,), channels=32)
    return drawing.model(
        drawing.put("Flatten", drawing.put("GlobalAveragePool", drawing.conv(x, 10, 32) if scores else x))
    )


def normalised() -> ir.Model:
    """Vectors that are divided by their length."""
    drawing = Drawing(1, 3, 64, 96)
    (x,) = drawing.levels((8,), channels=32)
    row = drawing.dense(drawing.put("Flatten", drawing.put("GlobalAveragePool", x)), 64, 32)
    length = drawing.put("Clip", drawing.put("ReduceL2", row, axes=[1], keepdims=1), drawing.constant(1e-12))
    return drawing.model(drawing.put("Div", row, length))


def maps(channels: int, *, squash: str | None = None, enlarge: int = 1, stride: int = 4, colours: int = 3) -> ir.Model:
    """Maps of a stride, enlarged by a Resize, and squashed."""
    drawing = Drawing(1, colours, 64, 96)
    (x,) = drawing.levels((stride,))
    x = drawing.conv(x, channels, 8)
    if enlarge > 1:
        x = drawing.put("Resize", x, "", drawing.constant([1.0, 1.0, enlarge, enlarge]), mode="linear")
    if squash == "ArgMax":
        return drawing.model(drawing.put("ArgMax", x, axis=1, keepdims=0))
    return drawing.model(
        x if squash is None else drawing.put(squash, x, **({"axis": 1} if squash == "Softmax" else {}))
    )


def upscaler(factor: int = 2) -> ir.Model:
    """A picture of more pixels than the input, by DepthToSpace."""
    drawing = Drawing(1, 1, 32, 32)
    x = drawing.put("Relu", drawing.conv("picture", 8, 1, kernel=3))
    return drawing.model(drawing.put("DepthToSpace", drawing.conv(x, factor * factor, 8), blocksize=factor))


def painter() -> ir.Model:
    """A picture of the input's kind, between -1 and 1."""
    drawing = Drawing(1, 3, 32, 32)
    x = drawing.put("Relu", drawing.conv("picture", 8, 3, kernel=3))
    return drawing.model(drawing.put("Tanh", drawing.conv(x, 3, 8)))


def reader(classes: int = 40, *, squash: str | None = "Softmax", recurrent: bool = False) -> ir.Model:
    """Scores of characters for each column of the features, (N, columns, classes)."""
    drawing = Drawing(1, 3, 32, 96)
    (x,) = drawing.levels((8,), channels=16)
    columns = drawing.put("ReduceMean", x, axes=[2], keepdims=0)  # (N, 16, 12)
    if recurrent:
        steps = drawing.put("Transpose", columns, perm=[2, 0, 1])
        weights = [drawing.constant(0.1 * np.ones(shape)) for shape in ((1, 32, 16), (1, 32, 8))]
        whole, _, _ = drawing.put("LSTM", steps, *weights, count=3, hidden_size=8)
        rows = drawing.put("Transpose", drawing.put("Squeeze", whole, drawing.constant([1], np.int64)), perm=[1, 0, 2])
        scores = drawing.dense(rows, classes, 8)
    else:
        scores = drawing.dense(drawing.put("Transpose", columns, perm=[0, 2, 1]), classes, 16)
    return drawing.model(drawing.put(squash, scores, axis=2) if squash else scores)


def listener() -> ir.Model:
    """A voice detector: an LSTM from states that it hands on, one probability a step."""
    drawing = Drawing(5, 1, 4, 4)
    first = drawing.feed("h", (1, 1, 8)), drawing.feed("c", (1, 1, 8))
    steps = drawing.reshape("picture", 5, 1, 16)
    weights = [drawing.constant(0.1 * np.ones(shape)) for shape in ((1, 32, 16), (1, 32, 8))]
    whole, h, c = drawing.put("LSTM", steps, *weights, "", "", *first, count=3, hidden_size=8)
    rows = drawing.reshape(whole, 5, 8)
    return drawing.model(drawing.put("Sigmoid", drawing.dense(rows, 1, 8)), h, c)


def tagger(classes: int = 9) -> ir.Model:
    """Scores of classes for each token."""
    drawing = Drawing(1, 3, 8, 8)
    tokens = drawing.feed("tokens", (1, 12), TensorProto.INT64)
    words = drawing.put("Gather", drawing.constant(np.random.default_rng(0).standard_normal((50, 16))), tokens, axis=0)
    return drawing.model(drawing.dense(drawing.put("Relu", drawing.dense(words, 16, 16)), classes, 16))
