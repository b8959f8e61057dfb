import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics, harvest_batchnorm
from tests import models
from tests.models import parse
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias.moment_propagation import (
    ValueMoments,
    clipped_normal,
    per_channel_sum,
    propagate_moments,
)

MEANS = torch.tensor([-3.0, -0.5, 0.0, 0.7, 5.0], dtype=torch.float64)
DEVIATIONS = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0], dtype=torch.float64)
DRAWS = 400_000


def normal(mean: torch.Tensor, variance: torch.Tensor, *shape: int, seed: int = 0) -> torch.Tensor:
    """Independent normal numbers, (shape[0], channels, *shape[1:])."""
    noise = torch.randn(
        (shape[0], len(mean), *shape[1:]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    view = (1, -1, *[1] * (len(shape) - 1))
    return mean.reshape(view) + noise * variance.sqrt().reshape(view)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, math.inf), (0.0, 6.0), (-1.0, 1.0), (-math.inf, 0.5), (-math.inf, math.inf), (2.0, 2.0)]
)
def test_clipped_normal_agrees_with_drawing_numbers(low: float, high: float) -> None:
    found = clipped_normal(ValueMoments(mean=MEANS, variance=DEVIATIONS**2), low, high)
    drawn = normal(MEANS, DEVIATIONS**2, DRAWS).clamp(low, high)
    # five standard errors of a mean of DRAWS numbers, and of a variance
    torch.testing.assert_close(found.mean, drawn.mean(0), atol=5 * 3.0 / DRAWS**0.5, rtol=0)
    torch.testing.assert_close(found.variance, drawn.var(0), atol=0.15, rtol=0.01)


def test_relu_of_a_standard_normal_is_known_exactly() -> None:
    found = clipped_normal(ValueMoments(mean=torch.zeros(1).double(), variance=torch.ones(1).double()), 0.0, math.inf)
    assert float(found.mean) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-9)
    assert float(found.variance) == pytest.approx(0.5 - 1 / (2 * math.pi), rel=1e-9)


