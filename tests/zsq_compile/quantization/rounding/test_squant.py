import itertools

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx_ir.passes import common
from torch import Tensor

from backends.catalog import load_target
from backends.target import NumberFormat
from passes.plan import Scale
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.place_quantizers import place_quantizers
from passes.quantizer_grid import quantize_array
from tests import models
from tests.quantizing import sqnr
from tests.zsq_compile.quantization.networks import float_network
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import calibrate_plan, round_weights
from zsq_compile.quantization.rounding import squant
from zsq_compile.quantization.rounding.squant import round_with_squant, squant_codes
from zsq_compile.quantization.state import insert_quantizers, replace_initializers

TARGET = load_target("ort_cpu")
FORMATS = [NumberFormat(bits=bits, signed=True, symmetric=True, narrow=narrow) for bits in (2, 4) for narrow in (0, 1)]
TOLERANCE = 1e-9  # of sums in float64

WEIGHTS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6),
    elements=st.floats(-3.0, 3.0, allow_subnormal=False),
)


def nearest(weight: Tensor, step: Tensor, grid: NumberFormat) -> Tensor:
    return torch.clamp(torch.round(weight / step[:, None, None]), grid.qmin, grid.qmax)


def covering(weight: Tensor, grid: NumberFormat) -> Tensor:
    """Steps with which no weight of a row is clipped, different from row to row."""
    reach = weight.abs().amax((1, 2)).clamp(min=1e-3) / min(-grid.qmin, grid.qmax)
    return reach * torch.linspace(1.0, 1.5, len(weight), dtype=torch.float64)


@given(array=WEIGHTS, grid=st.sampled_from(FORMATS))
@settings(max_examples=150, deadline=None)
def test_errors_of_a_kernel_sum_to_at_most_one_and_of_a_row_to_at_most_a_half(
    array: NDArray[np.float64], grid: NumberFormat
) -> None:
    weight = torch.from_numpy(array)
    step = covering(weight, grid)
    error = squant_codes(weight, step, grid) - weight / step[:, None, None]
    assert error.abs().max() <= 1.0 + TOLERANCE
    assert error.sum(2).abs().max() <= 1.0 + TOLERANCE
    assert error.sum((1, 2)).abs().max() <= 0.5 + TOLERANCE


@given(array=WEIGHTS, grid=st.sampled_from(FORMATS), step=st.floats(0.05, 2.0))
@settings(max_examples=150, deadline=None)
def test_codes_are_whole_lie_on_the_grid_and_beside_the_nearest_even_where_weights_are_clipped(
    array: NDArray[np.float64], grid: NumberFormat, step: float
) -> None:
    weight, steps = torch.from_numpy(array), torch.full((len(array),), step, dtype=torch.float64)
    codes, start = squant_codes(weight, steps, grid), nearest(weight, steps, grid)
    assert torch.equal(codes, codes.round())
    assert codes.min() >= grid.qmin and codes.max() <= grid.qmax
    assert (codes - start).abs().max() <= 1.0
    after, before = ((c - weight / step).sum(2).abs() for c in (codes, start))
    assert (after <= before.clamp(min=1.0) + TOLERANCE).all()


def choices(wanted: NDArray[np.float64], grid: NumberFormat) -> NDArray[np.float64]:
    """Every way to round the weights of one kernel to one of their two neighbours on the grid."""
    ends = (np.clip(np.stack([np.floor(wanted), np.ceil(wanted)]), grid.qmin, grid.qmax)).T
    return np.array(list(itertools.product(*ends)))


