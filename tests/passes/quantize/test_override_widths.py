import re
from dataclasses import replace

import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.emit.emit import emit
from passes.plan import QuantizationPlan
from passes.quantize.override_widths import Widths, WidthsError, override_widths, widths_of
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, simulate, sqnr, with_scales
from tests.sharing import STEPS, unrolled

TARGET = load_target("ort_cpu")
WIDE = replace(TARGET, wide_activation_bits=16)


def placed(**options: int) -> tuple[ir.Model, QuantizationPlan]:
    model = prepare(models.residual())
    return model, place_quantizers(model, TARGET, **options)


def test_what_is_named_gets_its_width_and_the_rest_keeps_its_own() -> None:
    _, plan = placed(bits=4)
    changed = override_widths(plan, TARGET, Widths(weights={"conv1": 2, "gemm": 3}, activations={"r1": 4}))
    assert {s.node: s.number_format.bits for s in changed.weights} == {"conv0": 8, "conv1": 2, "conv2": 4, "gemm": 3}
    assert {s.value: s.number_format.bits for s in changed.activations} == {
        **dict.fromkeys(("x", "r0", "n2", "r2", "p", "f"), 8),
        "r1": 4,
    }
    assert changed.weights[0].number_format == TARGET.weight  # narrow at 8 bits only
    assert not changed.weights[1].number_format.narrow
    assert not changed.activation_scales


def test_values_that_share_a_scale_get_one_width() -> None:
    _, plan = placed()
    changed = override_widths(plan, TARGET, Widths(activations={"p": 4}))
    assert {s.value for s in changed.activations if s.number_format.bits == 4} == {"p", "f"}
    with pytest.raises(WidthsError, match="'p' and 'f' share one scale, so they need equal bits, got 4 and 8"):
        override_widths(plan, TARGET, Widths(activations={"p": 4, "f": 8}))


def test_layers_that_share_a_weight_get_one_width() -> None:
    model = prepare(unrolled())
    plan = place_quantizers(model, TARGET, bits=4)
    steps = [f"step{step}" for step in range(1, STEPS + 1)]
    assert [site.number_format.bits for site in plan.weights] == [8, *[4] * STEPS, 8]
    changed = override_widths(plan, TARGET, Widths(weights={"step3": 2}))
    assert widths_of(changed).weights == {"enter": 8, **dict.fromkeys(steps, 2), "leave": 8}
    assert override_widths(plan, TARGET, widths_of(changed)).weights == changed.weights
    with pytest.raises(WidthsError, match="'step1' and 'step8' share one weight, so they need equal bits, got 4 and 3"):
        override_widths(plan, TARGET, Widths(weights={"step1": 4, "step8": 3}))


def test_a_float_value_takes_its_group_along_and_is_refused_with_a_reason() -> None:
    _, plan = placed()
    changed = override_widths(plan, TARGET, Widths(activations={"p": "float"}))
    assert [site.value for site in changed.activations] == ["x", "r0", "r1", "n2", "r2"]
    assert [(refusal.where, refusal.op_type) for refusal in changed.refusals] == [
        ("p", "activation"),
        ("f", "activation"),
    ]
    assert "stays float" in changed.refusals[0].reason


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        (Widths(weights={"conv9": 4}), "this model has no layer 'conv9'; did you mean 'conv"),
        (Widths(activations={"r7": 4}), "this model has no quantized value 'r7'; did you mean 'r"),
        (Widths(weights={"conv1": 9}), "the weight of 'conv1' can have 2 to 8 bits on ort_cpu, got 9"),
        (Widths(weights={"conv1": 1}), "2 to 8 bits"),
        (Widths(activations={"r1": 16}), "the value 'r1' can have 2 to 8 bits or be \"float\" on ort_cpu, got 16"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_words(widths: Widths, words: str) -> None:
    _, plan = placed()
    with pytest.raises(WidthsError, match=re.escape(words)):
        override_widths(plan, TARGET, widths)


def test_a_target_with_a_wider_format_can_be_given_it() -> None:
    model, plan = placed()
    feeds = random_feeds(model)
    changed = override_widths(plan, WIDE, Widths(activations=dict.fromkeys(("x", "r0", "r1", "n2", "r2", "p"), 16)))
    assert {site.number_format.bits for site in changed.activations} == {16}
    wanted = execute(model, feeds)["logits"]
    quality = {}
    for name, one in (("wide", changed), ("plain", plan)):
        quantized = inserted(model, with_scales(one, model, feeds))
        quality[name] = sqnr(wanted, execute(quantized, feeds)["logits"])
    assert quality["wide"] > quality["plain"] + 1.0  # dB; what is left is the weights' noise
    with pytest.raises(WidthsError, match=r"2 to 8, 16 bits"):
        override_widths(plan, WIDE, Widths(activations={"x": 12}))


def test_widths_of_a_plan_make_the_same_plan_again() -> None:
    _, plan = placed(bits=4, act_bits=4)
    changed = override_widths(plan, TARGET, Widths(weights={"conv1": 8}, activations={"r1": 8, "p": "float"}))
    widths = widths_of(changed)
    assert widths.weights == {"conv0": 8, "conv1": 8, "conv2": 4, "gemm": 8}
    assert (widths.activations["r1"], widths.activations["p"], widths.activations["f"]) == (8, "float", "float")
    again = override_widths(placed()[1], TARGET, widths)
    assert (again.weights, again.activations) == (changed.weights, changed.activations)


@pytest.mark.parametrize("value", ["x", "r0", "r1", "n2", "r2", "p"])
def test_a_network_with_a_float_value_computes_what_its_plan_says(value: str) -> None:
    model, plan = placed(bits=4)
    feeds = random_feeds(model)
    plan = with_scales(override_widths(plan, TARGET, Widths(activations={value: "float"})), model, feeds)
    quantized = inserted(model, plan)
    emit(quantized, plan, TARGET)
    # a bias is only int32 where its data are quantized
    floats = {site.bias for site in plan.weights if site.data_input not in {s.value for s in plan.activations}}
    biased = replace(plan, weights=tuple(replace(s, bias=None) if s.bias in floats else s for s in plan.weights))
    wanted, got = simulate(model, biased, feeds)["logits"], execute(quantized, feeds)["logits"]
    assert sqnr(wanted, got) > 35.0  # dB: a code may flip here and there
