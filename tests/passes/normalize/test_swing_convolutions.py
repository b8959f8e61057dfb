import numpy as np
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.normalize import swing_convolutions
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.swing_convolutions import SwingConvolutions, swing_offsets
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude: the runtime may add in another order

STRIDED = [
    ("float[N,4,7,8] x", "float[4,4,3,3] w", "pads=[1,1,1,1], strides=[2,2]"),
    ("float[N,4,8,8] x", "float[6,4,1,1] w", "strides=[2,2]"),
    ("float[N,4,8,2] x", "float[4,2,3,1] w", "group=2, pads=[0,0,1,0], strides=[2,1]"),
    ("float[N,4,9,9] x", "float[4,1,3,3] w", 'group=4, auto_pad="SAME_UPPER", strides=[3,2]'),
    ("float[N,4,9] x", "float[2,4,3] w", "strides=[2]"),
]


def text(inputs, weight, attributes):
    rank = inputs.count(",") - 1
    sizes = ",".join(f"H{axis}" for axis in range(rank))
    return f"g ({inputs}) => (float[N,C,{sizes}] y) <{weight}> {{ [conv] y = Conv<{attributes}>(x, w) }}"


def ran(model, feeds, offsets=None):
    """Run in ONNX Runtime, with offsets by name put into a copy."""
    if offsets:
        model = model.clone()
        for name, offset in offsets.items():
            model.graph.initializers[name].const_value = ir.Tensor(np.array(offset, np.int64), name=name)
    return open_session(models.to_proto(model), threads=1, optimize="none").run(feeds)["y"]


def moved(data, offset):
    """The same in numpy: reflected by one on every side, cut back from the offset on."""
    wide = np.pad(data, [(0, 0), (0, 0), *[(1, 1)] * len(offset)], mode="reflect")
    window = [slice(start, start + size) for start, size in zip(offset, data.shape[2:], strict=True)]
    return wide[(slice(None), slice(None), *window)]


@pytest.mark.parametrize(("inputs", "weight", "attributes"), STRIDED)
def test_the_centre_is_the_network_as_it_was_and_other_offsets_shift_its_input(inputs, weight, attributes):
    given = models.parse(text(inputs, weight, attributes))
    model = models.graph(text(inputs, weight, attributes))
    assert SwingConvolutions().call(model).modified
    feeds = models.random_feeds(given)
    ((name, axes),) = swing_offsets(model).items()
    assert axes == feeds["x"].ndim - 2
    for offset in np.ndindex(*(3,) * axes):
        expected = ran(given, {"x": moved(feeds["x"], offset)})
        got = ran(model, feeds, {name: offset})
        np.testing.assert_allclose(got, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
    np.testing.assert_array_equal(ran(model, feeds), ran(given, feeds), "offsets start at the centre")
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_a_second_run_changes_nothing():
    model = models.graph(text(*STRIDED[0]))
    SwingConvolutions().call(model)
    once = models.operators(model)
    assert not SwingConvolutions().call(model).modified
    assert models.operators(model) == once == ["Pad", "Add", "Slice", "Conv"]


def test_only_strided_convolutions_are_rewritten_each_with_an_offset_of_its_own():
    body = """
        g (float[N,4,8,8] x) => (float[N,4,4,4] y)
        <float[4,4,3,3] w0, float[4,4,3,3] w1, float[4,4,1,1] w2>
        {
            a = Conv<pads=[1,1,1,1], strides=[1,1]>(x, w0)
            [main] b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w1)
            [shortcut] c = Conv<strides=[2,2]>(a, w2)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            d = Add(b, c)
            y = Add(d, p)
        }"""
    model = InferShapes().call(models.graph(body)).model
    assert SwingConvolutions().call(model).modified
    assert swing_offsets(model) == {"main.swing": 2, "shortcut.swing": 2}
    assert [node.op_type for node in model.graph if node.inputs[0] is model.graph.inputs[0]] == ["Conv"]
    (pool,) = (node for node in model.graph if node.op_type == "MaxPool")
    assert pool.inputs[0].name == "a"
    feeds = models.random_feeds(models.parse(body))
    np.testing.assert_array_equal(ran(model, feeds), ran(models.parse(body), feeds))
    shifted = ran(model, feeds, {"shortcut.swing": (0, 2)})
    assert np.abs(shifted - ran(model, feeds)).max() > 0.1


def test_a_network_without_strides_stays_as_it_is():
    model = models.graph(text("float[N,4,8,8] x", "float[4,4,3,3] w", "pads=[1,1,1,1]"))
    outcome = SwingConvolutions().call(model)
    assert not outcome.modified and not outcome.refusals and swing_offsets(model) == {}


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [("float[N,4,1,8] x", "size of 1"), ("float[N,4,H,8] x", "not known")],
)
def test_what_cannot_swing_stays_and_says_why(inputs, reason):
    model = models.graph(text(inputs, "float[4,4,1,1] w", "strides=[2,2]"))
    outcome = SwingConvolutions().call(model)
    assert not outcome.modified and models.operators(model) == ["Conv"]
    assert [refusal.where for refusal in outcome.refusals] == ["conv"] and reason in outcome.refusals[0].reason


def test_names_that_are_taken_stay_with_their_owners():
    given = models.parse(
        "g (float[N,2,6,6] x) => (float[N,C,H,W] y) <float[2,2,1,1] w>"
        "{ taken = Relu(x) [conv] y = Conv<strides=[2,2]>(taken, w) }"
    )
    given.graph.node[0].output[0] = given.graph.node[1].input[0] = "conv.swing"
    model = InferShapes().call(ir.from_proto(given)).model
    assert SwingConvolutions().call(model).modified
    assert list(swing_offsets(model)) == ["conv.swing_1"]
    assert models.largest_difference(given, model) < TOLERANCE


def test_the_comparison_sees_a_wrong_padding(monkeypatch):
    given = models.parse(text(*STRIDED[0]))
    model = models.graph(text(*STRIDED[0]))
    node = swing_convolutions.ir.node
    monkeypatch.setattr(
        swing_convolutions.ir,
        "node",
        lambda kind, inputs, attributes=None, **rest: node(
            kind, inputs, {"mode": "edge"} if attributes else None, **rest
        ),
    )
    SwingConvolutions().call(model)
    feeds = models.random_feeds(given)
    expected = ran(given, {"x": moved(feeds["x"], (0, 0))})
    assert np.abs(ran(model, feeds, {"conv.swing": (0, 0)}) - expected).max() > 0.1
