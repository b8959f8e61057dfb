"""Draw the ends of networks as exporters write them: detectors of all customs, on a body of a few convolutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Arrays = dict[str, NDArray[Any]]


class Drawing:
    """A graph that grows call by call; every call returns the name of the value that it makes."""

    def __init__(self, *shape: int, opset: int = 17) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs = [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)]
        self._rng = np.random.default_rng(0)
        self._opset = opset
        self.shape = shape

    def put(self, op: str, *inputs: str, count: int = 1, **attributes: Any) -> Any:
        """Add a node; the names of its outputs, or of the one."""
        outputs = [f"v{len(self._nodes)}_{place}" for place in range(count)]
        self._nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs[0] if count == 1 else outputs

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """Add a constant."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def feed(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def conv(self, x: str, channels: int, before: int, *, stride: int = 1, kernel: int = 1, bias: Any = None) -> str:
        """Add a convolution with a bias."""
        weight = self._rng.standard_normal((channels, before, kernel, kernel)) * (before * kernel * kernel) ** -0.5
        parts = self.constant(weight), self.constant(np.zeros(channels) if bias is None else bias)
        pad = kernel // 2
        return self.put("Conv", x, *parts, strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[kernel] * 2)

    def dense(self, x: str, numbers: int, before: int, *, common: float = 0.0) -> str:
        """Add a matrix product; ``common`` is added to all rows in the same direction, as regressions have it."""
        weight = self._rng.standard_normal((before, numbers)) * before**-0.5
        weight = weight - weight.mean(1, keepdims=True) + common * self._rng.standard_normal((before, 1))
        return self.put("Add", self.put("MatMul", x, self.constant(weight)), self.constant(np.zeros(numbers)))

    def levels(self, strides: Sequence[int] = (8, 16, 32), channels: int = 8) -> list[str]:
        """Add a body, and return its features (N, channels, H / stride, W / stride)."""
        found, x, stride, before = [], "picture", 1, self.shape[1]
        while stride < max(strides):
            x = self.put("Relu", self.conv(x, channels, before, stride=2, kernel=3))
            stride, before = stride * 2, channels
            if stride in strides:
                found.append(x)
        return found

    def reshape(self, x: str, *shape: int) -> str:
        """Add a Reshape."""
        return self.put("Reshape", x, self.constant(shape, np.int64))

    def listed(self, x: str, columns: int) -> str:
        """Make (N, anchors * columns, h, w) a list (N, places, columns)."""
        return self.reshape(self.put("Transpose", x, perm=[0, 2, 3, 1]), 0, -1, columns)

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Add a Split."""
        found: list[str] = self.put("Split", x, self.constant(sizes, np.int64), count=len(sizes), axis=axis)
        return found

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        """Add a Slice along one axis."""
        return self.put("Slice", x, *(self.constant([one], np.int64) for one in (start, stop, axis, 1)))

    def grids(self, strides: Sequence[int] = (8, 16, 32)) -> list[tuple[int, int]]:
        """Rows and columns of the features."""
        return [(self.shape[2] // stride, self.shape[3] // stride) for stride in strides]

    def model(self, *outputs: str) -> ir.Model:
        """Close the graph; outputs are called "0", "1" and so on, and shapes are inferred."""
        names = [str(place) for place in range(len(outputs))]
        nodes = [*self._nodes, *(helper.make_node("Identity", [a], [b]) for a, b in zip(outputs, names, strict=True))]
        made = [helper.make_empty_tensor_value_info(name) for name in names]
        graph = helper.make_graph(nodes, "drawing", self._inputs, made, self._constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=10)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def centres(drawing: Drawing, strides: Sequence[int] = (8, 16, 32)) -> tuple[NDArray[Any], NDArray[Any]]:
    """Centres (2, places) of all grids in strides, and the stride (1, places) of each."""
    points, sizes = [], []
    for stride, (height, width) in zip(strides, drawing.grids(strides), strict=True):
        rows, columns = np.mgrid[:height, :width]
        points.append(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5]))
        sizes.append(np.full((1, height * width), stride))
    return np.concatenate(points, 1), np.concatenate(sizes, 1)


def yolov8(
    *, classes: int = 3, bins: int = 16, corners: bool = False, extra: int = 0, turned: bool = False
) -> ir.Model:
    """Boxes by DFL, classes by a sigmoid, joined and decoded: (N, 4 + classes + extra, places), or turned."""
    drawing = Drawing(1, 3, 64, 96)
    levels, places = [], sum(height * width for height, width in drawing.grids())
    points, strides = centres(drawing)
    for x in drawing.levels():
        parts = [drawing.conv(x, 4 * bins, 8), drawing.conv(x, classes, 8)]
        levels.append(drawing.reshape(drawing.put("Concat", *parts, axis=1), 1, 4 * bins + classes, -1))
    boxes, scores = drawing.split(drawing.put("Concat", *levels, axis=2), (4 * bins, classes), 1)
    if bins > 1:
        odds = drawing.put("Transpose", drawing.reshape(boxes, 1, 4, bins, places), perm=[0, 2, 1, 3])
        weight = drawing.constant(np.arange(bins).reshape(1, bins, 1, 1))
        boxes = drawing.reshape(drawing.put("Conv", drawing.put("Softmax", odds, axis=1), weight), 1, 4, places)
    first, second = drawing.split(boxes, (2, 2), 1)
    at = drawing.constant(points[None])
    low, high = drawing.put("Sub", at, first), drawing.put("Add", at, second)
    if not corners:
        middle = drawing.put("Div", drawing.put("Add", low, high), drawing.constant(2.0))
        low, high = middle, drawing.put("Sub", high, low)
    scaled = drawing.put("Mul", drawing.put("Concat", low, high, axis=1), drawing.constant(strides))
    parts = [scaled, drawing.put("Sigmoid", scores)]
    if extra:
        masks = [drawing.reshape(drawing.conv(x, extra, 8), 1, extra, -1) for x in drawing.levels()]
        parts.append(drawing.put("Concat", *masks, axis=2))
    joined = drawing.put("Concat", *parts, axis=1)
    return drawing.model(drawing.put("Transpose", joined, perm=[0, 2, 1]) if turned else joined)


def yolov8_raw(*, classes: int = 3, bins: int = 16, apart: bool = False) -> ir.Model:
    """Bins and class logits of each grid, joined (N, 4 * bins + classes, h, w), or apart."""
    drawing = Drawing(1, 3, 64, 96)
    pairs = [(drawing.conv(x, 4 * bins, 8), drawing.conv(x, classes, 8)) for x in drawing.levels()]
    if apart:
        return drawing.model(*(part for pair in pairs for part in pair))
    return drawing.model(*(drawing.put("Concat", *pair, axis=1) for pair in pairs))


def yolov5_raw(
    *, classes: int = 3, anchors: int = 3, split: bool = False, strides: Sequence[int] = (8, 16, 32)
) -> ir.Model:
    """Maps with box, objectness and classes of each anchor, (N, anchors * (5 + classes), h, w) or of rank 5."""
    drawing, size = Drawing(1, 3, 64, 96), 5 + classes
    bias = np.tile(np.r_[0.0, 0.0, 0.0, 0.0, -5.0, np.full(classes, -3.0)], anchors)
    maps = [drawing.conv(x, anchors * size, 8, bias=bias) for x in drawing.levels(strides)]
    if split:
        maps = [
            drawing.put("Transpose", drawing.reshape(x, 1, anchors, size, *grid), perm=[0, 1, 3, 4, 2])
            for x, grid in zip(maps, drawing.grids(strides), strict=True)
        ]
    return drawing.model(*maps)


def yolov5(*, classes: int = 3, anchors: int = 3) -> ir.Model:
    """Decoded: sigmoids of everything, then arithmetic on the first four, (N, places, 5 + classes)."""
    drawing, size, lists = Drawing(1, 3, 64, 96), 5 + classes, []
    for x, (height, width), stride in zip(drawing.levels(), drawing.grids(), (8, 16, 32), strict=True):
        joint = drawing.reshape(drawing.conv(x, anchors * size, 8), 1, anchors, size, height, width)
        shares = drawing.put("Sigmoid", drawing.put("Transpose", joint, perm=[0, 1, 3, 4, 2]))
        centre, sizes, scores = drawing.split(shares, (2, 2, 1 + classes), 4)
        rows, columns = np.mgrid[:height, :width]
        grid = drawing.constant(np.stack([columns, rows], -1)[None, None] - 0.5)
        doubled = drawing.put("Mul", centre, drawing.constant(2.0))
        centre = drawing.put("Mul", drawing.put("Add", doubled, grid), drawing.constant(float(stride)))
        squared = drawing.put("Pow", drawing.put("Mul", sizes, drawing.constant(2.0)), drawing.constant(2.0))
        anchor = drawing.constant(stride * (1.0 + np.arange(2.0 * anchors)).reshape(1, anchors, 1, 1, 2))
        whole = drawing.put("Concat", centre, drawing.put("Mul", squared, anchor), scores, axis=4)
        lists.append(drawing.reshape(whole, 1, anchors * height * width, size))
    return drawing.model(drawing.put("Concat", *lists, axis=1))


def yolox(*, classes: int = 3, decoded: bool = True, maps: bool = False) -> ir.Model:
    """Boxes, objectness and classes of three convolutions, joined: (N, places, 5 + classes), or a map of each grid."""
    drawing, found = Drawing(1, 3, 64, 96), []
    for x in drawing.levels():
        parts = drawing.conv(x, 4, 8), *(drawing.put("Sigmoid", drawing.conv(x, one, 8)) for one in (1, classes))
        found.append(drawing.put("Concat", *parts, axis=1))
    if maps:
        return drawing.model(*found)
    flat = drawing.put("Concat", *(drawing.reshape(x, 1, 5 + classes, -1) for x in found), axis=2)
    rows = drawing.put("Transpose", flat, perm=[0, 2, 1])
    if decoded:
        points, strides = centres(drawing)
        steps = drawing.constant(strides.T[None])
        centre, sizes, scores = (drawing.slice(rows, *ends, 2) for ends in ((0, 2), (2, 4), (4, 5 + classes)))
        centre = drawing.put("Mul", drawing.put("Add", centre, drawing.constant(points.T[None])), steps)
        sizes = drawing.put("Mul", drawing.put("Exp", sizes), steps)
        rows = drawing.put("Concat", centre, sizes, scores, axis=2)
    return drawing.model(rows)
