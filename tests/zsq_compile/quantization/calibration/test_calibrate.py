from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from backends.catalog import load_target
from passes.plan import QuantizationPlan, Scale
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import every_value, execute, prepare, sqnr
from tests.zsq_compile.quantization.networks import float_network
from zsq_compile.config.compile import CalibrationMethod
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import QuantizationError
from zsq_compile.quantization.calibration.calibrate import calibrate
from zsq_compile.quantization.calibration.scales import choose_weight_scales
from zsq_compile.quantization.layer_metrics.layer_noise import measure_layers
from zsq_compile.quantization.state import make_state

TARGET = load_target("ort_cpu")


def setup(model: onnx.ModelProto, **options: int) -> tuple[ir.Model, QuantizationPlan, TorchGraph]:
    prepared = prepare(model)
    return prepared, place_quantizers(prepared, TARGET, **options), TorchGraph(prepared)


def images(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def ends(scale: Scale, bits: int = 8) -> tuple[float, float]:
    codes = np.array([0, (1 << bits) - 1]) - scale.zero_point
    low, high = codes * scale.scale.astype(np.float64)
    return float(low), float(high)


@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
def test_minmax_covers_what_the_runtime_computes(make: object) -> None:
    assert callable(make)
    model, plan, teacher = setup(make())
    shape = {"residual": (3, 8, 8), "depthwise": (3, 9, 9), "branches": (1, 8, 8)}[str(model.graph.name)]
    data = images(6, *shape)
    scales = calibrate(plan, teacher, [{"x": data[:4]}, {"x": data[4:]}], "minmax")
    found = every_value(model, {"x": data.numpy()})
    for group, scale in scales.items():
        members = [found[site.value] for site in plan.activations if site.group == group]
        low, high = min(0.0, *(m.min() for m in members)), max(0.0, *(m.max() for m in members))
        assert ends(scale) == pytest.approx((low, high), abs=float(scale.scale) * 0.51 + 1e-5)
        assert float(scale.scale) == pytest.approx((high - low) / 255, rel=1e-4)
    assert scales.keys() == {site.group for site in plan.activations}


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
def test_the_cut_into_batches_does_not_matter(method: CalibrationMethod) -> None:
    _, plan, teacher = setup(models.residual())
    data = images(6, 3, 8, 8)
    whole = calibrate(plan, teacher, [{"x": data}], method)
    parts = calibrate(plan, teacher, [{"x": data[:1]}, {"x": data[1:3]}, {"x": data[3:]}], method)
    for group in whole:
        # convolutions of other batch sizes may sum in another order
        assert float(parts[group].scale) == pytest.approx(float(whole[group].scale), rel=0.02)
        assert abs(int(parts[group].zero_point) - int(whole[group].zero_point)) <= 3


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_other_methods_stay_inside_minmax(method: CalibrationMethod) -> None:
    _, plan, teacher = setup(models.residual(), act_bits=4, edge_bits=4, added_bits=4)
    batches = [{"x": images(8, 3, 8, 8)}]
    widest, chosen = calibrate(plan, teacher, batches, "minmax"), calibrate(plan, teacher, batches, method)
    ratios = [float(chosen[group].scale) / float(widest[group].scale) for group in widest]
    assert max(ratios) <= 1 + 1e-6
    assert min(ratios) < 0.95 or method == "percentile"


def test_positive_values_start_at_code_zero() -> None:
    _, plan, teacher = setup(models.depthwise())
    scales = calibrate(plan, teacher, [{"x": 10.0 * images(4, 3, 9, 9)}], "minmax")
    for name in ("r0", "r1", "r2"):
        assert int(scales[name].zero_point) == 0
        assert ends(scales[name])[1] <= 6.0


def test_progress_counts_the_batches_of_both_passes() -> None:
    _, plan, teacher = setup(models.residual())
    batches = [{"x": images(1, 3, 8, 8, seed=seed)} for seed in range(3)]
    for method, expected in (("minmax", 3), ("mse", 6)):
        steps: list[int] = []
        calibrate(plan, teacher, batches, "minmax" if method == "minmax" else "mse", steps.append)
        assert sum(steps) == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_with_their_place(bad: float) -> None:
    _, plan, teacher = setup(models.residual())
    data = images(2, 3, 8, 8)
    data[1, 0, 0, 0] = bad
    with pytest.raises(QuantizationError, match=r"wants finite numbers, got .* in 'x'"):
        calibrate(plan, teacher, [{"x": data[:1]}, {"x": data[1:]}], "mse")


def test_no_data_is_refused() -> None:
    _, plan, teacher = setup(models.residual())
    with pytest.raises(QuantizationError, match="at least one batch"):
        calibrate(plan, teacher, [], "minmax")


@pytest.mark.parametrize("fill", [-np.inf, np.finfo(np.float32).min, 0.0])
def test_minus_infinity_in_front_of_a_max_pool_is_no_range(fill: float) -> None:
    _, plan, teacher = setup(
        models.parse(
            """
            g (float[N,2,4,4] x) => (float[N,2,1,1] y)
            <int64[8] pads = {0,0,1,1,0,0,1,1}, float fill, float[2,2,1,1] w, float[2,2,1,1] w1>
            {
                [conv] a = Conv(x, w)
                [relu] b = Relu(a)
                [pad] p = Pad(b, pads, fill)
                [max] m = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)
                [last] c = Conv(m, w1)
                [pool] y = GlobalAveragePool(c)
            }
            """,
            weights={"fill": np.full((), fill)},
        )
    )
    data = images(4, 2, 4, 4)
    group = next(site.group for site in plan.activations if site.value == "p")
    scale = calibrate(plan, teacher, [{"x": data}], "mse")[group]
    assert int(scale.zero_point) == 0 and 0.001 < float(scale.scale) < 1.0


@pytest.mark.parametrize("sentinel", [-np.inf, np.finfo(np.float32).min, -1e38, 1e38])
def test_numbers_that_hide_others_are_no_range(sentinel: float) -> None:
    _, plan, teacher = setup(
        models.parse(
            """
            pooled (float[N,3,4] x, float[N,3,4] m) => (float[N,2] y)
            <int64[1] rows = {1}, float none = {0.0}, float far, float[4,4] w, float[4,2] w1>
            {
                [first] a = MatMul(x, w)
                [hidden] h = Less(m, none)
                [masked] b = Where(h, far, a)
                [most] c = REDUCE<keepdims=0>(b, rows)
                [last] y = MatMul(c, w1)
            }
            """.replace("REDUCE", "ReduceMax" if sentinel < 0 else "ReduceMin"),
            weights={"far": np.full((), sentinel)},
        )
    )
    batch = {"x": images(8, 3, 4), "m": images(8, 3, 4)}
    wanted = teacher.run(batch, ["a"])["a"]
    group = next(site.group for site in plan.activations if site.value == "b")
    low, high = ends(calibrate(plan, teacher, [batch], "minmax")[group])
    assert float(wanted.min()) - 0.1 < low and high < float(wanted.max()) + 0.1


def test_a_fill_value_of_a_pad_belongs_to_the_range() -> None:
    _, plan, teacher = setup(
        models.parse(
            """
            g (float[N,2,4,4] x) => (float[N,2,1,1] y)
            <int64[8] pads = {0,0,1,1,0,0,1,1}, float fill = {-9.0}, float[2,2,1,1] w>
            {
                [pad] p = Pad(x, pads, fill)
                [last] c = Conv(p, w)
                [pool] y = GlobalAveragePool(c)
            }
            """
        )
    )
    group = next(site.group for site in plan.activations if site.value == "p")
    scale = calibrate(plan, teacher, [{"x": images(2, 2, 4, 4)}], "minmax")[group]
    assert ends(scale)[0] == pytest.approx(-9.0, abs=float(scale.scale))


def test_calibration_leaves_no_gradient_behind() -> None:
    _, plan, teacher = setup(models.residual())
    data = images(2, 3, 8, 8).requires_grad_()
    calibrate(plan, teacher, [{"x": data}], "mse")
    assert data.grad is None


NOTHING = """
nothing (float[N,4,6,6] x) => (float[N,3,6,6] y) <float[8,4,3,3] w, float[8] b, float[3,8,1,1] v, float[3] c,
    int64[3] sizes = {4, 0, 4}>
{
    [first] h = Conv<pads=[1,1,1,1]>(x, w, b)
    [relu] r = Relu(h)
    [split] left, none, right = Split<axis=1>(r, sizes)
    [still] still = Relu(none)
    [pool] mean = GlobalAveragePool(left)
    [mul] scaled = Mul(right, mean)
    [both] both = Concat<axis=1>(left, still, scaled)
    [last] y = Conv(both, v, c)
}
"""


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
def test_values_without_elements_have_no_range_and_harm_nothing(method: CalibrationMethod) -> None:
    model, plan, teacher = setup(models.parse(NOTHING))
    data = images(6, 4, 6, 6)
    scales = calibrate(plan, teacher, [{"x": data[:4]}, {"x": data[4:]}], method)
    assert all(0.0 < float(scale.scale) < 1.0 for scale in scales.values())
    weights = choose_weight_scales(plan.with_scales(activations=scales), teacher.initializers, "minmax")
    scaled = plan.with_scales(activations=scales, weights=weights)
    network = float_network(model, {"x": data})
    state = make_state(model, scaled)
    (wanted, got) = (execute(one, {"x": data.numpy()})["y"] for one in (model, state.qdq))
    assert sqnr(wanted, got) > 30.0
    layers = {layer.node: layer for layer in measure_layers(network, {"only": state})}
    assert layers["last"].sqnr_db["only"] > 30.0
