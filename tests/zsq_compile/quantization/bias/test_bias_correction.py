from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from backends.catalog import load_target
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.models import parse
from tests.quantizing import inserted, prepare, with_scales
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias import bias_correction
from zsq_compile.quantization.bias.bias_correction import (
    agreed,
    bias_step,
    correct_analytically,
    correct_empirically,
    dequantize_weight,
)
from zsq_compile.quantization.bias.moment_propagation import ValueMoments

TARGET = load_target("ort_cpu")
Batches = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Pair:
    model: ir.Model
    plan: QuantizationPlan
    teacher: TorchGraph
    quantized: TorchGraph


def pair(proto: onnx.ModelProto, data: Tensor, *, bits: int = 2, **options: Any) -> Pair:
    """A float graph and its QDQ graph with coarse weights and fine activations."""
    model = prepare(proto)
    fine = replace(TARGET, activation=replace(TARGET.activation, bits=16))
    plan = place_quantizers(model, fine, bits=bits, act_bits=16, edge_bits=bits, **options)
    plan = with_scales(plan, model, {"x": data.numpy()})
    return Pair(model, plan, TorchGraph(model), TorchGraph(inserted(model, plan)))


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed)) + 0.5


def layer_means(graph: TorchGraph, data: Tensor, plan: QuantizationPlan) -> dict[str, Tensor]:
    layers, means = {site.node for site in plan.weights}, {}

    def visit(node: ir.Node, made: tuple[Tensor, ...]) -> None:
        if node.name in layers:
            means[str(node.name)] = made[0].double().mean([axis for axis in range(made[0].ndim) if axis != 1])

    with torch.no_grad():
        graph.run({"x": data}, visit=visit)
    return means


def distance(pair: Pair, data: Tensor) -> dict[str, float]:
    """Root mean square over channels of the difference of output means, by layer."""
    wanted, got = layer_means(pair.teacher, data, pair.plan), layer_means(pair.quantized, data, pair.plan)
    return {name: float((wanted[name] - got[name]).square().mean().sqrt()) for name in wanted}


