import numpy as np
import pytest

from tests import models
from zsq_compile.data.input_spec import InputSpec, Layout
from zsq_compile.frontend.find_layouts import find_layouts

CONV = "y = Conv(v, w)"


def layout_of(shape: str, body: str, declared: str, dtype: str = "float") -> Layout | None:
    model = models.parse(f"net ({dtype}[{shape}] x) => (float[N,?,?,?] y) <{declared}> {{ {body} }}")
    sizes = tuple(int(size) if size.isdigit() else None for size in shape.split(","))
    kind = np.dtype({"float": "float32"}.get(dtype, dtype))
    (found,) = find_layouts(model, (InputSpec(name="x", shape=sizes, dtype=kind),))
    return found.layout


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["float", "uint8"])
@pytest.mark.parametrize(
    ("layout", "opening"),
    [
        ("NCHW", "v = Identity(c)"),
        ("NCHW", "d = Div(c, k) s = Sub(d, k) v = Relu(s)"),
        ("NHWC", "v = Transpose<perm=[0,3,1,2]>(c)"),
        ("NHWC", "d = Div(c, k) s = Sub(d, k) v = Transpose<perm=[0,3,1,2]>(s)"),
    ],
)
def test_pictures_are_followed_to_the_node_that_tells(layout: str, opening: str, dtype: str, channels: int) -> None:
    shape = f"N,{channels},16,20" if layout == "NCHW" else f"N,16,20,{channels}"
    body = f"c = Cast<to=1>(x) {opening} {CONV}"
    assert layout_of(shape, body, f"float[2,{channels},3,3] w, float k = {{2.0}}", dtype) == layout


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ("N,3,16,20", "NCHW"),
        ("N,1,49,10", "NCHW"),
        ("N,16,20,3", "NHWC"),
        ("N,16,20,1", "NHWC"),
        ("N,4,16,20", None),  # four of anything
        ("N,2,16,3", None),  # a list of coordinates
        ("N,8,16,20", None),
    ],
)
def test_sizes_decide_where_no_node_tells(shape: str, layout: str | None) -> None:
    assert layout_of(shape, "y = Softmax(x)", "float unused = {0.0}") == layout


def test_a_convolution_over_many_channels_reads_no_picture() -> None:
    assert layout_of("N,16,20,3", "y = Conv(x, w)", "float[2,16,3,3] w") is None


def test_integers_that_are_no_bytes_are_no_pixels() -> None:
    assert layout_of("N,3,16,20", f"v = Cast<to=1>(x) {CONV}", "float[2,3,3,3] w", "int64") is None
