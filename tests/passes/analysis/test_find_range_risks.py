import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.target import NumberFormat, OperatorRule, Target
from passes.analysis.find_range_risks import find_bias_risks, find_scale_conflicts
from passes.plan import ActivationSite, QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models

UINT8 = NumberFormat(bits=8, signed=False, symmetric=False)


def layer(weight: np.ndarray, bias: np.ndarray) -> ir.Model:
    text = """
    net (float[N,2,4,4] x) => (float[N,3,4,4] z) <float[3,2,1,1] w, float[3] b>
    { [conv] c = Conv(x, w, b) [relu] y = Relu(c) [more] z = Tanh(y) }
    """
    return models.graph(text, weights={"w": weight.astype(np.float32), "b": bias.astype(np.float32)})


@pytest.fixture
def weight() -> np.ndarray:
    return np.array([[0.5, -1.27], [1.27, 0.1], [0.3, 1.27]]).reshape(3, 2, 1, 1)


def test_codes_are_those_of_the_closed_form(weight: np.ndarray) -> None:
    weight[1] *= 1e-2
    model = layer(weight, np.array([0.1, 1e6, 0.1]))
    plan = place_quantizers(model, load_target("ort_cpu"))
    (risk,) = find_bias_risks(model, plan, {"x": (0.0, 2.55)})
    assert (risk.node, risk.channels) == ("conv", (1,))
    # data step 0.01, weight step 1.27e-2 / 127: the code is 1e6 / 1e-6
    assert risk.largest == pytest.approx(1e12, rel=1e-6)


def test_what_fits_and_what_is_not_known_is_no_risk(weight: np.ndarray) -> None:
    model = layer(weight, np.array([0.1, -2e3, 0.1]))
    plan = place_quantizers(model, load_target("ort_cpu"))
    assert find_bias_risks(model, plan, {"x": (0.0, 2.55)}) == ()
    assert find_bias_risks(layer(weight, np.full(3, 1e9)), plan, {}) == ()


def test_a_dead_channel_is_no_risk(weight: np.ndarray) -> None:
    weight[2] *= 1e-9
    model = layer(weight, np.full(3, 10.0))
    assert find_bias_risks(model, place_quantizers(model, load_target("ort_cpu")), {"x": (0.0, 2.55)}) == ()


def test_a_narrow_range_makes_a_risk_of_the_same_bias(weight: np.ndarray) -> None:
    model = layer(weight, np.array([0.0, 0.0, -1e3]))
    plan = place_quantizers(model, load_target("ort_cpu"))
    assert find_bias_risks(model, plan, {"x": (-1.0, 1.0)}) == ()
    (risk,) = find_bias_risks(model, plan, {"x": (-1e-6, 1e-6)})
    assert risk.channels == (2,)


def plan_of(groups: dict[str, str]) -> QuantizationPlan:
    sites = (ActivationSite(value=value, number_format=UINT8, group=group) for value, group in groups.items())
    return QuantizationPlan(activations=tuple(sites), weights=(), refusals=())


def test_values_of_one_group_that_differ_in_range_conflict() -> None:
    plan = plan_of({"a": "a", "b": "a", "c": "a", "d": "d"})
    ranges = {"a": (-1.0, 1.0), "b": (0.0, 16.0), "c": (0.0, 8.0), "d": (0.0, 1e-3)}
    (conflict,) = find_scale_conflicts(plan, ranges)
    assert (conflict.widest, conflict.narrowest, conflict.members) == ("b", "a", 3)
    assert conflict.bits_lost == pytest.approx(3.0)


def test_like_ranges_zeros_and_unknown_ones_do_not_conflict() -> None:
    plan = plan_of({"a": "a", "b": "a", "zero": "a", "unknown": "a"})
    assert find_scale_conflicts(plan, {"a": (0.0, 1.0), "b": (0.0, 3.9), "zero": (0.0, 0.0)}) == ()


def test_a_target_that_gives_concat_one_scale_makes_the_conflict() -> None:
    model = models.graph(
        """
        net (float[N,2,4,4] x) => (float[N,3,4,4] z) <float[3,2,1,1] w0, float[3,2,1,1] w1, float[3,6,1,1] w2>
        { [l] a = Conv(x, w0) [r] b = Conv(x, w1) [join] j = Concat<axis=1>(a, b) [last] z = Conv(j, w2) }
        """
    )
    rules = (OperatorRule(op_type="Conv", kind="weighted", fused_as="QLinearConv", float_output=True),)
    shared = OperatorRule(op_type="Concat", kind="same_scale", fused_as="Concat")
    own = OperatorRule(op_type="Concat", kind="quantized", fused_as="QLinearConcat")
    ranges = {"x": (0.0, 1.0), "a": (-20.0, 20.0), "b": (-1.0, 1.0), "j": (-20.0, 20.0)}
    found = {}
    for rule in (shared, own):
        target = Target(
            name="t",
            description="",
            opset=21,
            providers=(),
            activation=UINT8,
            weight=NumberFormat(bits=8, signed=True, symmetric=True, narrow=True),
            packed_weight_bits=0,
            operators=(*rules, rule),
        )
        found[rule.kind] = find_scale_conflicts(place_quantizers(model, target), ranges)
    assert [(one.widest, one.narrowest) for one in found["same_scale"]] in ([("a", "b")], [("j", "b")])
    assert found["quantized"] == ()
