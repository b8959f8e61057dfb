from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from backends.catalog import load_target
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests.models import parse
from tests.quantizing import execute, inserted, optimized_operators, prepare, simulate, sqnr, with_scales

TARGET = load_target("ort_cpu")
EQUAL = 60.0  # dB; a code may flip where a sum lands on the edge between two, and nothing else may differ
HEAD = "<int64[2] flat = {0, -1}, int64[1] a = {1}, int64[1] b = {3}, float[4,2,3,3] w, float[2,4,1,1] w1>"
LAYERS = "[first] c = Conv(x, w) [relu] r = Relu(c) [second] f = Conv(r, w1) [pool] y = GlobalAveragePool(f)"

COPIES = {
    "identity": ("[copy] z = Identity(x)", "float[N,2,6,6] z", lambda x: x),
    "transpose": ("[copy] z = Transpose<perm=[0,2,3,1]>(x)", "float[N,6,6,2] z", lambda x: x.transpose(0, 2, 3, 1)),
    "slice": ("[copy] z = Slice(x, a, b, a)", "float[N,1,6,6] z", lambda x: x[:, 1:3]),
    "reshape": ("[copy] z = Reshape(x, flat)", "float[N,M] z", lambda x: x.reshape(len(x), -1)),
    "a chain": (
        "[one] s = Transpose<perm=[0,2,3,1]>(x) [two] t = Identity(s) [copy] z = Reshape(t, flat)",
        "float[N,M] z",
        lambda x: x.transpose(0, 2, 3, 1).reshape(len(x), -1),
    ),
    "joined": (
        "[twice] s = SpaceToDepth<blocksize=2>(x) [copy] z = Concat<axis=1>(s, s)",
        "float[N,16,3,3] z",
        None,
    ),
}


def quantized(text: str, feeds: dict[str, NDArray[Any]]) -> tuple[ir.Model, QuantizationPlan, ir.Model]:
    model = prepare(parse(text))
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    return model, plan, inserted(model, plan)


@pytest.mark.parametrize("name", COPIES)
def test_an_input_that_is_an_output_stays_bit_equal(name: str, tmp_path: Path) -> None:
    copy, face, closed_form = COPIES[name]
    x = np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)
    model, plan, written = quantized(
        f"g (float[N,2,6,6] x) => (float[N,2,1,1] y, {face}) {HEAD} {{ {copy} {LAYERS} }}", {"x": x}
    )
    for optimize in ("none", "all"):
        got, wanted = execute(written, {"x": x}, optimize=optimize), execute(model, {"x": x})
        np.testing.assert_array_equal(got["z"], wanted["z"] if closed_form is None else closed_form(x))
        assert sqnr(simulate(model, plan, {"x": x})["y"], got["y"]) > EQUAL
    operators = optimized_operators(written, tmp_path)
    assert operators.count("QLinearConv") == 2 and operators.count("QuantizeLinear") == 1


def test_a_copy_is_quantized_for_layers_behind_it(tmp_path: Path) -> None:
    text = f"""
    g (float[N,6,6,2] x) => (float[N,2,1,1] y, float[N,2,6,6] z) {HEAD}
    {{ [turn] t = Transpose<perm=[0,3,1,2]>(x) [copy] z = Identity(t) {LAYERS.replace("(x, w)", "(t, w)")} }}
    """
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 6, 6, 2)).astype(np.float32)}
    model, plan, written = quantized(text, feeds)
    got = execute(written, feeds)
    np.testing.assert_array_equal(got["z"], feeds["x"].transpose(0, 3, 1, 2))
    assert sqnr(simulate(model, plan, feeds)["y"], got["y"]) > EQUAL
    assert optimized_operators(written, tmp_path).count("QLinearConv") == 2


def test_what_computes_in_float_reads_an_input_as_it_is() -> None:
    text = f"g (float[N,2,6,6] x) => (float[N,2,1,1] y, float[N,2,6,6] z) {HEAD} {{ [tanh] z = Tanh(x) {LAYERS} }}"
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)}
    model, _, written = quantized(text, feeds)
    np.testing.assert_array_equal(execute(written, feeds)["z"], execute(model, feeds)["z"])


ATTENTION = """
attention (float[N,5,4] x, float[N,5,5] mask) => (float[N,5,3] y)
<float root = {{2.0}}, float[4,4] w0, float[4,4] w1, float[4,3] w2, float least = {{-3.4e38}}, float none = {{0.0}}>
{{
    [query] q = MatMul(x, w0)
    [key] k = MatMul(x, w1)
    [turn] t = Transpose<perm=[0,2,1]>(k)
    [score] s = MatMul(q, t)
    [scaled] d = Div(s, root)
    {masked}
    [soft] p = Softmax<axis=-1>(m)
    [value] v = MatMul(p, x)
    [last] y = MatMul(v, w2)
}}
"""
MASKS = {
    "added": "[masked] m = Add(d, mask)",
    "taken away": "[other] o = Neg(mask) [masked] m = Sub(d, o)",
    "moved": "[axis] i = Identity(mask) [masked] a = Add(d, i) [move] m = Identity(a)",
    "chosen": "[hidden] h = Less(mask, none) [masked] m = Where(h, mask, d)",
    "limited": "[masked] a = Add(d, mask) [floor] m = Max(a, least)",
}


