from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from backends.catalog import load_target
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import every_value, fake_quantized, inserted, prepare, random_feeds, sqnr, with_scales
from tests.zsq_compile.quantization.networks import float_network
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import QuantizationError
from zsq_compile.quantization.layer_metrics.layer_noise import measure_layers, measure_sqnr
from zsq_compile.quantization.layer_metrics.layer_quality import LIMIT_DB, LayerQuality
from zsq_compile.quantization.layer_metrics.layers import find_layers, origin
from zsq_compile.quantization.state import QuantizedState, replace_initializers

TARGET = load_target("ort_cpu")
NETWORKS = {
    "residual": models.residual,
    "depthwise": models.depthwise,
    "branches": models.branches,
    "padded": models.padded,
}
GEMM = "gemm (float[N,4] x) => (float[N,3] y) <float[3,4] w, float[3] b> { [fc] y = Gemm<transB=1>(x, w, b) }"


class Case:
    """A float model, a plan with scales, the QDQ graph, and data that the plan did not see."""

    def __init__(self, proto: onnx.ModelProto, *, batch: int = 8, **options: Any) -> None:
        self.model = prepare(proto)
        plan = place_quantizers(self.model, TARGET, **options)
        self.plan = with_scales(plan, self.model, random_feeds(self.model, batch=batch))
        self.feeds = random_feeds(self.model, batch=batch, seed=1)
        self.tensors = {name: torch.from_numpy(array) for name, array in self.feeds.items()}
        self.teacher = TorchGraph(self.model)
        self.quantized = inserted(self.model, self.plan)

    def measured(self, quantized: ir.Model | None = None, parts: int = 1) -> dict[str, LayerQuality]:
        batch = len(next(iter(self.tensors.values()))) // parts
        network = float_network(self.model, self.tensors, fixed=batch if parts > 1 else None)
        found = measure_layers(network, {"only": self.state(quantized or self.quantized)})
        return {quality.node: quality for quality in found}

    def state(self, quantized: ir.Model) -> QuantizedState:
        return QuantizedState(base=self.model, qdq=quantized, plan=self.plan)


def without_means(error: NDArray[np.float32], axis: int = 1) -> NDArray[np.float32]:
    others = tuple(i for i in range(error.ndim) if i != axis % error.ndim)
    return error - error.mean(others, keepdims=True)


def test_the_ratios_of_one_layer_are_those_worked_out_by_hand() -> None:
    case = Case(models.parse(GEMM), batch=32, bits=4, act_bits=4, edge_bits=4)
    arrays = {name: value.const_value.numpy() for name, value in case.model.graph.initializers.items()}
    (site,), (weight,) = case.plan.activations, case.plan.weights
    x, scale = case.feeds["x"], case.plan.weight_scales["w"]
    exact = x @ arrays["w"].T + arrays["b"]
    step = case.plan.activation_scales["x"].scale * scale.scale
    bias = np.rint(arrays["b"] / step) * step
    rounded_x = fake_quantized(x, case.plan.activation_scales["x"], site.number_format)
    rounded = rounded_x @ fake_quantized(arrays["w"], scale, weight.number_format, 0).T + bias
    quality = case.measured()["fc"]
    assert (quality.value, quality.weight_bits, quality.activation_bits) == ("y", 4, 8)
    assert quality.sqnr_db == {"only": pytest.approx(sqnr(exact, rounded), abs=1e-3)}
    assert quality.own_sqnr_db == pytest.approx(sqnr(exact, exact + without_means(rounded - exact)), abs=1e-3)


def test_a_known_noise_has_the_ratio_that_it_was_made_with() -> None:
    model = models.graph("noise (float[N,2,16,16] x) => (float[N,2,16,16] y) <float[1] b> { [add] y = Add(x, b) }")
    plan = QuantizationPlan(
        activations=place_quantizers(Case(models.conv_bn_relu()).model, TARGET).activations[:1], weights=(), refusals=()
    )
    layers = find_layers(model, plan, TARGET)
    teacher, noisy = TorchGraph(model), TorchGraph(model)
    teacher.initializers["b"] = torch.zeros(1)
    noisy.initializers["b"] = torch.full((1,), 0.1)
    data = torch.full((4, 2, 16, 16), 1.0)
    assert measure_sqnr(noisy, teacher, [{"x": data}], layers)["y"] == pytest.approx(20.0, abs=1e-4)  # 1 over 0.01
    assert measure_sqnr(teacher, teacher, [{"x": data}], layers)["y"] == LIMIT_DB
    assert measure_sqnr(noisy, teacher, [{"x": 0.0 * data}], layers)["y"] == -LIMIT_DB


def test_a_clip_that_its_grid_makes_redundant_is_no_layer() -> None:
    text = """
        cut (float[N,2,6,6] x) => (float[N,3] y)
        <float low = {0.0}, float high = {99.0}, float[2,2,3,3] w0, float[2] b0, float[2,2,3,3] w1, float[2] b1,
         float[2,2,3,3] w2, float[2] b2, float[3,2] w3, float[3] b3>
        {
            [first] a = Conv(x, w0, b0)
            [second] b = Conv<pads=[1,1,1,1]>(a, w1, b1)
            r = Relu(b)
            [cut] c = Clip(r, low, high)
            [third] d = Conv<pads=[1,1,1,1]>(c, w2, b2)
            [add] e = Add(d, r)
            p = GlobalAveragePool(e)
            f = Flatten(p)
            [last] y = Gemm<transB=1>(f, w3, b3)
        }
    """
    case = Case(models.parse(text), bits=4, act_bits=4)
    assert "cut" not in {node.name for node in case.quantized.graph}
    assert set(case.measured()) >= {"first", "second", "third", "add", "last"}
    assert "cut" not in case.measured()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"quantize_outputs": True}], ids=str)
