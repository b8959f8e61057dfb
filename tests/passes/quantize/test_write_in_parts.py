from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.normalize.infer_shapes import InferShapes
from passes.quantize import write_in_parts
from passes.quantize.write_in_parts import WriteInParts
from tests import models

TOLERANCE = 2e-6  # of the output's magnitude
TARGET = replace(load_target("ort_cpu"), in_parts=("ConvTranspose", "Mish", "PRelu"))
TRANSPOSED = ["Conv", "DepthToSpace"]


@pytest.fixture(autouse=True)
def groups_of_any_size(monkeypatch):
    monkeypatch.setattr(write_in_parts, "_LEAST", 1)


def written(given: str, target=TARGET) -> ir.Model:
    model = models.graph(given)
    InferShapes()(model)
    WriteInParts(target)(model)
    return model


def up(body: str, outputs: str = "float[N,6,A,B] y", inputs: str = "float[N,4,5,7] x") -> str:
    weights = (
        "float[4,6,2,2] w, float[6] b, float[4,3,3,3] g, float[4,6,3,3] three, float[4,6,2,3] flat, float[4,6,4,4] four"
    )
    return f"g ({inputs}) => ({outputs}) <{weights}, float low = {{0.0}}, float high = {{0.5}}> {{ {body} y = Neg(v) }}"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("v = ConvTranspose<strides=[2,2]>(x, w)", TRANSPOSED),
        ("v = ConvTranspose<strides=[2,2]>(x, w, b)", TRANSPOSED),
        ("v = ConvTranspose<strides=[3,3], group=2>(x, g, b)", TRANSPOSED),
        ("v = ConvTranspose<strides=[4,4], pads=[0,0,0,0], output_padding=[0,0]>(x, four)", TRANSPOSED),
        ("v = ConvTranspose<strides=[2,2]>(x, flat)", [*TRANSPOSED, "Slice"]),
        ("v = ConvTranspose<strides=[2,2]>(x, three, b)", [*TRANSPOSED, "Slice"]),
        ("v = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, four, b)", [*TRANSPOSED, "Slice"]),
        ("v = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, three, b)", [*TRANSPOSED, "Slice"]),
        ("v = ConvTranspose<strides=[2,2], pads=[2,2,2,2]>(x, four)", TRANSPOSED),
        ("v = ConvTranspose<strides=[2,2], pads=[0,1,2,1]>(x, four)", [*TRANSPOSED, "Slice"]),
        ("v = ConvTranspose<strides=[3,3]>(x, w, b)", [*TRANSPOSED, "Slice"]),
        ("v = ConvTranspose<strides=[2,2], pads=[1,0,2,1], group=2>(x, g, b)", [*TRANSPOSED, "Slice"]),
        ("c = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, four) v = Relu(c)",
         ["Conv", "Relu", "DepthToSpace", "Slice"]),
        ("c = ConvTranspose<strides=[2,2]>(x, w, b) v = Relu(c)", ["Conv", "Relu", "DepthToSpace"]),
        ("c = ConvTranspose<strides=[2,2]>(x, w, b) v = Clip(c, low, high)", ["Conv", "Clip", "DepthToSpace"]),
        ("c = ConvTranspose<strides=[2,2]>(x, w) d = ConvTranspose<strides=[2,2]>(x, w, b) v = Add(c, d)",
         [*TRANSPOSED * 2, "Add"]),
    ],
)  # fmt: skip
def test_blocks_of_pixels_are_a_convolution_of_one_tap(body, after):
    model = written(up(body))
    assert models.operators(model) == [*after, "Neg"]
    assert models.largest_difference(models.parse(up(body)), model) < TOLERANCE
    InferShapes()(model)
    assert all(value.shape is not None for node in model.graph for value in node.outputs)


@pytest.mark.parametrize("inputs", ["float[N,4,H,W] x", "float[2,4,1,1] x"])
def test_open_sizes_and_single_pixels(inputs):
    given = up("c = ConvTranspose<strides=[2,2]>(x, w, b) v = Relu(c)", inputs=inputs)
    assert models.largest_difference(models.parse(given), written(given)) < TOLERANCE


@pytest.mark.parametrize(
    "body",
    [
        "v = ConvTranspose<strides=[2,3]>(x, flat)",
        "v = ConvTranspose(x, three)",
        "v = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w)",
        "v = ConvTranspose<strides=[2,2], output_shape=[11,15]>(x, w)",
        "v = ConvTranspose<strides=[2,2], dilations=[2,2]>(x, w)",
        'v = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, w)',
    ],
)
def test_other_transposed_convolutions_stay(body):
    assert models.operators(written(up(body))) == ["ConvTranspose", "Neg"]


@pytest.mark.parametrize("body", ["y = Sigmoid(c)", "r = Relu(c) y = Transpose(r)", "y = Identity(c)"])
def test_in_front_of_an_output_it_stays(body):
    given = up(f"c = ConvTranspose<strides=[2,2]>(x, w) {body}", "float[A,B,C,D] y").replace("y = Neg(v)", "")
    assert models.operators(written(given))[0] == "ConvTranspose"


def test_small_groups_stay(monkeypatch):
    monkeypatch.undo()
    given = up("v = ConvTranspose<strides=[3,3], group=2>(x, g, b)")
    assert models.operators(written(given))[0] == "ConvTranspose"


def test_names_of_values_are_of_what_they_hold():
    model = written(
        up("c = ConvTranspose<strides=[2,2]>(x, w) v = Relu(c) z = Abs(v)", "float[N,6,A,B] z, float[N,6,A,B] y")
    )
    InferShapes()(model)
    shapes = {value.name: list(value.shape)[1:] for node in model.graph for value in node.outputs}
    assert shapes["v"] == shapes["z"] == [6, 10, 14]
    assert "c" not in shapes  # its channels are others now


def activation(body: str, constants: str = "float[4,1,1] s = {1.0, 0.5, -2.0, 0.0}, float[1] one = {0.25}") -> str:
    return f"g (float[N,4,5,6] x) => (float[N,4,5,6] y) <{constants}> {{ {body} }}"


@pytest.mark.parametrize("body", ["y = PRelu(x, s)", "y = PRelu(x, one)"])
def test_prelu_is_the_larger_of_two(body):
    model = written(activation(body))
    assert models.operators(model) == ["Mul", "Max"]
    assert models.largest_difference(models.parse(activation(body)), model) == 0.0


def test_prelu_of_steep_slopes():
    given = activation("y = PRelu(x, s)", "float[4,1,1] s = {1.5, 0.5, -0.5, 0.0}")
    model = written(given)
    assert models.operators(model) == ["Min", "Mul", "Sub"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


def test_mish_by_one_exponential():
    given = activation("y = Mish(x)")
    model = written(given)
    assert {"Softplus", "Tanh", "Mish"}.isdisjoint(models.operators(model))
    x = np.concatenate([np.linspace(-40, 40, 110), [-1e30, -1e5, 1e5, 1e15, 1e30, 0.0, 88.0, 89.0, -88.0, 20.0]])
    feeds = {"x": x.astype(np.float32).reshape(1, 4, 5, 6)}
    wanted, got = (
        models.open_session(each, threads=1).run(feeds)["y"] for each in (models.parse(given), ir.to_proto(model))
    )
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=4e-6)


def test_a_target_that_names_none_keeps_all():
    given = up("c = ConvTranspose<strides=[2,2]>(x, w) m = Mish(c) v = PRelu(m, high)")
    assert models.operators(written(given, replace(TARGET, in_parts=()))) == ["ConvTranspose", "Mish", "PRelu", "Neg"]
