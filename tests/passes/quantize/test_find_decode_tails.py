"""Ends of detectors as exporters write them: what lies behind the last convolutions stays float, and nothing else."""

import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.quantize.find_decode_tails import decode_tails
from passes.quantize.place_quantizers import place_quantizers
from tests.models import parse
from tests.quantizing import execute, inserted, prepare, random_feeds, sqnr, with_scales

TARGET = load_target("ort_cpu")
TRUNK = "[stem] t0 = Conv<pads=[1,1,1,1]>(x, w0) t = Relu(t0)"
FACE = "(float[1,3,8,8] x)"
HEAD_BOX, HEAD_CLASS = "[box_conv] box = Conv(t, wb)", "[class_conv] class = Conv(t, wc)"


def numbers(name: str, shape: tuple[int, ...], values: list[float]) -> str:
    """Write a constant as the text form has it."""
    assert np.prod(shape) == len(values)
    return f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(str(float(value)) for value in values)}}}"


def shape(name: str, *sizes: int) -> str:
    return f"int64[{len(sizes)}] {name} = {{{', '.join(map(str, sizes))}}}"


CENTRES = [column + 0.5 for row in range(8) for column in range(8)] + [row + 0.5 for row in range(8) for _ in range(8)]
ENDS = {
    # ultralytics, YOLOv8 and 11: bins of distances, corners by anchors, boxes and scores in one output
    "dfl": (
        "float[1,7,64] y",
        [
            "float[16,4,1,1] wb, float[3,4,1,1] wc",
            shape("flat", 1, 19, 64) + "," + shape("parts", 16, 3) + "," + shape("bins", 1, 4, 4, 64),
            shape("sides", 1, 4, 64) + "," + shape("at0", 0) + "," + shape("at2", 2) + "," + shape("at4", 4),
            shape("axis", 1) + "," + numbers("count", (1, 4, 1, 1), [0, 1, 2, 3]) + ", float two = {2.0}",
            numbers("centres", (1, 2, 64), CENTRES) + "," + numbers("stride", (1, 64), [8.0] * 64),
        ],
        """joined = Concat<axis=1>(box, class) f = Reshape(joined, flat) b, c = Split<axis=1>(f, parts)
        g = Reshape(b, bins) h = Transpose<perm=[0,2,1,3]>(g) p = Softmax<axis=1>(h) [mean] d = Conv(p, count)
        e = Reshape(d, sides) near = Slice(e, at0, at2, axis) far = Slice(e, at2, at4, axis)
        low = Sub(centres, near) high = Add(centres, far) sum = Add(low, high) middle = Div(sum, two)
        size = Sub(high, low) corners = Concat<axis=1>(middle, size) scaled = Mul(corners, stride)
        score = Sigmoid(c) y = Concat<axis=1>(scaled, score)""",
    ),
    # YOLOv5: everything is a sigmoid first
    "yolov5": (
        "float[1,64,7] y",
        [
            "float[4,4,1,1] wb, float[3,4,1,1] wc",
            shape("rows", 1, 7, 64) + "," + shape("parts", 2, 2, 3) + ", float two = {2.0}",
            numbers("grid", (1, 64, 2), [n - 0.5 for i in range(64) for n in (i % 8, i // 8)]),
            numbers("anchor", (1, 1, 2), [10.0, 13.0]) + ", float stride = {8.0}",
        ],
        """joined = Concat<axis=1>(box, class) f = Reshape(joined, rows) g = Transpose<perm=[0,2,1]>(f) s = Sigmoid(g)
        a, b, c = Split<axis=2>(s, parts) a2 = Mul(a, two) a3 = Add(a2, grid) middle = Mul(a3, stride)
        b2 = Mul(b, two) b3 = Pow(b2, two) size = Mul(b3, anchor) y = Concat<axis=2>(middle, size, c)""",
    ),
    # YOLOX: scores joined with boxes at the convolutions, sizes by exp
    "yolox": (
        "float[1,64,7] y",
        [
            "float[4,4,1,1] wb, float[3,4,1,1] wc",
            shape("rows", 1, 7, 64) + "," + shape("parts", 2, 2, 3) + ", float stride = {8.0}",
            numbers("grid", (1, 64, 2), [float(n) for i in range(64) for n in (i % 8, i // 8)]),
        ],
        """score = Sigmoid(class) joined = Concat<axis=1>(box, score) f = Reshape(joined, rows)
        g = Transpose<perm=[0,2,1]>(f) a, b, c = Split<axis=2>(g, parts) a2 = Add(a, grid) middle = Mul(a2, stride)
        e = Exp(b) size = Mul(e, stride) y = Concat<axis=2>(middle, size, c)""",
    ),
    # SSD, RetinaFace: offsets by variances to anchors, corners
    "ssd": (
        "float[1,64,4] y, float[1,64,3] z",
        [
            "float[4,4,1,1] wb, float[3,4,1,1] wc",
            shape("rows", 1, 64, 4) + "," + shape("classes", 1, 64, 3) + "," + shape("parts", 2, 2),
            numbers("centre", (1, 64, 2), [n for i in range(64) for n in ((i % 8) / 8, (i // 8) / 8)]),
            numbers("prior", (1, 64, 2), [n for i in range(64) for n in (0.1 + i / 640, 0.2)]),
            "float tenth = {0.1}, float fifth = {0.2}, float half = {0.5}",
        ],
        """bt = Transpose<perm=[0,2,3,1]>(box) f = Reshape(bt, rows) a, b = Split<axis=2>(f, parts)
        a2 = Mul(a, tenth) a3 = Mul(a2, prior) middle = Add(centre, a3) b2 = Mul(b, fifth) e = Exp(b2)
        size = Mul(prior, e) reach = Mul(size, half) low = Sub(middle, reach) high = Add(low, size)
        y = Concat<axis=2>(low, high) ct = Transpose<perm=[0,2,3,1]>(class) cf = Reshape(ct, classes)
        z = Softmax<axis=2>(cf)""",
    ),
    # FCOS: distances by exp, scores times centreness, suppression in the graph
    "fcos": (
        "int64[M,3] y",
        [
            "float[4,4,1,1] wb, float[3,4,1,1] wc",
            shape("rows", 1, 4, 64) + "," + shape("classes", 1, 3, 64) + "," + shape("parts", 2, 1),
            shape("halves", 2, 2) + "," + numbers("centres", (1, 2, 64), CENTRES),
            "int64 most = {10}, float close = {0.5}",
        ],
        """e = Exp(box) f = Reshape(e, rows) near, far = Split<axis=1>(f, halves) low = Sub(centres, near)
        high = Add(centres, far) corners = Concat<axis=1>(low, high) boxes = Transpose<perm=[0,2,1]>(corners)
        cf = Reshape(class, classes) s = Sigmoid(cf) a, b = Split<axis=1>(s, parts) score = Mul(a, b)
        y = NonMaxSuppression(boxes, score, most, close)""",
    ),
    # CenterNet: peaks by pooling, a grid that is counted from the size
    "centernet": (
        "float[1,3,8,8] y, float[1,1,8,8] z",
        [
            "float[2,4,1,1] wb, float[3,4,1,1] wc",
            "int64 none = {0}, int64 one = {1}, int64 three = {3}, int64[1] halves = {1}",
            shape("parts", 1, 1),
        ],
        """s = Sigmoid(class) m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1]>(s) k = Equal(m, s)
        kf = Cast<to=1>(k) y = Mul(kf, s) sizes = Shape(box) width = Gather(sizes, three)
        count = Range(none, width, one) grid = Cast<to=1>(count)
        column, row = Split<axis=1>(box, parts) z = Add(column, grid)""",
    ),
}


def end(name: str) -> ir.Model:
    outputs, constants, body = ENDS[name]
    text = f"g {FACE} => ({outputs}) <float[4,3,3,3] w0, {', '.join(constants)}>"
    return prepare(parse(f"{text} {{ {TRUNK} {HEAD_BOX} {HEAD_CLASS} {body} }}"))


@pytest.mark.parametrize("name", ENDS)
def test_nothing_behind_the_last_convolutions_is_quantized(name: str) -> None:
    model = end(name)
    plan = place_quantizers(model, TARGET)
    assert [site.value for site in plan.activations] == ["x", "t"]
    assert {"box_conv", "class_conv"} <= {site.node for site in plan.weights}  # stored in integers all the same


@pytest.mark.parametrize("name", ["dfl", "yolov5", "yolox", "ssd"])  # others give indices and peaks
def test_boxes_are_as_exact_as_the_last_convolutions(name: str) -> None:
    model = end(name)
    feeds = random_feeds(model, batch=1)
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    wanted, got = execute(model, feeds), execute(inserted(model, plan), feeds)
    # dB; 8 bits of two values, of a weight of 7 or 8 bits in front of each
    assert all(sqnr(wanted[output], got[output]) > 30.0 for output in wanted)


OTHERS = {
    "scores": ("float[1,4] y", "p = GlobalAveragePool(box) f = Flatten(p) y = Softmax(f)"),
    "scores by hand": (
        "float[1,4] y",
        "p = GlobalAveragePool(box) f = Flatten(p) e = Exp(f) s = ReduceSum<keepdims=1>(e, one) y = Div(e, s)",
    ),
    "sum of two": ("float[1,4,8,8] y", "s = Add(box, other) y = Relu(s)"),
    "factors of channels": ("float[1,4,8,8] y", "y = Mul(box, factors)"),
    "larger picture": ("float[1,1,16,16] y", "r = DepthToSpace<blocksize=2>(box) y = Sigmoid(r)"),
    "features joined": ("float[1,8,8,8] y", "r = Relu(box) y = Concat<axis=1>(r, other)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_decodes_nothing_is_no_tail(name: str) -> None:
    output, body = OTHERS[name]
    text = f"""
    g {FACE} => ({output}) <float[4,3,3,3] w0, float[4,4,1,1] wb, float[4,4,1,1] wc, float[1,4,1,1] factors =
    {{1.0, 2.0, 3.5, 4.0}}, int64[1] one = {{1}}>
    {{ {TRUNK} {HEAD_BOX} [other_conv] other = Conv(t, wc) {body} }}
    """
    assert decode_tails(prepare(parse(text)).graph).nodes == frozenset()
