import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from backends.session import open_session
from passes.dequantize.relax_quantizers import RelaxQuantizers
from tests import models

STEP = 0.05
GRID = "float s = {0.05}, uint8 z = {40}, uint8 zero = {0}, float t = {0.06}, float six = {6.0}, float none = {0.0}"
SMALL = 1e-5  # of a step: float32 has the rest
ENDS = (-2.0, 10.75)  # of the grid: codes 0 to 255 around 40, in steps of 0.05


def text(body, inputs="float[N,4,6,6] x", outputs="float[A,B,C,D] y", more="", header=""):
    return f"{header} g ({inputs}) => ({outputs}) <{GRID}{', ' if more else ''}{more}> {{ {body} }}"


def relaxed(given, *, modified=True):
    model = models.graph(given)
    relax = RelaxQuantizers()
    outcome = relax.call(model)
    assert outcome.modified is modified
    common.RemoveUnusedNodesPass()(model)
    return model, relax, outcome


def steps_apart(given, model):
    """Largest difference between the two in steps of 0.05, on numbers far beyond the range as well."""
    before = models.parse(given)
    feeds = {name: 4 * array for name, array in models.random_feeds(before).items()}
    one, other = (open_session(each, threads=1, optimize="none").run(feeds) for each in (before, ir.to_proto(model)))
    assert list(one) == list(other)
    return max(np.abs(one[name].astype(np.float64) - other[name]).max() for name in one) / STEP


def ends_of(node):
    return tuple(float(value.const_value.numpy()) for value in node.inputs[1:])


PAIR = "q = QuantizeLinear({x}, s, z) {y} = DequantizeLinear(q, s, z)"


def test_a_pair_becomes_its_range():
    given = text(PAIR.format(x="x", y="d") + " y = Abs(d)")
    model, relax, outcome = relaxed(given)
    assert models.operators(model) == ["Clip", "Abs"]
    np.testing.assert_allclose(ends_of(model.graph[0]), ENDS, rtol=1e-6)
    assert (relax.relaxed, relax.needless, relax.levels, outcome.refusals) == (1, 0, 256, ())
    assert steps_apart(given, model) <= 0.5 + SMALL
    assert not RelaxQuantizers().call(model).modified