def test_ratios_in_the_network_are_those_that_the_runtime_s_values_have(name: str, options: dict[str, Any]) -> None:
    case = Case(NETWORKS[name](), **options)
    exact, rounded = (every_value(model, case.feeds) for model in (case.model, case.quantized))
    for quality in case.measured().values():
        value = quality.value
        exposed = options.get("quantize_outputs") and f"{value}_float" in rounded
        wanted = sqnr(exact[value], rounded[f"{value}_float" if exposed else value])
        assert quality.sqnr_db["only"] == pytest.approx(wanted, abs=0.3)  # dB: a code may flip here and there


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"bits": 2}, {"bits": 4, "act_bits": 4}, {"quantize_outputs": True}], ids=str)
def test_by_itself_a_layer_is_the_float_layer_on_rounded_inputs_and_weights(name: str, options: dict[str, Any]) -> None:
    case = Case(NETWORKS[name](), **options)
    exact = every_value(case.model, case.feeds)
    measured = case.measured()
    layers = find_layers(case.model, case.plan, TARGET)
    assert list(measured) == [layer.node for layer in layers]
    for layer in layers:
        fed = {value: torch.from_numpy(exact[value]) for value in layer.inputs}
        for site in layer.sites:
            scale = case.plan.activation_scales[site.group]
            fed[site.value] = torch.from_numpy(fake_quantized(exact[site.value], scale, site.number_format))
        changed = {}
        if layer.weight is not None:
            name = layer.weight.initializer
            array = case.teacher.initializers[name].numpy()
            scale = case.plan.weight_scales[name]
            rounded = fake_quantized(array, scale, layer.weight.number_format, layer.weight.axis)
            changed[name] = torch.from_numpy(rounded)
        made = case.teacher.run(fed, [layer.value], replace=changed)[layer.value].numpy()
        error = without_means(made - exact[layer.value], layer.channel_axis)
        wanted = min(sqnr(exact[layer.value], exact[layer.value] + error), LIMIT_DB)
        assert measured[layer.node].own_sqnr_db == pytest.approx(wanted, abs=0.1)


def test_several_batches_are_as_good_as_one() -> None:
    case = Case(models.residual(), bits=4)
    one, several = case.measured(), case.measured(parts=4)
    for node, quality in one.items():
        assert several[node].sqnr_db["only"] == pytest.approx(quality.sqnr_db["only"], abs=1e-3)
        assert several[node].own_sqnr_db == pytest.approx(quality.own_sqnr_db, abs=1e-3)
        assert several[node].reason == quality.reason


def test_a_bias_that_makes_up_for_layers_before_is_no_noise_of_its_layer() -> None:
    case = Case(models.residual())
    before = case.measured()
    codes = TorchGraph(case.quantized).initializers["b3_quantized"]
    moved = replace_initializers(case.quantized, {"b3_quantized": codes + codes.abs().max() + 1000})
    after = case.measured(moved)
    assert after["gemm"].own_sqnr_db == pytest.approx(before["gemm"].own_sqnr_db, abs=1e-2)
    assert after["gemm"].sqnr_db["only"] < before["gemm"].sqnr_db["only"] - 3.0


def test_steps_keep_their_order_and_the_last_one_is_judged() -> None:
    case = Case(models.residual())
    coarse = replace(case.plan, weights=tuple(replace(site, number_format=_two_bits()) for site in case.plan.weights))
    coarse = with_scales(coarse, case.model, case.feeds)
    states = {"first": case.state(inserted(case.model, coarse)), "second": case.state(case.quantized)}
    states["of other bits"] = replace(states["first"], plan=coarse)
    states["second"] = states.pop("second")
    found = measure_layers(float_network(case.model, case.tensors), states)
    alone = case.measured()
    for quality in found:
        assert list(quality.sqnr_db) == ["first", "second"]
        assert quality.own_sqnr_db == alone[quality.node].own_sqnr_db
    assert found[1].sqnr_db["first"] < found[1].sqnr_db["second"] - 10.0


def test_the_scales_of_a_grid_are_read_from_the_graph_where_steps_may_have_changed_them() -> None:
    case = Case(models.residual())
    scale = TorchGraph(case.quantized).initializers["r1_scale"]
    learned = replace_initializers(case.quantized, {"r1_scale": scale / 8.0})
    reason = case.measured(learned)["conv2"].reason
    assert reason is not None and reason.startswith("saturated")


def test_no_data_is_an_error_in_words() -> None:
    case = Case(models.residual())
    with pytest.raises(QuantizationError, match="at least one full batch of held-out samples"):
        measure_layers(float_network(case.model, case.tensors, fixed=99), {"only": case.state(case.quantized)})


def test_moved_codes_are_judged_by_the_grid_that_rounded_them() -> None:
    case = Case(models.padded())
    sites = {site.value: site for site in case.plan.activations}
    narrow = case.plan.activation_scales[sites["r"].group]
    plan = case.plan.with_scales(activations={sites["r"].group: replace(narrow, scale=narrow.scale / 8)})
    assert origin(sites["p"], plan).value == "r"
    case.quantized = inserted(case.model, plan)
    reason = case.measured()["second"].reason
    assert reason is not None and reason.startswith("saturated") and "'r'" in reason


def _two_bits() -> Any:
    return replace(TARGET.weight, bits=2, narrow=False)