NETWORKS = {
    "residual": (models.residual, (3, 8, 8)),
    "depthwise": (models.depthwise, (3, 9, 9)),
    "branches": (models.branches, (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cuts", [[12], [5, 7], [1, 2, 9]], ids=["one batch", "two batches", "three batches"])
def test_empirical_correction_takes_the_mean_error_out_of_every_layer(name: str, cuts: list[int]) -> None:
    make, shape = NETWORKS[name]
    data = images(12, *shape)
    both = pair(make(), data)
    before = distance(both, data)
    changed = correct_empirically(both.plan, both.quantized, both.teacher, [{"x": part} for part in data.split(cuts)])

    both.quantized.initializers.update(changed)

    after = distance(both, data)
    steps = {site.node: float(bias_step(both.plan, site).max()) for site in both.plan.weights}
    assert changed.keys() == {f"{site.bias}_quantized" for site in both.plan.weights}
    assert max(before.values()) > 0.05
    for node in before:
        # half a bias step, and the float32 and rounding differences of layers that run twice
        assert after[node] <= 0.5 * steps[node] + 2e-3
        assert after[node] < 0.2 * before[node] or before[node] < 1e-3  # one weight per channel has no error


def test_all_cuts_of_the_data_give_the_same_biases_up_to_rounding() -> None:
    data = images(9, 3, 8, 8)
    found = []
    for cuts in ([9], [4, 5], [1, 8]):
        both = pair(models.residual(), data)
        batches = [{"x": part} for part in data.split(cuts)]
        found.append(correct_empirically(both.plan, both.quantized, both.teacher, batches))
    both = pair(models.residual(), data)
    for site in both.plan.weights:
        name = f"{site.bias}_quantized"
        size = torch.maximum(bias_step(both.plan, site), torch.tensor(1e-3)) / bias_step(both.plan, site)
        for other in found[1:]:
            assert bool(((other[name] - found[0][name]).abs() <= 3 * size).all())


def test_only_the_layers_asked_for_are_corrected() -> None:
    data = images(4, 3, 8, 8)
    both = pair(models.residual(), data)
    before = dict(both.quantized.initializers)
    changed = correct_empirically(both.plan, both.quantized, both.teacher, [{"x": data}], ["conv1"])
    assert changed.keys() == {"conv1.bias_quantized"}
    changed = correct_empirically(both.plan, both.quantized, both.teacher, [{"x": data}, {"x": data}], ["conv1"])
    assert changed.keys() == {"conv1.bias_quantized"}
    assert correct_empirically(both.plan, both.quantized, both.teacher, [{"x": data}], []) == {}
    assert both.quantized.initializers.keys() == before.keys()
    assert all(both.quantized.initializers[name] is tensor for name, tensor in before.items())


def test_layers_behind_see_the_corrected_ones() -> None:
    """Corrected on its own, each layer would be right for inputs that it does not get."""
    data = images(12, 3, 8, 8)
    both = pair(models.residual(), data)
    together = correct_empirically(both.plan, both.quantized, both.teacher, [{"x": data}])
    alone = {}
    for site in both.plan.weights:
        alone.update(correct_empirically(both.plan, both.quantized, both.teacher, [{"x": data}], [site.node]))
    assert torch.equal(together["conv0.bias_quantized"], alone["conv0.bias_quantized"])
    assert not torch.equal(together["conv2.bias_quantized"], alone["conv2.bias_quantized"])


def test_a_quantized_graph_output_is_measured_before_it_is_rounded() -> None:
    data = images(16, 3, 8, 8)
    for cuts in ([16], [8, 8]):
        both = pair(models.residual(), data, quantize_outputs=True)
        coarse = replace(both.plan.activation_scales["logits"], scale=np.asarray(2.0, np.float32))
        plan = both.plan.with_scales(activations={"logits": coarse})
        both = replace(both, plan=plan, quantized=TorchGraph(inserted(both.model, plan)))
        batches = [{"x": part} for part in data.split(cuts)]
        changed = correct_empirically(plan, both.quantized, both.teacher, batches)
        both.quantized.initializers.update(changed)
        assert distance(both, data)["gemm"] < 2e-3


def test_biases_keep_their_type_and_stay_inside_int32() -> None:
    data = images(4, 3, 8, 8)
    both = pair(models.residual(), data)
    name = "conv1.bias_quantized"
    both.quantized.initializers[name] = torch.full((8,), 2**31 - 1, dtype=torch.int32)
    shifted = bias_correction._shift_bias(both.plan, both.plan.weights[1], both.quantized, torch.full((8,), 1e6))
    assert shifted.dtype == torch.int32 and bool((shifted == 2**31 - 1).all())


def exact_moments(pair: Pair, data: Tensor) -> dict[str, ValueMoments]:
    """Measured on the data, so that nothing but the formula of the correction is in question."""
    names = {site.data_input for site in pair.plan.weights}
    values = pair.teacher.run({"x": data}, [*names])
    return {
        name: ValueMoments(
            mean=value.double().mean([axis for axis in range(value.ndim) if axis != 1]),
            variance=torch.ones(value.shape[1]).double(),
        )
        for name, value in values.items()
    }


LAYERS = {
    "pointwise": "c = Conv(r, w1) <float[6,4,1,1] w1>",
    "grouped": "c = Conv<group=2>(r, w1) <float[6,2,3,3] w1>",
    "depthwise": "c = Conv<group=4>(r, w1) <float[8,1,3,3] w1>",
    "padded": "c = Conv<pads=[1,1,1,1]>(r, w1) <float[6,4,3,3] w1>",
    "uneven": "c = Conv<pads=[0,2,1,0], strides=[2,1], dilations=[1,2]>(r, w1) <float[6,4,3,2] w1>",
}


def single(layer: str, size: str = "7,6") -> onnx.ModelProto:
    """A layer behind a Relu of channels that are constant in space, for which the analytic formula is exact."""
    node, weight = layer.split(" <")
    return parse(
        f"""
        g (float[N,4,1,1] x) => (float[N,C,1,1] y)
        <float[4,4,1,1] w0, {weight.rstrip(">")}, int64[4] sizes = {{1,4,{size}}}>
        {{
            [first] a = Conv(x, w0)
            [relu] s = Relu(a)
            [spread] r = Expand(s, sizes)
            [layer] {node}
            [pool] y = GlobalAveragePool(c)
        }}
        """
    )


@pytest.mark.parametrize("name", LAYERS)
def test_analytic_correction_with_exact_moments_leaves_no_mean_error(name: str) -> None:
    data = images(64, 4, 1, 1)
    both = pair(single(LAYERS[name]), data)
    moments = exact_moments(both, data)
    before = distance(both, data)["layer"]
    changed = correct_analytically(both.plan, both.quantized, both.teacher, {"r": moments["r"]})
    assert changed.keys() == {"layer_bias_quantized"}
    both.quantized.initializers.update(changed)
    # what the first layer shifts is not this correction's business: feed both the same values
    values = both.teacher.run({"x": data}, ["r"])["r"]
    wanted = both.teacher.run({"r": values}, ["c"])["c"].double().mean((0, 2, 3))
    got = both.quantized.run({"r": values}, ["c"])["c"].double().mean((0, 2, 3))
    step = float(bias_step(both.plan, both.plan.weights[1]).max())
    assert before > 0.01
    torch.testing.assert_close(got, wanted, atol=0.5 * step + 1e-4, rtol=0)


def test_without_tap_coverage_a_padded_layer_would_stay_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_correction, "_tap_coverage", lambda node, kernel: torch.ones(kernel, dtype=torch.float64))
    with pytest.raises(AssertionError):
        test_analytic_correction_with_exact_moments_leaves_no_mean_error("padded")


@pytest.mark.parametrize("transposed", [0, 1])
def test_analytic_correction_of_fully_connected_layers(transposed: int) -> None:
    shape = "3,8" if transposed else "8,3"
    proto = parse(
        f"""
        g (float[N,8] x) => (float[N,3] y) <float[8,8] w0, float[{shape}] w1, float[3] b1>
        {{ [first] a = Gemm(x, w0) [relu] r = Relu(a) [layer] y = Gemm<transB={transposed}>(r, w1, b1) }}
        """
    )
    data = images(200, 8)
    both = pair(proto, data)
    changed = correct_analytically(both.plan, both.quantized, both.teacher, exact_moments(both, data))
    assert changed.keys() == {"first_bias_quantized", "b1_quantized"}
    before = distance(both, data)
    both.quantized.initializers.update(changed)
    after = distance(both, data)
    assert after["first"] < 0.02 * before["first"] + 1e-3
    assert after["layer"] < 0.5 * before["layer"]


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_analytic_correction_brings_every_layer_of_a_network_nearer(name: str) -> None:
    make, shape = NETWORKS[name]
    data = images(64, *shape)
    both = pair(make(), data, bits=3)
    before = distance(both, data)
    changed = correct_analytically(both.plan, both.quantized, both.teacher, exact_moments(both, data))
    both.quantized.initializers.update(changed)
    after = distance(both, data)
    assert sum(after.values()) < 0.5 * sum(before.values())
    assert after["gemm"] < before["gemm"]


def test_layers_of_unknown_input_are_left_alone() -> None:
    data = images(8, 3, 8, 8)
    both = pair(models.residual(), data)
    moments = exact_moments(both, data)
    assert correct_analytically(both.plan, both.quantized, both.teacher, {}) == {}
    only = correct_analytically(both.plan, both.quantized, both.teacher, {"r1": moments["r1"]})
    assert only.keys() == {"conv2.bias_quantized"}
    wrong = {"r1": ValueMoments(mean=torch.zeros(3).double(), variance=torch.ones(3).double())}
    assert correct_analytically(both.plan, both.quantized, both.teacher, wrong) == {}


def test_flattened_images_have_no_channel_moments() -> None:
    data = images(8, 1, 8, 8)
    both = pair(models.branches(), data)
    moments = {"f": ValueMoments(mean=torch.zeros(4).double(), variance=torch.ones(4).double())}
    assert correct_analytically(both.plan, both.quantized, both.teacher, moments) == {}


def test_dequantize_weights_are_what_the_graph_reads() -> None:
    data = images(4, 3, 9, 9)
    both = pair(models.depthwise(), data, bits=4)
    for site in both.plan.weights:
        read = both.quantized.run({"x": data}, [f"{site.initializer}_dequantized"])[f"{site.initializer}_dequantized"]
        torch.testing.assert_close(dequantize_weight(both.plan, site, both.quantized), read, atol=0, rtol=0)


def brute_coverage(sizes: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, list[int]]) -> np.ndarray:
    """Count, for every tap, the output positions at which it reads inside the image."""
    rank = len(kernel)
    pads = attributes.get("pads", [0] * 2 * rank)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    out = [
        (sizes[i] + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    hits = np.zeros(kernel)
    for position in np.ndindex(*out):
        for tap in np.ndindex(*kernel):
            read = [position[i] * strides[i] - pads[i] + tap[i] * dilations[i] for i in range(rank)]
            hits[tap] += all(0 <= read[i] < sizes[i] for i in range(rank))
    return hits / np.prod(out)


COVERAGES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, list[int]]]] = [
    ((7, 7), (3, 3), {"pads": [1, 1, 1, 1]}),
    ((7, 7), (3, 3), {}),
    ((1, 1), (3, 3), {"pads": [1, 1, 1, 1]}),
    ((9, 8), (3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ((9, 8), (5, 2), {"pads": [2, 0, 2, 1], "strides": [1, 3], "dilations": [2, 1]}),
    ((10,), (5,), {"pads": [2, 2], "strides": [2]}),
    ((10,), (4,), {"pads": [0, 3]}),
    ((4, 5, 3), (3, 3, 3), {"pads": [1, 1, 1, 1, 1, 1]}),
]


@pytest.mark.parametrize(("sizes", "kernel", "attributes"), COVERAGES)
def test_tap_coverage_agrees_with_counting(
    sizes: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, list[int]]
) -> None:
    found = bias_correction._tap_coverage(conv(sizes, **attributes), kernel)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), brute_coverage(sizes, kernel, attributes), rtol=1e-12)