@pytest.mark.parametrize(
    ("kind", "code", "ends"),
    [
        ("int8", 0, (-128, 127)),
        ("uint16", 100, (-100, 65435)),
        ("int16", 0, (-32768, 32767)),
        ("uint4", 3, (-3, 12)),
        ("int4", -1, (-7, 8)),
    ],
)
def test_every_type_has_its_range(kind, code, ends):
    given = text("q = QuantizeLinear(x, s, p) y = DequantizeLinear(q, s, p)", more=f"{kind} p = {{{code}}}")
    model, _, _ = relaxed(given)
    np.testing.assert_allclose(ends_of(model.graph[0]), np.multiply(ends, STEP), rtol=1e-6)
    assert steps_apart(given, model) <= 0.5 + 0.01  # 16 bits of codes: float32 has 0.001 of a step of them


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        # two readers of one quantizer share its Clip
        ("q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear(q, s, z) y = Add(a, b)",
         ["Clip", "Add"]),
        ("q = QuantizeLinear(x, s, z) m = MaxPool<kernel_shape=[2,2]>(q) d = DequantizeLinear(m, s, z) y = Abs(d)",
         ["Clip", "MaxPool", "Abs"]),
        ("q = QuantizeLinear(x, s, z) m = Transpose<perm=[0,2,3,1]>(q) d = DequantizeLinear(m, s, z) y = Abs(d)",
         ["Clip", "Transpose", "Abs"]),
        ("q = QuantizeLinear(x, s, z) m = Reshape(q, shape) n = Slice(m, one, two) d = DequantizeLinear(n, s, z) "
         "y = Abs(d)", ["Clip", "Reshape", "Slice", "Abs"]),
        ("a = Abs(x) p = QuantizeLinear(x, s, z) q = QuantizeLinear(a, s, z) c = Concat<axis=1>(p, q) "
         "d = DequantizeLinear(c, s, z) y = Neg(d)", ["Abs", "Clip", "Clip", "Concat", "Neg"]),
        ("q = QuantizeLinear(x, s, z) a, b = Split<axis=1, num_outputs=2>(q) c = DequantizeLinear(a, s, z) "
         "d = DequantizeLinear(b, s, z) y = Add(c, d)", ["Clip", "Split", "Add"]),
        ("q = QuantizeLinear(x, s, z) m = Pad(q, pads, z) d = DequantizeLinear(m, s, z) y = Abs(d)",
         ["Clip", "Pad", "Abs"]),
        ("q = QuantizeLinear(x, s, z) m = Pad(q, pads) d = DequantizeLinear(m, s, z) y = Abs(d)",
         ["Clip", "Pad", "Abs"]),
        ('q = QuantizeLinear(x, s, z) m = Resize<mode="linear">(q, , grow) d = DequantizeLinear(m, s, z) y = Abs(d)',
         ["Clip", "Resize", "Abs"]),
        ("q = QuantizeLinear(x, s, z) m = Clip(q, least, most) d = DequantizeLinear(m, s, z) y = Abs(d)",
         ["Clip", "Abs"]),
        ("q = QuantizeLinear(x, s, z) m = MaxPool<kernel_shape=[2,2]>(q) a = DequantizeLinear(m, s, z) "
         "b = DequantizeLinear(q, s, z) c = MaxPool<kernel_shape=[2,2]>(b) y = Add(a, c)",
         ["Clip", "MaxPool", "MaxPool", "Add"]),
    ],
)  # fmt: skip
def test_codes_may_be_moved_in_between(body, operators):
    more = (
        "int64[4] shape = {0, 6, 4, 6}, int64[1] one = {1}, int64[1] two = {2}, uint8 least = {30}, uint8 most = {90}"
    )
    more += ", float[4] grow = {1.0, 1.0, 2.0, 2.0}"
    given = text(body, more=f"{more}, int64[8] pads = {{0,0,1,1,0,0,2,0}}")
    model, _, outcome = relaxed(given)
    assert sorted(models.operators(model)) == sorted(operators)
    assert not outcome.refusals
    # two values that were rounded may be added, and a Resize cuts what it mixes down to a code
    steps = 1.5 if "Resize" in operators else 1.0 if "Add" in operators else 0.5
    assert steps_apart(given, model) <= steps + SMALL
    assert not RelaxQuantizers().call(model).modified


def test_a_clip_on_codes_tells_how_many_there_were():
    given = text(
        "q = QuantizeLinear(x, s, z) m = Clip(q, least, most) y = DequantizeLinear(m, s, z)",
        more="uint8 least = {30}, uint8 most = {45}",
    )
    model, relax, _ = relaxed(given)
    assert relax.levels == 16
    assert steps_apart(given, model) <= 0.5 + SMALL


def test_constants_among_the_moved_become_floats():
    given = text(
        "q = QuantizeLinear(x, s, z) c = Concat<axis=1>(q, w) y = DequantizeLinear(c, s, z)",
        inputs="float[2,4,6,6] x",
        more="uint8[2,1,6,6] w",
    )
    model, _, _ = relaxed(given)
    assert models.operators(model) == ["Clip", "Concat", "Identity"]
    assert steps_apart(given, model) <= 0.5 + SMALL


