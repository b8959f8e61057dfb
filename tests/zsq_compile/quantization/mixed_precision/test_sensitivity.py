from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from backends.catalog import load_target
from passes.plan import QuantizationPlan
from passes.quantize.override_widths import Widths, override_widths
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import fake_quantized, inserted, prepare
from tests.zsq_compile.quantization.networks import float_network
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import calibrate_plan, round_weights
from zsq_compile.quantization.mixed_precision.sensitivity import (
    measure_activation_nsr,
    measure_nsr,
    measure_weight_nsr,
    round_at_widths,
)
from zsq_compile.quantization.rounding.second_moments import find_measurable, measure_second_moments
from zsq_compile.quantization.state import FloatNetwork

TARGET = load_target("ort_cpu")
NETWORKS = {
    "residual": (models.residual, (3, 8, 8)),
    "depthwise": (models.depthwise, (3, 9, 9)),
    "branches": (models.branches, (1, 8, 8)),
}
CONFIG = QuantizationConfig(bits=4, edge_bits=4)
Batches = list[dict[str, Tensor]]


def ready(name: str) -> tuple[ir.Model, TorchGraph, QuantizationPlan, Batches, Batches]:
    """A network, its graph, a calibrated plan of 4 bits, calibration data, and two feeds of other data."""
    make, shape = NETWORKS[name]
    model = prepare(make())
    teacher = TorchGraph(model)
    batches = [{"x": images(32, shape, seed=0)}, {"x": images(16, shape, seed=1)}]
    plan = place_quantizers(model, TARGET, bits=4, edge_bits=4)
    samples = [{"x": images(8, shape, seed=2)}, {"x": images(4, shape, seed=3)}]
    return model, teacher, calibrate_plan(plan, teacher, batches, CONFIG), batches, samples


def images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def network_of(model: ir.Model, batches: Batches) -> FloatNetwork:
    return float_network(model, {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})


def noise_to_signal(wanted: list[Tensor], got: list[Tensor]) -> float:
    reference, other = np.concatenate([w.numpy() for w in wanted]), np.concatenate([g.numpy() for g in got])
    return float(np.mean((other - reference) ** 2) / np.var(reference))


def coarse(weight: Tensor, seed: int) -> Tensor:
    return weight + 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_nsr_of_a_weight_is_that_of_the_whole_network_run_with_it(name: str) -> None:
    _, teacher, plan, _, samples = ready(name)
    candidates = {
        site.initializer: {bits: coarse(teacher.initializers[site.initializer], bits) for bits in (4, 8)}
        for site in plan.weights
    }
    told = []
    ratios = measure_weight_nsr(plan, teacher, candidates, samples, advance=told.append)
    assert told == [1, 1]
    assert ratios.keys() == {site.node for site in plan.weights}
    (output,) = teacher.output_names
    wanted = [teacher.run(feed)[output] for feed in samples]
    for site in plan.weights:
        for bits, weight in candidates[site.initializer].items():
            got = [teacher.run(feed, replace={site.initializer: weight})[output] for feed in samples]
            assert ratios[site.node][bits] == pytest.approx(noise_to_signal(wanted, got), rel=1e-4)


def test_a_float_weight_has_no_nsr_and_a_layer_without_candidates_is_left_out() -> None:
    _, teacher, plan, batches, samples = ready("residual")
    candidates = {"w1": {8: teacher.initializers["w1"]}}
    ratios = measure_weight_nsr(plan, teacher, candidates, samples, correct_on=batches)
    assert list(ratios) == ["conv1"]
    assert ratios["conv1"][8] == pytest.approx(0.0, abs=1e-12)