@pytest.mark.parametrize("sentinel", [-1e4, -1e9, -3e38, -np.inf])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_attention_ruin_no_range(mask: str, sentinel: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 4)).astype(np.float32)
    hidden = np.where(np.arange(5) < rng.integers(2, 6, (4, 1, 1)), 0.0, sentinel)
    feeds = {"x": x, "mask": np.broadcast_to(hidden, (4, 5, 5)).astype(np.float32)}
    model, plan, written = quantized(ATTENTION.format(masked=MASKS[mask]), feeds)
    got = execute(written, feeds)["y"]
    assert sqnr(execute(model, feeds)["y"], got) > 32.0  # dB; 8 bits of four products one after the other
    assert sqnr(simulate(model, plan, feeds)["y"], got) > EQUAL
    refused = {refusal.where: refusal.reason for refusal in plan.refusals}
    assert mask != "added" or "Softmax" in refused["masked"]


def test_a_convolution_in_front_of_a_softmax_keeps_its_integers(tmp_path: Path) -> None:
    text = """
    gate (float[N,2,6,6] x) => (float[N,2,1,1] y) <float[2,2,3,3] w, float[2,2,1,1] w1>
    {
        [first] c = Conv<pads=[1,1,1,1]>(x, w) [soft] s = Softmax<axis=1>(c) [gate] g = Mul(s, x)
        [second] f = Conv(g, w1) [pool] y = GlobalAveragePool(f)
    }
    """
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)}
    _, _, written = quantized(text, feeds)
    assert optimized_operators(written, tmp_path).count("QLinearConv") == 2


SQUARES = {"product": "a = Mul(c, c) b = Mul(d, d)", "power": "a = Pow(c, two) b = Pow(d, two)"}


@pytest.mark.parametrize("squares", SQUARES)
@pytest.mark.parametrize("root", ["Sqrt(p)", "Log(p)"])
def test_squares_keep_their_range_on_the_way_to_a_root(squares: str, root: str) -> None:
    text = f"""
    spectrum (float[N,1,64] x) => (float[N,2,62] y)
        <float two = {{2}}, float least = {{1e-6}}, float[4,1,3] w, float[4,1,3] v, float[2,4,1] u>
    {{
        [real] c = Conv(x, w) [imaginary] d = Conv(x, v) {SQUARES[squares]} [sum] s = Add(a, b) p = Max(s, least)
        m = {root} [last] l = Conv(m, u) r = Relu(l) [out] y = Add(r, r)
    }}
    """
    # loud samples beside some that are 50 dB below: half of eight bits' range of a power, and all of that of a square
    loud = np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)
    feeds = {"x": loud * np.float32(0.003) ** (np.arange(8) % 2).reshape(-1, 1, 1).astype(np.float32)}
    _, plan, _ = quantized(text, feeds)
    assert "powers" in {refusal.where: refusal.reason for refusal in plan.refusals}["sum"]
    assert {"a", "b", "s", "p"}.isdisjoint(site.value for site in plan.activations)
    assert "m" in {site.value for site in plan.activations}


def test_squares_that_no_root_reads_are_quantized() -> None:
    text = """
    gate (float[N,1,64] x) => (float[N,2,62] y) <float[4,1,3] w, float[2,4,1] u>
    { [first] c = Conv(x, w) [square] a = Mul(c, c) [sum] s = Add(a, c) [last] l = Conv(s, u) y = Relu(l) }
    """
    _, plan, _ = quantized(text, {"x": np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)})
    assert {"a", "s"} <= {site.value for site in plan.activations}


def test_a_transform_in_front_of_powers_makes_float_numbers() -> None:
    text = """
    spectrum (float[N,1,64] x) => (float[N,2,62] y) <float two = {2}, float[8,1,3] w, int64[2] parts = {4, 4},
    float[2,4,1] u>
    {
        [transform] t = Conv(x, w) c, d = Split<axis=1>(t, parts) a = Pow(c, two) b = Pow(d, two) s = Add(a, b)
        m = Sqrt(s) [last] l = Conv(m, u) r = Relu(l) [out] y = Add(r, r)
    }
    """
    x = np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)
    _, plan, _ = quantized(text, {"x": x})
    assert plan.activations[0].value == "m"
    assert "squared" in {refusal.where: refusal.reason for refusal in plan.refusals}["transform"]
    assert {site.node for site in plan.weights} == {"transform", "last"}  # stored in integers all the same


def test_structures_without_a_row_are_quantized() -> None:
    text = """
    gate (float[N,1,64] x) => (float[N,2,62] y) <float[4,1,3] w, float[2,4,1] u>
    { [first] c = Conv(x, w) a = Mul(c, c) s = Add(a, a) m = Sqrt(s) [last] l = Conv(m, u) y = Relu(l) }
    """
    model = prepare(parse(text))
    assert "a" in {site.value for site in place_quantizers(model, replace(TARGET, keep_float=())).activations}
    assert "a" not in {site.value for site in place_quantizers(model, TARGET).activations}
