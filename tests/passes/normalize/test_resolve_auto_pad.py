import pytest

from passes.normalize import resolve_auto_pad
from passes.normalize.resolve_auto_pad import ResolveAutoPad
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude


def text(body, size="7,10"):
    return f"g (float[N,4,{size}] x) => (float[N,C,H,W] y) <float[4,4,3,2] w> {{ {body} }}"


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(
    "operator",
    [
        'Conv<auto_pad="MODE">(x, w)',
        'Conv<auto_pad="MODE", strides=[2,3]>(x, w)',
        'MaxPool<auto_pad="MODE", kernel_shape=[3,2], strides=[2,2]>(x)',
        'AveragePool<auto_pad="MODE", kernel_shape=[2,3], strides=[1,2]>(x)',
    ],
)
def test_padding_is_written_out(mode, operator):
    given = text("y = " + operator.replace("MODE", mode))
    model = models.graph(given)
    assert ResolveAutoPad()(model).modified
    assert "auto_pad" not in model.graph[0].attributes and "pads" in model.graph[0].attributes
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
    assert not ResolveAutoPad()(model).modified


def test_open_sizes_keep_it():
    model = models.graph(text('y = Conv<auto_pad="SAME_UPPER">(x, w)', size="h,10"))
    assert not ResolveAutoPad()(model).modified
    assert model.graph[0].attributes.get_string("auto_pad") == "SAME_UPPER"


def test_explicit_padding_is_left_alone():
    model = models.graph(text("y = Conv<pads=[1,0,1,1]>(x, w)"))
    assert not ResolveAutoPad()(model).modified


def test_the_comparison_sees_a_wrong_padding(monkeypatch):
    given = text('y = Conv<auto_pad="SAME_UPPER", strides=[2,3]>(x, w)')
    right = resolve_auto_pad._same
    monkeypatch.setattr(resolve_auto_pad, "_same", lambda node, kernel, upper: right(node, kernel, upper=False))
    model = models.graph(given)
    ResolveAutoPad()(model)
    assert models.largest_difference(models.parse(given), model) > 0.1