def conv(sizes: Sequence[int | str | None], **attributes: Any) -> ir.Node:
    value = ir.Value(name="x", shape=ir.Shape(["N", 4, *sizes]), type=ir.TensorType(ir.DataType.FLOAT))
    return ir.node("Conv", [value, ir.Value(name="w")], attributes or None)


def test_coverage_needs_sizes_only_where_there_is_a_border() -> None:
    assert bias_correction._tap_coverage(conv(["H", "W"], pads=[1, 1, 1, 1]), (3, 3)) is None
    free = bias_correction._tap_coverage(conv(["H", "W"]), (3, 3))
    assert free is not None and bool((free == 1.0).all())
    rows = bias_correction._tap_coverage(conv([6, "W"], pads=[1, 0, 1, 0]), (3, 3))
    assert rows is not None and bool((rows[1] == 1.0).all()) and bool((rows[0] < 1.0).all())
    assert bias_correction._tap_coverage(conv([6, 6], auto_pad="SAME_UPPER"), (3, 3)) is None
    valid = bias_correction._tap_coverage(conv([6, 6], auto_pad="VALID"), (3, 3))
    assert valid is not None and bool((valid == 1.0).all())


def test_a_shift_is_taken_out_as_far_as_all_populations_agree() -> None:
    shifts = torch.tensor([[0.5, -0.2, 0.3, 0.0], [0.1, -0.6, -0.3, 0.4]], dtype=torch.float64)
    assert agreed(shifts).tolist() == pytest.approx([0.1, -0.2, 0.0, 0.0])
    assert agreed(shifts[:1]).tolist() == shifts[0].tolist()