def test_the_mean_error_of_a_layer_is_taken_out_of_its_bias() -> None:
    _, teacher, plan, batches, samples = ready("residual")
    moved = {"w1": {4: teacher.initializers["w1"] + 0.05}}  # all errors of one sign: Relu's outputs do not cancel them
    left_in = measure_weight_nsr(plan, teacher, moved, samples)["conv1"][4]
    taken_out = measure_weight_nsr(plan, teacher, moved, samples, correct_on=batches)["conv1"][4]
    assert taken_out < 0.3 * left_in

    (bias,) = (site.bias for site in plan.weights if site.node == "conv1")
    outputs = [teacher.run(feed, ["n1"])["n1"] for feed in batches]
    changed = [teacher.run(feed, ["n1"], replace={"w1": moved["w1"][4]})["n1"] for feed in batches]
    shift = (torch.cat(changed) - torch.cat(outputs)).mean((0, 2, 3))
    corrected = {"w1": moved["w1"][4], str(bias): teacher.initializers[str(bias)] - shift}
    wanted = [teacher.run(feed)["logits"] for feed in samples]
    got = [teacher.run(feed, replace=corrected)["logits"] for feed in samples]
    assert taken_out == pytest.approx(noise_to_signal(wanted, got), rel=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_nsr_of_a_value_is_that_of_a_network_with_its_quantizer_alone(name: str) -> None:
    model, teacher, plan, _, samples = ready(name)
    ratios = measure_activation_nsr(plan, teacher, samples)
    assert ratios.keys() == {site.group for site in plan.activations}
    (output,) = teacher.output_names
    wanted = [teacher.run(feed)[output] for feed in samples]
    for group in ratios:
        sites = tuple(site for site in plan.activations if site.group == group)
        alone = QuantizationPlan(
            activations=sites, weights=(), refusals=(), activation_scales={group: plan.activation_scales[group]}
        )
        quantized = TorchGraph(inserted(model, alone))
        got = [quantized.run(feed)[output] for feed in samples]
        assert ratios[group] == pytest.approx(noise_to_signal(wanted, got), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_candidates_are_the_weights_of_the_finished_model(rounding: str) -> None:
    model, teacher, plan, batches, _ = ready("residual")
    config = QuantizationConfig(bits=4, edge_bits=4, rounding=rounding)  # type: ignore[arg-type]
    moments = measure_second_moments(find_measurable(plan, teacher), teacher, batches)
    rounded = round_at_widths(network_of(model, batches), plan, moments, config)
    moved, finished = round_weights(network_of(model, batches), plan, config.rounding, moments)
    for site in plan.weights:
        weight, scale = rounded[site.initializer]
        exact = moved.get(site.initializer, teacher.initializers[site.initializer])
        np.testing.assert_array_equal(scale.scale, finished.weight_scales[site.initializer].scale)
        wanted = fake_quantized(exact.numpy(), scale, site.number_format, site.axis)
        np.testing.assert_allclose(weight.numpy(), wanted, rtol=1e-6)


def test_more_bits_have_less_nsr() -> None:
    model, teacher, plan, batches, samples = ready("residual")
    moments = measure_second_moments(find_measurable(plan, teacher), teacher, batches)
    candidates: dict[str, dict[int, Tensor]] = {}
    for bits in (8, 4, 2):
        narrow = override_widths(plan, TARGET, Widths(weights={site.node: bits for site in plan.weights}))
        narrow = narrow.with_scales(activations=plan.activation_scales)
        for name, (weight, _) in round_at_widths(network_of(model, batches), narrow, moments, CONFIG).items():
            candidates.setdefault(name, {})[bits] = weight
    ratios = measure_weight_nsr(plan, teacher, candidates, samples, correct_on=batches)
    for node, nsr in ratios.items():
        assert nsr[8] < 0.05 * nsr[4] < nsr[4] < 0.2 * nsr[2], node


def several() -> onnx.ModelProto:
    """A float output, one that conv1 does not lead to, and one of integers."""
    return models.parse(
        """
        several (float[N,2,6,6] x) => (float[N,3,6,6] a, float[N,3,6,6] b, int64[N,1,6,6] best)
        <float[3,2,1,1] w0, float[3] b0, float[3,3,1,1] w1, float[3] b1>
        {
            [conv0] a = Conv(x, w0, b0)
            [conv1] b = Conv(a, w1, b1)
            [best] best = ArgMax<axis=1>(b)
        }
        """
    )


def test_every_output_counts_and_integers_by_the_share_that_changes() -> None:
    model = prepare(several())
    teacher = TorchGraph(model)
    plan = place_quantizers(model, TARGET)
    samples = [{"x": images(16, (2, 6, 6), seed=4)}]
    candidates = {"w1": {4: coarse(teacher.initializers["w1"], 0)}}
    nsr = measure_weight_nsr(plan, teacher, candidates, samples)["conv1"][4]
    wanted = teacher.run(samples[0])
    got = teacher.run(samples[0], replace={"w1": candidates["w1"][4]})
    share = float((wanted["best"] != got["best"]).double().mean())
    assert share > 0.0
    assert nsr == pytest.approx((noise_to_signal([wanted["b"]], [got["b"]]) + share + 0.0) / 3, rel=1e-5)
    assert measure_nsr(wanted, got) == pytest.approx(nsr, rel=1e-6)


@pytest.mark.parametrize(
    ("reference", "other", "nsr"),
    [
        ([1.0, 3.0], [1.0, 4.0], 0.5),  # error 1, twice the variance is 2
        ([float("-inf"), 1.0, 3.0], [0.0, 1.0, 3.0], 0.0),  # what was not finite is not compared
        ([2.0, 2.0], [2.0, 2.0], 0.0),
    ],
)
def test_nsr_between_two_outputs(reference: list[float], other: list[float], nsr: float) -> None:
    make: Callable[[list[float]], dict[str, Tensor]] = lambda numbers: {"y": torch.tensor(numbers)}  # noqa: E731
    assert measure_nsr(make(reference), make(other)) == pytest.approx(nsr)


def test_an_output_that_is_no_longer_finite_has_the_greatest_nsr() -> None:
    ruined = measure_nsr({"y": torch.tensor([1.0, 3.0])}, {"y": torch.tensor([1.0, float("nan")])})
    assert 1e20 < ruined < float("inf")
