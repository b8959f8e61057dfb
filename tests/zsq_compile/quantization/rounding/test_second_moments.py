import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from backends.catalog import load_target
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.place_quantizers import place_quantizers
from passes.quantizer_grid import quantize_array
from tests import models
from tests.quantizing import prepare, sqnr
from tests.sharing import unrolled
from tests.zsq_compile.quantization.networks import float_network
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import calibrate_plan, round_weights
from zsq_compile.quantization.rounding import second_moments
from zsq_compile.quantization.rounding.second_moments import (
    MeasurableLayer,
    SecondMoments,
    find_measurable,
    group_layers,
    measure_second_moments,
)
from zsq_compile.quantization.state import insert_quantizers, replace_initializers

TARGET = load_target("ort_cpu")
LAYERS = {
    "strided, uneven pads": ("3,9,8", "float[4,3,3,2] w", "Conv<pads=[1,0,2,1], strides=[2,1]>(x, w)"),
    "dilated, grouped": ("4,9,9", "float[6,2,3,3] w", "Conv<pads=[2,2,2,2], dilations=[2,2], group=2>(x, w)"),
    "depthwise": ("4,6,6", "float[4,1,3,3] w", "Conv<pads=[1,1,1,1], group=4>(x, w)"),
    "one-dimensional": ("4,11", "float[5,4,3] w", "Conv<pads=[1,2], strides=[2]>(x, w)"),
    "gemm": ("7", "float[5,7] w, float[5] b", "Gemm<transB=1>(x, w, b)"),
    "matmul of rank 3": ("6,7", "float[7,5] w", "MatMul(x, w)"),
}


def prepared(name: str) -> tuple[ir.Model, tuple[int, ...]]:
    shape, weights, layer = LAYERS[name]
    rank = len(shape.split(",")) + 1
    proto = models.parse(
        f"g (float[N,{shape}] x) => (float[{','.join('ABCDE'[:rank])}] y) <{weights}> {{ [layer] y = {layer} }}"
    )
    model = common.ShapeInferencePass()(ir.from_proto(proto)).model
    AddMissingBias()(model)
    return model, tuple(int(size) for size in shape.split(","))


@pytest.mark.parametrize("name", LAYERS)
def test_they_predict_the_output_error_of_any_change_of_the_weight(name: str) -> None:
    model, shape = prepared(name)
    teacher = TorchGraph(model)
    plan = place_quantizers(model, TARGET)
    site = plan.weights[0]
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(12, *shape, generator=rng)
    measured = measure_second_moments(find_measurable(plan, teacher), teacher, [{"x": data[:5]}, {"x": data[5:]}])
    moments = measured[site.initializer]

    weight = teacher.initializers[site.initializer]
    change = torch.randn(weight.shape, generator=rng)
    before, after = (
        teacher.run({"x": data}, replace={site.initializer: weight + factor * change})["y"] for factor in (0, 1)
    )
    axis = -1 if name == "matmul of rank 3" else 1
    wanted = ((after - before) ** 2).movedim(axis, 0).flatten(1).mean(1)

    rows = change.movedim(site.axis or 0, 0).reshape(moments.groups, -1, moments.size).double()
    predicted = ((rows @ moments.matrix()) * rows).sum(2).flatten()
    assert torch.allclose(predicted, wanted.double(), rtol=1e-4)


@pytest.mark.parametrize("name", ["gemm", "matmul of rank 3"])
def test_a_weight_with_one_scale_has_the_moments_of_one_with_a_scale_for_each_channel(name: str) -> None:
    model, shape = prepared(name)
    teacher = TorchGraph(model)
    data = {"x": torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))}
    found = []
    for target in (TARGET, load_target("qnn_htp")):
        plan = place_quantizers(model, target)
        (moments,) = measure_second_moments(find_measurable(plan, teacher), teacher, [data]).values()
        found.append((plan.weights[0].axis, moments.matrix()))
    (axis, wanted), (none, got) = found
    assert axis is not None and none is None
    assert torch.equal(got, wanted) and got.shape[1] == shape[-1]


def test_a_weight_that_layers_share_has_the_moments_of_all_of_them() -> None:
    model = prepare(unrolled())
    teacher, plan = TorchGraph(model), place_quantizers(model, TARGET)
    data = {"x": torch.randn(32, 24, generator=torch.Generator().manual_seed(0))}
    moments = measure_second_moments(find_measurable(plan, teacher), teacher, [data])
    assert moments.keys() == {"w", "u", "v"}
    read = [site.data_input for site in plan.weights if site.initializer == "u"]
    columns = torch.cat([value for value in teacher.run(data, read).values()]).double()
    assert torch.allclose(moments["u"].matrix()[0], columns.T @ columns / len(columns), rtol=1e-4, atol=1e-5)


def test_large_maps_are_sampled_and_still_tell_the_error() -> None:
    proto = models.parse(
        "g (float[N,2,160,160] x) => (float[N,3,160,160] y) <float[3,2,3,3] w>"
        "{ [layer] y = Conv<pads=[1,1,1,1]>(x, w) }"
    )
    model = common.ShapeInferencePass()(ir.from_proto(proto)).model
    data = torch.randn(4, 2, 160, 160, generator=torch.Generator().manual_seed(0))
    teacher = TorchGraph(model)
    layers = find_measurable(place_quantizers(model, TARGET), teacher)
    (moments,) = measure_second_moments(layers, teacher, [{"x": data}]).values()
    assert moments.matrix()[0].diagonal().mean() == pytest.approx(1.0, rel=0.05)  # white noise, but for the border