@pytest.mark.parametrize(
    ("body", "operators", "ends", "needless"),
    [
        # the target fuses one Relu or one Clip into a layer, and not two in a row
        ("r = Relu(x) {pair} y = Neg(d)", ["Clip", "Neg"], (0.0, 10.75), 0),
        ("r = Clip(x, none, six) {pair} y = Neg(d)", ["Clip", "Neg"], (0.0, 6.0), 1),
        ("r = Clip(x, , six) {pair} y = Neg(d)", ["Clip", "Neg"], (-2.0, 6.0), 0),
        # another reader needs the Relu
        ("r = Relu(x) {pair} a = Neg(d) y = Add(a, r)", ["Relu", "Clip", "Neg", "Add"], (-2.0, 10.75), 0),
        # nothing can leave the range: proven
        ("r = Sigmoid(x) {pair} y = Neg(d)", ["Sigmoid", "Neg"], None, 1),
        ("e = Clip(x, none, six) r = MaxPool<kernel_shape=[2,2]>(e) {pair} y = Neg(d)",
         ["Clip", "MaxPool", "Neg"], (0.0, 6.0), 1),
        ("e = Clip(x, none, six) f = Sigmoid(e) r = Add(e, f) {pair} y = Neg(d)",
         ["Clip", "Sigmoid", "Add", "Neg"], (0.0, 6.0), 1),
        # not proven
        ("e = Sigmoid(x) r = Add(e, x) {pair} y = Neg(d)", ["Sigmoid", "Add", "Clip", "Neg"], (-2.0, 10.75), 0),
    ],
)  # fmt: skip
def test_limits_that_are_there_already_are_merged(body, operators, ends, needless):
    given = text(body.format(pair=PAIR.format(x="r", y="d")))
    model, relax, _ = relaxed(given)
    assert models.operators(model) == operators
    found = [ends_of(node) for node in model.graph if node.op_type == "Clip"]
    assert (not found) if ends is None else np.allclose(found, [ends], rtol=1e-6)
    assert steps_apart(given, model) <= 0.5 + SMALL
    assert relax.needless == needless


def test_what_is_within_half_a_step_is_within():
    # 6 / 255 in float32 makes a range that ends a hair below 6
    given = text(
        "r = Clip(x, none, six) q = QuantizeLinear(r, u, zero) d = DequantizeLinear(q, u, zero) y = Neg(d)",
        more="float u = {0.023529411}",
    )
    model, relax, _ = relaxed(given)
    assert models.operators(model) == ["Clip", "Neg"] and relax.needless == 1
    assert ends_of(model.graph[0]) == (0.0, 6.0)
    coarse = given.replace("0.023529411", "0.0233")  # ends at 5.94, two steps and a half below
    model, relax, _ = relaxed(coarse)
    assert relax.needless == 0 and ends_of(model.graph[0])[1] == pytest.approx(5.9415)


def test_several_in_a_row_leave_one_clip():
    given = text(
        """
        r = Relu(x) q = QuantizeLinear(r, s, zero) d = DequantizeLinear(q, s, zero)
        m = MaxPool<kernel_shape=[2,2]>(d) p = QuantizeLinear(m, s, zero) e = DequantizeLinear(p, s, zero) y = Neg(e)
        """
    )
    model, relax, _ = relaxed(given)
    assert models.operators(model) == ["Clip", "MaxPool", "Neg"]
    assert (relax.relaxed, relax.needless) == (2, 1)
    assert steps_apart(given, model) <= 0.5 + SMALL


def test_before_opset_11_limits_are_attributes():
    header = '<ir_version: 5, opset_import: ["" : 10]>'
    given = text("r = Relu(x) " + PAIR.format(x="r", y="d") + " y = Neg(d)", header=header)
    model, _, _ = relaxed(given)
    assert models.operators(model) == ["Clip", "Neg"]
    assert model.graph[0].attributes.get_float("max") == pytest.approx(10.75)
    assert steps_apart(given, model) <= 0.5 + SMALL


def test_outputs_keep_their_names():
    given = text(PAIR.format(x="x", y="y") + " z2 = Neg(y)", outputs="float[A,B,C,D] y, float[E,F,G,H] z2")
    model, _, _ = relaxed(given)
    assert models.operators(model) == ["Clip", "Identity", "Neg"]
    assert steps_apart(given, model) <= 0.5 + SMALL


@pytest.mark.parametrize(
    ("body", "inputs", "outputs"),
    [
        ("d = DequantizeLinear(x, s, z) y = Abs(d)", "uint8[N,4,6,6] x", "float[A,B,C,D] y"),
        ("m = Transpose<perm=[0,2,3,1]>(x) d = DequantizeLinear(m, s, z) y = Abs(d)", "uint8[N,4,6,6] x",
         "float[A,B,C,D] y"),
        ("y = QuantizeLinear(x, s, z)", "float[N,4,6,6] x", "uint8[A,B,C,D] y"),
    ],
)  # fmt: skip
def test_codes_at_the_border_stay(body, inputs, outputs):
    model, _, outcome = relaxed(text(body, inputs, outputs), modified=False)
    assert not outcome.refusals
    assert models.operators(model) == models.operators(models.graph(text(body, inputs, outputs)))