@pytest.mark.parametrize("cuts", [[12], [5, 7]], ids=["one batch", "two batches"])
def test_one_population_beside_itself_is_corrected_as_alone(cuts: list[int]) -> None:
    data = images(12, 3, 8, 8)
    both = pair(models.residual(), data)
    batches = [{"x": part} for part in data.split(cuts)]
    alone = correct_empirically(both.plan, both.quantized, both.teacher, batches)
    doubled = [{"x": torch.cat([part, part])} for part in data.split(cuts)]
    numbers = [torch.arange(2).repeat_interleave(size) for size in cuts]
    found = correct_empirically(both.plan, both.quantized, both.teacher, doubled, populations=numbers)
    assert found.keys() == alone.keys()
    for name, codes in found.items():
        assert int((codes - alone[name]).abs().max()) <= 2  # float sums of another length


def test_populations_that_disagree_leave_the_biases_as_they_are() -> None:
    proto = parse("""<ir_version: 9, opset_import: ["" : 17]>
    net (float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] b> { y = Gemm(x, w, b) }""")
    data = torch.cat([torch.full((4, 4), 1.0), torch.full((4, 4), -1.0)])  # what weights lose has the other sign
    both = pair(proto, data)
    numbers = [torch.arange(2).repeat_interleave(4)]
    args = both.plan, both.quantized, both.teacher
    (name,) = found = correct_empirically(*args, [{"x": data}], populations=numbers)
    assert torch.equal(found[name], both.quantized.initializers[name])
    (moved,) = correct_empirically(*args, [{"x": data[:4]}]).values()
    assert not torch.equal(moved, both.quantized.initializers[name])
