import numpy as np
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.normalize import fold_pad
from passes.normalize.fold_pad import FoldPad
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude: the runtime may add in another order
PADS = "int64[8] p = {0,0,0,1,0,0,1,2}, float low = {-3.4028235e38}, float one = {1.0}"


def text(body, outputs="y", pads=PADS, inputs="float[N,4,7,7] x"):
    typed = ", ".join(f"float[N,C,H{position},W{position}] {name}" for position, name in enumerate(outputs.split(", ")))
    return f"g ({inputs}) => ({typed}) <{pads}, float[4,4,3,3] w> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "q = Pad(x, p) y = Conv(q, w)",
        "q = Pad(x, p) y = Conv<pads=[1,1,0,0], strides=[2,2], dilations=[2,1]>(q, w)",
        'q = Pad(x, p) y = Conv<auto_pad="VALID">(q, w)',
        "q = Pad(x, p) y = AveragePool<kernel_shape=[3,3]>(q)",
        "q = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,0,0,0], count_include_pad=1>(q)",
        "r = Relu(x) q = Pad(r, p) y = MaxPool<kernel_shape=[3,3]>(q)",
        "q = Pad(x, p, low) y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(q)",
        "q = Pad(x, p) a = Conv(q, w) b = AveragePool<kernel_shape=[3,3]>(q) y = Add(a, b)",
        "q = Pad(x, p) r = Pad(q, p) y = Conv(r, w)",
    ],
)
def test_readers_take_the_padding(body):
    model = models.graph(text(body))
    assert FoldPad().call(model).modified
    assert "Pad" not in models.operators(model)
    assert models.largest_difference(models.parse(text(body)), model) < TOLERANCE
    assert not FoldPad().call(model).modified


def test_axes_may_be_given():
    pads = "int64[4] p = {1,0,2,1}, float zero = {0.0}, int64[2] axes = {-1, 2}"
    given = text("q = Pad(x, p, zero, axes) y = Conv(q, w)", pads=pads)
    model = models.graph(given)
    assert FoldPad().call(model).modified and models.operators(model) == ["Conv"]
    assert list(model.graph[0].attributes.get_ints("pads")) == [0, 1, 1, 2]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "pads", "reason"),
    [
        ('q = Pad<mode="reflect">(x, p) y = Conv(q, w)', PADS, "reflect"),
        ("q = Pad(x, p, one) y = Conv(q, w)", PADS, "pads with 1"),
        ("q = Pad(x, p) y = Conv(q, w)", "int64[8] p = {0,0,-1,0,0,0,0,0}", "crops"),
        ("q = Pad(x, p) y = Relu(q)", "int64[8] p = {0,0,1,0,0,0,0,0}", "no padding of its own"),
        ("q = Pad(x, p) y = MaxPool<kernel_shape=[3,3]>(q)", PADS, "negative"),
        ("q = Pad(x, p, one) y = AveragePool<kernel_shape=[3,3]>(q)", PADS, "pads with 1"),
        ("q = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,1,0,0]>(q)", PADS, "out of the average"),
        ("q = Pad(x, p) y = AveragePool<kernel_shape=[3,3], ceil_mode=1>(q)", PADS, "ceil_mode"),
        ("q = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(q)", PADS, "whole window"),
        ('q = Pad(x, p) y = Conv<auto_pad="SAME_UPPER">(q, w)', PADS, "auto_pad"),
        ("q = Pad(x, p) y = ConvTranspose(q, w)", PADS, "no padding of its own"),
        ("q = Pad(x, p, low) y, i = MaxPool<kernel_shape=[3,3]>(q)", PADS, "positions"),
        ("q = Pad(x, p, low) y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(q)", PADS, "dilated"),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(body, pads, reason):
    model = models.graph(text(body, pads=pads))
    outcome = FoldPad().call(model)
    assert not outcome.modified and "Pad" in models.operators(model)
    assert reason in outcome.refusals[0].reason


def test_channel_padding_stays():
    given = text("q = Pad(x, p) y = Conv(q, w)", pads="int64[8] p = {0,1,1,1,0,0,1,1}", inputs="float[N,3,7,7] x")
    assert "channels" in FoldPad().call(models.graph(given)).refusals[0].reason


def test_a_reader_that_cannot_take_it_keeps_the_node_for_itself():
    given = text("q = Pad(x, p) y = Conv(q, w) z = Relu(q)", "y, z")
    model = models.graph(given)
    outcome = FoldPad().call(model)
    assert outcome.modified and len(outcome.refusals) == 1 and models.operators(model) == ["Pad", "Conv", "Relu"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
    assert not FoldPad().call(model).modified


def test_a_padding_that_is_an_output_stays():
    model = models.graph(text("z = Pad(x, p) y = Conv(z, w)", "y, z"))
    assert FoldPad().call(model).modified and models.operators(model) == ["Pad", "Conv"]


def test_the_comparison_sees_a_wrong_fold(monkeypatch):
    given = text("q = Pad(x, p) y = MaxPool<kernel_shape=[3,3]>(q)")
    monkeypatch.setattr(fold_pad, "never_negative", lambda value: True)
    model = models.graph(given)
    assert FoldPad().call(model).modified
    before = models.parse(given)
    negative = {"x": -1.0 - np.abs(models.random_feeds(before)["x"])}
    sessions = [open_session(each, threads=1, optimize="none") for each in (before, ir.to_proto(model))]
    one, other = (session.run(negative)["y"] for session in sessions)
    assert np.abs(one - other).max() > 0.5