def best(errors: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """The row with the smallest sum of squares of those whose sums exceed ``most`` the least."""
    excess = np.maximum(np.abs(errors.sum(1)) - most, 0.0)
    near = np.flatnonzero(excess <= excess.min() + TOLERANCE)
    return errors[near[np.argmin((errors[near] ** 2).sum(1))]]


@pytest.mark.parametrize("reach", [3.0, 12.0], ids=["inside the grid", "clipped"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_kernel_is_rounded_as_the_best_of_all_choices_is(reach: float, seed: int) -> None:
    grid = NumberFormat(bits=4, signed=True, symmetric=True)
    wanted = np.random.default_rng(seed).uniform(-reach, reach, 8)
    codes = squant_codes(torch.from_numpy(wanted)[None, None], torch.ones(1, dtype=torch.float64), grid)
    assert codes[0, 0].numpy() - wanted == pytest.approx(best(choices(wanted, grid) - wanted, 0.5), abs=TOLERANCE)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_row_is_rounded_as_the_best_of_all_choices_is_kernel_sums_first(seed: int) -> None:
    grid = NumberFormat(bits=4, signed=True, symmetric=True)
    wanted = np.random.default_rng(seed).uniform(-5.0, 5.0, (5, 4))
    alone = np.array([best(choices(row, grid) - row, 0.5).sum() for row in wanted])
    sums = best(alone + np.array(list(itertools.product((-1, 0, 1), repeat=5))), 0.5)
    codes = squant_codes(torch.from_numpy(wanted)[None], torch.ones(1, dtype=torch.float64), grid)[0].numpy()
    assert (codes - wanted).sum(1) == pytest.approx(sums, abs=TOLERANCE)
    for kernel, total in enumerate(sums):  # and each kernel reaches its sum with the least error
        errors = choices(wanted[kernel], grid) - wanted[kernel]
        fitting = errors[np.abs(errors.sum(1) - total) < TOLERANCE]
        least = (fitting**2).sum(1).min()
        assert ((codes[kernel] - wanted[kernel]) ** 2).sum() == pytest.approx(least, abs=TOLERANCE)


def test_the_oracle_sees_a_flip_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squant, "_flips", lambda total: torch.floor((total.abs() - 0.5).clamp(min=0.0)))
    with pytest.raises(AssertionError):
        test_a_row_is_rounded_as_the_best_of_all_choices_is_kernel_sums_first()


def test_rows_do_not_influence_each_other() -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, 9, generator=rng, dtype=torch.float64)
    step, grid = covering(weight, FORMATS[2]), FORMATS[2]
    together = squant_codes(weight, step, grid)
    alone = [squant_codes(weight[row : row + 1], step[row : row + 1], grid) for row in range(7)]
    assert torch.equal(together, torch.cat(alone))


def test_weights_on_the_grid_stay_where_they_are() -> None:
    codes = torch.randint(-8, 8, (4, 3, 9), generator=torch.Generator().manual_seed(0)).double()
    step = torch.tensor([0.25, 0.5, 1.0, 2.0], dtype=torch.float64)
    assert torch.equal(squant_codes(codes * step[:, None, None], step, FORMATS[2]), codes)


LAYERS = {  # (weight, layer, axes of the errors of one channel, axes of those of one kernel)
    "Conv": ("float[6,4,3,3] w", "Conv(x, w)", (1, 2, 3), (2, 3)),
    "depthwise": ("float[4,1,3,3] w", "Conv<group=4>(x, w)", (1, 2, 3), (2, 3)),
    "pointwise": ("float[6,4,1,1] w", "Conv(x, w)", (1, 2, 3), (2, 3)),
    "ConvTranspose": ("float[4,6,3,3] w", "ConvTranspose(x, w)", (0, 2, 3), (2, 3)),
    "ConvTranspose in groups": ("float[4,3,3,3] w", "ConvTranspose<group=2>(x, w)", (2, 3), (2, 3)),
    "Gemm": ("float[40,6] w", "Gemm(x, w)", (0,), (0,)),
    "Gemm, transposed": ("float[6,40] w", "Gemm<transB=1>(x, w)", (1,), (1,)),
    "MatMul": ("float[40,6] w", "MatMul(x, w)", (0,), (0,)),
    "many channels": ("float[48,4,3,3] w", "Conv(x, w)", (1, 2, 3), (2, 3)),
}


def calibrated(name: str, bits: int) -> tuple[ir.Model, TorchGraph, QuantizationConfig, dict[str, Tensor]]:
    weight, layer, _, _ = LAYERS[name]
    shape = (40,) if "Gemm" in name or "MatMul" in name else (4, 8, 8)
    inputs, outputs = (",".join(map(str, sizes)) for sizes in (("N", *shape), "ABCD"[: len(shape) + 1]))
    proto = models.parse(f"g (float[{inputs}] x) => (float[{outputs}] y) <{weight}> {{ [layer] y = {layer} }}")
    model = common.ShapeInferencePass()(ir.from_proto(proto)).model
    AddMissingBias()(model)
    data = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    return model, TorchGraph(model), QuantizationConfig(bits=bits, edge_bits=bits, rounding="squant"), {"x": data}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_keeps_the_sums_of_its_kernels_and_channels(name: str) -> None:
    model, teacher, _, _ = calibrated(name, 4)
    plan = place_quantizers(model, TARGET, bits=4, edge_bits=4)
    (site,) = plan.weights
    weight = teacher.initializers["w"]
    others = [] if site.axis is None else [i for i in range(weight.ndim) if i != site.axis]
    reach = weight.abs().amax(others).numpy() if others else weight.abs().max().numpy()
    scale = Scale(scale=np.asarray(reach / 7, np.float32), zero_point=np.zeros(np.shape(reach), np.int32))
    on_grid = round_with_squant(plan.with_scales(weights={"w": scale}), {"w": weight})["w"]
    assert on_grid.shape == weight.shape and on_grid.dtype == torch.float32
    step = np.expand_dims(scale.scale, others) if others else scale.scale
    error = (on_grid.double() - weight.double()).numpy() / step.astype(np.float64)
    channel, kernel = LAYERS[name][2:]
    assert np.abs(error).max() <= 1.0 + 1e-5  # the steps are float32
    assert np.abs(error.sum(kernel)).max() <= 1.0 + 1e-5
    assert np.abs(error.sum(channel)).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_insertion_finds_the_codes_again_and_the_scales_stay(name: str) -> None:
    model, teacher, config, feed = calibrated(name, 4)
    before = calibrate_plan(place_quantizers(model, TARGET, bits=4, edge_bits=4), teacher, [feed], config)
    weights, plan = round_weights(float_network(model, feed), before, config.rounding)
    rounded = replace_initializers(model, weights)
    assert plan is before
    (site,) = plan.weights
    array = rounded.graph.initializers["w"].const_value.numpy()
    scale = plan.weight_scales["w"]
    codes = quantize_array(array, scale, site.number_format, site.axis)
    shape = [1] * array.ndim
    if site.axis is not None:
        shape[site.axis] = -1
    assert np.allclose(codes * scale.scale.reshape(shape), array, rtol=1e-6, atol=0.0)
    assert not np.array_equal(array, model.graph.initializers["w"].const_value.numpy())


def test_inputs_with_a_mean_lose_less_than_by_rounding_to_the_nearest() -> None:
    model, teacher, _, feed = calibrated("many channels", 4)
    feed = {"x": feed["x"] + 3.0}  # what the sums of the errors multiply
    found = {}
    for rounding in ("nearest", "squant"):
        config = QuantizationConfig(bits=4, edge_bits=4, rounding=rounding)
        plan = calibrate_plan(place_quantizers(model, TARGET, bits=4, edge_bits=4), teacher, [feed], config)
        weights, plan = round_weights(float_network(model, feed), plan, config.rounding)
        rounded = replace_initializers(model, weights)
        graph = TorchGraph(insert_quantizers(rounded, plan))
        found[rounding] = sqnr(teacher.run(feed)["y"].numpy(), graph.run(feed)["y"].numpy())
    assert found["squant"] > found["nearest"] + 3.0  # dB