def test_codes_that_also_leave_the_graph_are_still_made():
    given = text("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Neg(d)",
                 outputs="float[A,B,C,D] y, uint8[E,F,G,H] q")  # fmt: skip
    model, _, outcome = relaxed(given)
    assert sorted(models.operators(model)) == ["Clip", "Neg", "QuantizeLinear"] and not outcome.refusals
    assert steps_apart(given, model) <= 0.5 + SMALL


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z)", "", "another scale, zero point or type"),
        ("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, zero)", "", "another scale, zero point or type"),
        ("q = QuantizeLinear(x, scale, p) y = DequantizeLinear(q, scale, p)",
         "float[4] scale, uint8[4] p = {0, 0, 0, 0}", "a scale for each channel of an activation"),
        ("q = QuantizeLinear(x, s, z) r = BitwiseNot(q) y = DequantizeLinear(r, s, z)", "",
         "(BitwiseNot) computes with the codes"),
        ('q = QuantizeLinear(x, s, z) m = Resize<mode="cubic">(q, , grow) y = DequantizeLinear(m, s, z)',
         "float[4] grow = {1.0, 1.0, 2.0, 2.0}", "(Resize) computes with the codes"),
        ("c = Cast<to=2>(x) y = DequantizeLinear(c, s, z)", "", "(Cast) computes with the codes"),
        ("m = ReduceMax<keepdims=0>(x) a = Abs(m) q = QuantizeLinear(x, a, z) y = DequantizeLinear(q, a, z)", "",
         "its scale is computed at run time"),
        ("q = QuantizeLinear(x, s, z) m, i = MaxPool<kernel_shape=[2,2]>(q) f = Cast<to=1>(i) "
         "d = DequantizeLinear(m, s, z) y = Add(d, f)", "", "positions"),
    ],
)  # fmt: skip
def test_what_is_not_understood_stays_and_says_why(body, more, reason):
    model, _, outcome = relaxed(text(body, more=more), modified=False)
    assert reason in outcome.refusals[0].reason
    assert outcome.refusals[0].op_type == "DequantizeLinear"
    assert "DequantizeLinear" in models.operators(model) and "Clip" not in models.operators(model)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_places_of_codes_are_places_of_floats(op_type):
    given = text(
        f"q = QuantizeLinear(x, s, z) m = Transpose<perm=[0,2,3,1]>(q) y = {op_type}<axis=3>(m)",
        outputs="int64[A,B,C,D] y",
    )
    model, relax, outcome = relaxed(given)
    assert models.operators(model) == ["Clip", "Transpose", op_type] and relax.relaxed == 1 and not outcome.refusals
    feeds = models.random_feeds(models.parse(given))
    one, other = (open_session(each).run(feeds)["y"] for each in (models.parse(given), ir.to_proto(model)))
    assert np.mean(one == other) > 0.9  # two that are half a step apart may have had one code
    assert not RelaxQuantizers().call(model).modified


def test_codes_of_an_input_are_not_mixed_with_others():
    given = text(
        "q = QuantizeLinear(x, s, z) c = Concat<axis=1>(q, u) y = DequantizeLinear(c, s, z)",
        inputs="float[N,4,6,6] x, uint8[N,4,6,6] u",
    )
    _, _, outcome = relaxed(given, modified=False)
    assert "mixed" in outcome.refusals[0].reason


def test_the_comparison_sees_limits_that_were_left_out(monkeypatch):
    monkeypatch.setattr(RelaxQuantizers, "_limited", lambda self, node, source, limits, grid: source)
    given = text(PAIR.format(x="x", y="d") + " y = Abs(d)")
    model, _, _ = relaxed(given)
    assert steps_apart(given, model) > 1.0