def test_rounding_puts_weights_on_the_grid_that_insertion_finds_again() -> None:
    model = common.ShapeInferencePass()(ir.from_proto(models.branches())).model
    AddMissingBias()(model)
    teacher = TorchGraph(model)
    data = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    results = {}
    for rounding in ("nearest", "gptq"):
        config = QuantizationConfig(bits=4, edge_bits=4, rounding=rounding)
        plan = calibrate_plan(place_quantizers(model, TARGET, bits=4, edge_bits=4), teacher, [{"x": data}], config)
        weights, plan = round_weights(float_network(model, {"x": data}), plan, config.rounding)
        rounded = replace_initializers(model, weights)
        if rounding == "gptq":
            for site in plan.weights:
                array = rounded.graph.initializers[site.initializer].const_value.numpy()
                scale = plan.weight_scales[site.initializer]
                codes = quantize_array(array, scale, site.number_format, site.axis)
                shape = [1] * array.ndim
                shape[site.axis or 0] = -1
                assert np.allclose(codes * scale.scale.reshape(shape), array, rtol=1e-6, atol=0.0)
        graph = TorchGraph(insert_quantizers(rounded, plan))
        results[rounding] = sqnr(teacher.run({"x": data})["y"].numpy(), graph.run({"x": data})["y"].numpy())
    assert results["gptq"] > results["nearest"] + 3.0  # dB


@pytest.mark.parametrize("name", ["strided, uneven pads", "dilated, grouped", "one-dimensional"])
def test_large_samples_are_unfolded_in_strips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = prepared(name)
    teacher = TorchGraph(model)
    layers = find_measurable(place_quantizers(model, TARGET), teacher)
    data = [{"x": torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))}]
    whole = measure_second_moments(layers, teacher, data)["w"]
    monkeypatch.setattr(second_moments, "_CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(second_moments, "_PART_BYTES", 1)
    strips = measure_second_moments(layers, teacher, data)["w"]
    assert strips.count == whole.count
    torch.testing.assert_close(strips.matrix(), whole.matrix(), rtol=1e-5, atol=1e-6)
    order = torch.stack([torch.randperm(whole.size, generator=torch.Generator().manual_seed(g)) for g in range(3)])
    order = order[: whole.groups]
    for group, places in enumerate(order):
        torch.testing.assert_close(strips.permuted(order)[group], strips.matrix()[group][places][:, places])
    rows = torch.randn(whole.groups, 2, whole.size, dtype=torch.float64)
    torch.testing.assert_close(strips.times(rows), rows @ strips.matrix())


def test_groups_of_layers_stay_within_a_limit() -> None:
    layers = [MeasurableLayer(sites=(), groups=1, size=size) for size in (8, 8, 16, 4, 32, 4)]
    groups = group_layers(layers, 4 * 16**2)
    assert [[layer.size for layer in group] for group in groups] == [[8, 8], [16], [4], [32], [4]]


def test_only_what_a_group_of_layers_needs_is_computed() -> None:
    model = common.ShapeInferencePass()(ir.from_proto(models.branches())).model
    AddMissingBias()(model)
    teacher = TorchGraph(model)
    layers = find_measurable(place_quantizers(model, TARGET), teacher)
    data = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = measure_second_moments(layers, teacher, [{"x": data}])
    ran: list[int] = []
    run = teacher.run
    teacher.run = lambda feeds, outputs=None, *, visit=None: run(  # type: ignore[method-assign]
        feeds, outputs, visit=lambda node, made: (ran.append(1), visit(node, made))[1]
    )
    for place, layer in enumerate(layers):
        ran.clear()
        (moments,) = measure_second_moments([layer], teacher, [{"x": data}]).values()
        assert torch.equal(moments.matrix(), whole[layer.sites[0].initializer].matrix())
        assert len(ran) < len(list(model.graph)) or place == len(layers) - 1


def test_borders_of_large_maps_count_as_often_as_they_are_there() -> None:
    proto = models.parse("g (float[N,1,96,96] x) => (float[N,1,96,96] y) <float[1,1,1,1] w> { [layer] y = Conv(x, w) }")
    model = common.ShapeInferencePass()(ir.from_proto(proto)).model
    teacher = TorchGraph(model)
    layers = find_measurable(place_quantizers(model, TARGET), teacher)
    data = torch.zeros(32, 1, 96, 96)
    data[:, :, 0], data[:, :, :, 0] = 1.0, 1.0
    moments = measure_second_moments(layers, teacher, [{"x": data}] * 24)["w"]
    share = float(data.mean())
    assert moments.count < 24 * data.numel() / 4  # a grid of positions stands for all
    assert float(moments.matrix()) == pytest.approx(share, rel=0.35)  # from position 0 on it was 4 times too large


def test_populations_are_mixed_in_units_of_their_power() -> None:
    rng = torch.Generator().manual_seed(0)
    columns = [size * torch.randn(1, 3, 50, generator=rng) for size in (1.0, 100.0)]
    parts = []
    for values in columns:
        parts.append(SecondMoments(1, 3))
        parts[-1].observe(values)
    mixed = SecondMoments(1, 3)
    for part, weight in zip(parts, (0.75, 0.25), strict=True):
        mixed.mix(part, weight)
    matrices = [part.matrix() for part in parts]
    wanted = sum(w * one / one.diagonal(dim1=1, dim2=2).mean() for w, one in zip((0.75, 0.25), matrices, strict=True))
    torch.testing.assert_close(mixed.matrix(), wanted, atol=1e-6, rtol=1e-5)