def test_a_channel_without_variance_is_just_clipped() -> None:
    mean = torch.tensor([-2.0, 0.5, 9.0], dtype=torch.float64)
    found = clipped_normal(ValueMoments(mean=mean, variance=torch.zeros(3).double()), 0.0, 6.0)
    torch.testing.assert_close(found.mean, mean.clamp(0.0, 6.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.variance, torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert bool((found.variance >= 0).all())


def statistics(**moments: tuple[list[float], list[float]]) -> BatchNormStatistics:
    """What a BatchNormalization that makes each named value would say: (means, deviations)."""
    entries = []
    for name, (mean, deviation) in moments.items():
        ones = np.ones(len(mean), np.float32)
        entries.append(
            BatchNorm(
                node=f"bn_{name}",
                input="unknown",
                output=name,
                mean=0 * ones,
                variance=ones,
                scale=np.asarray(deviation, np.float32),
                shift=np.asarray(mean, np.float32),
                epsilon=0.0,
                layer=None,
                dead=ones < 0,
            )
        )
    return BatchNormStatistics(entries=tuple(entries), refusals=(), layers_total=0, layers_covered=0, degenerate=())


def shaped(text: str) -> ir.Model:
    return common.ShapeInferencePass()(ir.from_proto(parse(text))).model


TWO = ([0.5, -1.0, 2.0, 0.0], [1.0, 2.0, 0.5, 1.5])
OTHER = ([1.0, 1.0, -2.0, 0.3], [0.2, 1.0, 2.0, 0.1])
KNOWN = statistics(a=TWO, b=OTHER)
TAIL = """
    g (float[N,4,5,5] x, float[N,4,5,5] z) => (float[N,K,H,W] y)
    <float low = {{0.0}}, float high = {{1.0}},
     int64[8] channels = {{0,1,0,0,0,2,0,0}}, int64[8] border = {{0,0,1,1,0,0,1,1}},
     float fill = {{0.5}}, float[4] twice = {{1.0,1.0,2.0,2.0}}, int64[2] pair = {{1,2}},
     int64[1] one = {{1}}, int64[1] three = {{3}}, int64[1] big = {{9999}}, int64[1] two = {{2}},
     int64[1] last = {{3}}, float[6,2,1,1] grouped, float[6] bias, float[3,4,1,1] point>
    {{ a = Exp(x) b = Tanh(z) {} }}
    """
CASES = {
    "relu": "y = Relu(a)",
    "clip": "y = Clip(a, low, high)",
    "clip above": "y = Clip(a, , high)",
    "add": "y = Add(a, b)",
    "add of relus": "c = Relu(a) d = Relu(b) e = Add(c, d) y = Relu(e)",
    "concat": "y = Concat<axis=1>(a, b)",
    "pad channels": "y = Pad(a, channels)",
    "pad channels with a number": "y = Pad(a, channels, fill)",
    "slice channels": "y = Slice(a, one, three, one)",
    "slice every second channel": "y = Slice(a, one, big, one, two)",
    "slice space": "y = Slice(a, one, three, last)",
    "average pool": "y = AveragePool<kernel_shape=[2,2]>(a)",
    "global pool": "y = GlobalAveragePool(a)",
    "nearest resize": "y = Resize(a, , twice)",
    "linear resize": 'y = Resize<mode="linear">(a, , twice)',
    "conv behind a pool": "c = GlobalAveragePool(a) y = Conv(c, point)",
    "pointwise conv": "y = Conv(a, point)",
    "grouped conv": "y = Conv<group=2>(a, grouped, bias)",
}
MEAN_ONLY = {"average pool", "global pool", "linear resize", "conv behind a pool"}


@pytest.mark.parametrize("name", CASES)
def test_operators_move_moments_as_drawing_numbers_shows(name: str) -> None:
    model = shaped(TAIL.format(CASES[name]))
    graph = TorchGraph(model)
    found = propagate_moments(model, KNOWN, graph.initializers)["y"]
    feeds = {
        value: normal(torch.tensor(mean).double(), torch.tensor(deviation).double() ** 2, 3000, 5, 5, seed=seed)
        for seed, (value, (mean, deviation)) in enumerate({"a": TWO, "b": OTHER}.items())
    }
    drawn = graph.run({key: value.float() for key, value in feeds.items()}, ["y"])["y"].double()
    tolerance = 5 * 4.0 / (3000 * drawn[0, 0].numel()) ** 0.5  # five standard errors of the widest value
    torch.testing.assert_close(found.mean, drawn.mean((0, 2, 3)), atol=tolerance, rtol=0)
    assert (found.variance is None) is (name in MEAN_ONLY)
    if found.variance is not None and name != "add of relus":  # the sum of two half normals is not normal
        torch.testing.assert_close(found.variance, drawn.var((0, 2, 3)), atol=1e-3, rtol=0.05)


def test_the_sum_of_clipped_values_is_near_although_not_normal() -> None:
    model = shaped(TAIL.format(CASES["add of relus"]))
    graph = TorchGraph(model)
    moments = propagate_moments(model, KNOWN, graph.initializers)
    exact = moments["e"].mean  # Relu does nothing to what is positive already
    assert float((moments["y"].mean - exact).abs().max()) < 0.15


UNKNOWN = {
    "spatial padding": "y = Pad(a, border)",
    "reflection": 'y = Pad<mode="reflect">(a, channels)',
    "pad by axes": "y = Pad(a, pair, fill, one)",
    "product": "y = Mul(a, b)",
    "max pool": "y = MaxPool<kernel_shape=[2,2]>(a)",
    "space to depth": "y = DepthToSpace<blocksize=2>(a)",
    "transposed": "y = Transpose<perm=[0,2,1,3]>(a)",
    "sum with something unknown": "c = Exp(b) y = Add(a, c)",
    "concat with something unknown": "c = Exp(b) y = Concat<axis=1>(a, c)",
    "concat in space": "y = Concat<axis=2>(a, b)",
    "relu behind a pool": "c = GlobalAveragePool(a) d = Conv(c, point) y = Relu(d)",
    "clip behind a pool": "c = AveragePool<kernel_shape=[2,2]>(a) y = Clip(c, low, high)",
    "pool that counts its border": "y = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1>(a)",
    "clip with a computed limit": "m = Neg(high) y = Clip(a, m, high)",
    "pad with a computed number": "m = Neg(fill) y = Pad(a, channels, m)",
    "channels backwards": "m = Neg(one) y = Slice(a, three, one, one, m)",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_moments_end_where_nothing_is_known(name: str) -> None:
    model = shaped(TAIL.format(UNKNOWN[name]))
    assert "y" not in propagate_moments(model, KNOWN, TorchGraph(model).initializers)


@pytest.mark.parametrize(
    ("shape", "sizes", "kept"),
    [
        ("0, -1", "N,8,1,1", True),
        ("0, 8, -1", "N,8,3,8", True),
        ("-1, 8, 8", "N,8,3,8", False),
        ("0, -1", "N,8,2,2", False),
        ("0, 4, 2, 3, 8", "N,8,3,8", False),
    ],
)
def test_reshaping_keeps_moments_only_when_channels_stay_channels(shape: str, sizes: str, kept: bool) -> None:
    count = shape.count(",") + 1
    model = shaped(
        f"""
        g (float[{sizes}] x) => (float[{",".join("ABCDE"[:count])}] y) <int64[{count}] shape = {{{shape}}}>
        {{ a = Exp(x) y = Reshape(a, shape) }}
        """
    )
    known = statistics(a=([0.0] * 8, [1.0] * 8))
    assert ("y" in propagate_moments(model, known, TorchGraph(model).initializers)) is kept


@pytest.mark.parametrize(("transposed", "factors"), [(0, ""), (1, ""), (0, ", alpha=0.5, beta=3.0")])
def test_fully_connected_layers_carry_moments(transposed: int, factors: str) -> None:
    shape = "3,8" if transposed else "8,3"
    model = shaped(
        f"""
        g (float[N,8] x) => (float[N,3] y) <float[{shape}] w, float[3] b>
        {{ a = Exp(x) y = Gemm<transB={transposed}{factors}>(a, w, b) }}
        """
    )
    graph = TorchGraph(model)
    mean, deviation = [0.1 * i for i in range(8)], [0.5 + 0.1 * i for i in range(8)]
    found = propagate_moments(model, statistics(a=(mean, deviation)), graph.initializers)["y"]
    drawn = normal(torch.tensor(mean).double(), torch.tensor(deviation).double() ** 2, 50_000)
    result = graph.run({"a": drawn.float()}, ["y"])["y"].double()
    torch.testing.assert_close(found.mean, result.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(found.variance, result.var(0), atol=0.02, rtol=0.05)


def test_a_batch_normalization_overrules_what_was_carried_to_it() -> None:
    model = shaped(TAIL.format("y = Relu(a)"))
    found = propagate_moments(model, statistics(a=TWO, y=OTHER), {})
    torch.testing.assert_close(found["y"].mean, torch.tensor(OTHER[0]).double(), atol=1e-6, rtol=0)


def test_folded_layers_carry_the_moments_of_their_batch_normalization() -> None:
    model = common.ShapeInferencePass()(ir.from_proto(models.residual())).model
    harvested = harvest_batchnorm(model)
    FoldBatchNorm()(model)
    found = propagate_moments(model, harvested, TorchGraph(model).initializers)
    assert {"n0", "r0", "n1", "r1", "n2", "a", "r2", "p", "logits"} <= found.keys()
    (entry,) = (entry for entry in harvested.entries if entry.output == "n1")
    np.testing.assert_allclose(found["n1"].mean, entry.shift, rtol=1e-6)
    np.testing.assert_allclose(found["n1"].variance, entry.scale**2, rtol=1e-4)  # but for epsilon
    torch.testing.assert_close(found["a"].mean, found["n2"].mean + found["r0"].mean)


def test_a_dead_channel_is_constant() -> None:
    dead = np.array([1.0, 0.0])
    text = """
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w, float[2] scale = {1.0, 2.0}, float[2] shift = {0.5, -0.5}, float[2] mean, float[2] variance>
        { [conv] c = Conv(x, w) [bn] n = BatchNormalization(c, scale, shift, mean, variance) [relu] y = Relu(n) }
        """
    model = ir.from_proto(parse(text, weights={"variance": dead}))
    harvested = harvest_batchnorm(model)
    FoldBatchNorm()(model)
    found = propagate_moments(model, harvested, TorchGraph(model).initializers)
    assert float(found["n"].variance[1]) == 0.0
    assert float(found["y"].mean[1]) == pytest.approx(0.0, abs=1e-6)
    assert float(found["y"].mean[0]) > 0.5


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_sums_over_the_channels_of_a_group(groups: int) -> None:
    weight, channels = torch.randn(8, 12 // groups), torch.randn(12)
    found = per_channel_sum(weight, channels, groups)
    for out in range(8):
        first = (out // (8 // groups)) * (12 // groups)
        expected = sum(float(weight[out, i] * channels[first + i]) for i in range(12 // groups))
        assert float(found[out]) == pytest.approx(expected, abs=1e-5)
