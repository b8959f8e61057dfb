from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common
from torch import Tensor

from backends.catalog import load_target
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics, harvest_batchnorm
from passes.emit.pack_weights import PackWeights
from passes.plan import QuantizationPlan
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.override_widths import Widths, override_widths
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, optimized_operators, sqnr
from tests.zsq_compile.quantization.networks import float_network, planned_state, silent_clock
from zsq_compile.config.compile import CalibrationMethod, QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import Calibrate, CorrectBiases
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.state import replace_initializers

TARGET = load_target("ort_cpu")
NETWORKS = {
    "residual": (models.residual, (3, 8, 8)),
    "depthwise": (models.depthwise, (3, 9, 9)),
    "branches": (models.branches, (1, 8, 8)),
}
Batches = list[dict[str, Tensor]]


def folded(proto: onnx.ModelProto) -> tuple[ir.Model, BatchNormStatistics]:
    model = common.ShapeInferencePass()(ir.from_proto(proto)).model
    statistics = harvest_batchnorm(model)
    FoldBatchNorm()(model)
    AddMissingBias()(model)
    return model, statistics


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def quantize(
    model: ir.Model, statistics: BatchNormStatistics, batches: Batches, config: QuantizationConfig
) -> tuple[ir.Model, QuantizationPlan, dict[str, str]]:
    plan = plan_quantization(model, TARGET, config)
    data, size = joined(batches)
    network, clock = float_network(model, data, statistics=statistics, fixed=size), silent_clock()
    state, _ = Calibrate(config=config).run(network, planned_state(network, plan), clock)
    state, used = CorrectBiases(form=config.bias_correction).run(network, state, clock)
    return state.qdq, state.plan, used


def joined(batches: Batches) -> tuple[dict[str, Tensor], int | None]:
    """All samples, and the size of a batch where there are several."""
    data = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return data, len(next(iter(batches[0].values()))) if len(batches) > 1 else None


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("options", "least"),
    [({}, 28.0), ({"bits": 4}, 12.0), ({"bits": 4, "act_bits": 4}, 9.0), ({"quantize_outputs": True}, 28.0)],
    ids=str,
)
def test_simulation_and_runtime_agree_and_stay_near_the_float_network(
    name: str, options: dict[str, Any], least: float, tmp_path: Path
) -> None:
    make, shape = NETWORKS[name]
    model, statistics = folded(make())
    data = images(128, shape)
    config = QuantizationConfig(bias_correction="empirical", **options)  # the statistics of these networks are invented
    quantized, plan, _ = quantize(model, statistics, [{"x": data}], config)
    PackWeights(frozenset(f"{s.initializer}_quantized" for s in plan.weights if s.number_format.bits <= 4))(quantized)

    held_out = images(24, shape, seed=1)
    runtime = execute(quantized, {"x": held_out.numpy()})
    simulated = TorchGraph(quantized).run({"x": held_out})
    reference = TorchGraph(model).run({"x": held_out})
    for output in runtime:
        assert sqnr(simulated[output].numpy(), runtime[output]) > 35.0  # dB: a code may flip here and there
        assert sqnr(reference[output].numpy(), runtime[output]) > least
    operators = optimized_operators(quantized, tmp_path)
    assert operators.count("QLinearConv") == sum(node.op_type == "Conv" for node in model.graph)
    assert "Conv" not in operators and "FusedConv" not in operators


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
def test_every_calibration_method_gives_a_working_network(method: CalibrationMethod) -> None:
    model, statistics = folded(models.residual())
    data = images(24, (3, 8, 8))
    config = QuantizationConfig(calibration_method=method)
    quantized, _, _ = quantize(model, statistics, [{"x": data}], config)
    reference = TorchGraph(model).run({"x": data})["logits"].numpy()
    assert sqnr(reference, execute(quantized, {"x": data.numpy()})["logits"]) > 25.0


def test_the_float_model_is_not_touched() -> None:
    model, statistics = folded(models.residual())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    quantize(model, statistics, [{"x": images(4, (3, 8, 8))}], QuantizationConfig(bits=4, act_bits=4))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_same_data_give_the_same_bytes() -> None:
    made = []
    for _ in range(2):
        model, statistics = folded(models.residual())
        quantized, _, _ = quantize(model, statistics, [{"x": images(4, (3, 8, 8))}], QuantizationConfig(bits=4))
        made.append(ir.to_proto(quantized).SerializeToString(deterministic=True))
    assert made[0] == made[1]


EXPECTED = {
    "none": {},
    "analytic": {"conv1": "analytic", "conv2": "analytic", "gemm": "analytic"},
    "empirical": dict.fromkeys(("conv0", "conv1", "conv2", "gemm"), "empirical"),
    "auto": {"conv0": "empirical", "conv1": "analytic", "conv2": "analytic", "gemm": "analytic"},
}


@pytest.mark.parametrize("form", EXPECTED)
def test_the_form_of_bias_correction_follows_what_is_known(form: str) -> None:
    model, statistics = folded(models.residual())
    config = QuantizationConfig(bias_correction=form)  # type: ignore[arg-type]
    _, _, used = quantize(model, statistics, [{"x": images(4, (3, 8, 8))}], config)
    assert used == EXPECTED[form]


def test_layers_without_moments_are_measured_behind_layers_that_have_them() -> None:
    proto = models.parse(
        """
        g (float[N,2,8,8] x) => (float[N,3,1,1] y)
        <float[4,2,3,3] w0, float[4] s0, float[4] h0, float[4] mean0, float[4] variance0,
         float[4,4,3,3] w1, float[4] s1, float[4] h1, float[4] mean1, float[4] variance1, float[3,4,1,1] w2>
        {
            [conv0] c0 = Conv(x, w0)
            [bn0] n0 = BatchNormalization(c0, s0, h0, mean0, variance0)
            [relu0] r0 = Relu(n0)
            [conv1] c1 = Conv(r0, w1)
            [bn1] n1 = BatchNormalization(c1, s1, h1, mean1, variance1)
            [pool] p = MaxPool<kernel_shape=[2,2]>(n1)
            [conv2] c2 = Conv(p, w2)
            [last] y = GlobalAveragePool(c2)
        }
        """
    )
    model, statistics = folded(proto)
    data = images(64, (2, 8, 8))
    config = QuantizationConfig(bits=2, edge_bits=2)
    quantized, _, used = quantize(model, statistics, [{"x": data}], config)
    assert used == {"conv0": "empirical", "conv1": "analytic", "conv2": "empirical"}
    reference, got = TorchGraph(model).run({"x": data})["y"], TorchGraph(quantized).run({"x": data})["y"]
    # the invented statistics put conv1 wrong, and conv2 makes up for it
    assert float((got - reference).mean((0, 2, 3)).abs().max()) < 5e-3


def test_without_batch_normalization_only_data_correct() -> None:
    model, statistics = folded(models.branches())
    batches = [{"x": images(4, (1, 8, 8))}]
    _, _, used = quantize(model, statistics, batches, QuantizationConfig())
    assert set(used.values()) == {"empirical"} and len(used) == 4
    _, _, used = quantize(model, statistics, batches, QuantizationConfig(bias_correction="analytic"))
    assert used == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_empirical_correction_brings_the_mean_of_the_outputs_back(name: str) -> None:
    make, shape = NETWORKS[name]
    data = images(64, shape)
    errors = {}
    for form in ("none", "empirical"):
        model, statistics = folded(make())
        config = QuantizationConfig(bits=2, edge_bits=2, bias_correction=form)  # type: ignore[arg-type]
        quantized, _, _ = quantize(model, statistics, [{"x": data[:32]}, {"x": data[32:]}], config)
        (reference,) = TorchGraph(model).run({"x": data}).values()
        (got,) = execute(quantized, {"x": data.numpy()}).values()
        errors[form] = float(np.abs((got - reference.numpy()).mean(0)).max())
    assert errors["none"] > 0.1
    assert errors["empirical"] < 0.05 * errors["none"]


def statistics_of(model: ir.Model, harvested: BatchNormStatistics, data: Tensor) -> BatchNormStatistics:
    """What the harvested entries would say, had the network been trained on these data."""
    values = TorchGraph(model).run({"x": data}, [entry.output for entry in harvested.entries])
    entries = []
    for entry in harvested.entries:
        spread = values[entry.output].var((0, 2, 3)).numpy()
        scale = np.sqrt(spread * (entry.variance + entry.epsilon) / entry.variance)
        entries.append(replace(entry, shift=values[entry.output].mean((0, 2, 3)).numpy(), scale=scale))
    return replace(harvested, entries=tuple(entries))


@pytest.mark.parametrize("make", [models.residual, models.depthwise])
def test_analytic_correction_needs_no_data_where_the_statistics_are_true(
    make: Callable[[], onnx.ModelProto],
) -> None:
    model, statistics = folded(make())
    shape = (3, 8, 8) if make is models.residual else (3, 9, 9)
    data = images(256, shape)
    statistics = statistics_of(model, statistics, data)
    (reference,) = TorchGraph(model).run({"x": data}).values()
    errors = {}
    for form in ("none", "analytic"):
        config = QuantizationConfig(bits=3, edge_bits=8, bias_correction=form)  # type: ignore[arg-type]
        quantized, _, _ = quantize(model, statistics, [{"x": data}], config)
        (got,) = execute(quantized, {"x": data.numpy()}).values()
        errors[form] = float(np.sqrt(((got - reference.numpy()).mean(0) ** 2).mean()))
    assert errors["none"] > 0.02
    assert errors["analytic"] < 0.5 * errors["none"]


def test_written_initializers_keep_their_types() -> None:
    model, statistics = folded(models.residual())
    quantized, _, _ = quantize(model, statistics, [{"x": images(4, (3, 8, 8))}], QuantizationConfig(bits=4))
    PackWeights(frozenset({"w1_quantized"}))(quantized)
    changed = {
        "w1_quantized": torch.full((8, 8, 3, 3), -8.0),
        "b3_quantized": torch.arange(5),
        "r0_scale": torch.tensor(0.25, dtype=torch.float64, requires_grad=True),
    }
    written = replace_initializers(quantized, changed)
    stored = {tensor.name: tensor for tensor in ir.to_proto(written).graph.initializer}
    assert stored["w1_quantized"].data_type == onnx.TensorProto.INT4
    assert stored["b3_quantized"].data_type == onnx.TensorProto.INT32
    assert stored["r0_scale"].data_type == onnx.TensorProto.FLOAT
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["b3_quantized"]), np.arange(5))
    assert float(onnx.numpy_helper.to_array(stored["r0_scale"])) == 0.25
    assert (onnx.numpy_helper.to_array(stored["w1_quantized"]).astype(int) == -8).all()
    execute(written, {"x": images(2, (3, 8, 8)).numpy()})


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_of_any_group_stay_near_the_float_network(group: int) -> None:
    proto = models.parse(
        f"""
        transposed (float[N,3,6,6] x) => (float[N,4,12,12] y)
        <float[4,3,3,3] w0, float[4] b0, float[4,{4 // group},2,2] w1, float[4] b1>
        {{
            [conv] c = Conv<pads=[1,1,1,1]>(x, w0, b0)
            [up] u = ConvTranspose<strides=[2,2], group={group}>(c, w1, b1)
            [relu] y = Relu(u)
        }}
        """
    )
    model, statistics = folded(proto)
    data = images(32, (3, 6, 6))
    quantized, _, used = quantize(model, statistics, [{"x": data}], QuantizationConfig())
    assert used["up"] == "empirical"
    reference = TorchGraph(model).run({"x": data})["y"]
    assert sqnr(reference.numpy(), execute(quantized, {"x": data.numpy()})["y"]) > 35.0


@pytest.mark.parametrize("form", ["empirical", "analytic"])
@pytest.mark.parametrize("split", [1, 2])
def test_a_layer_whose_data_stay_float_has_its_float_bias_corrected(form: str, split: int) -> None:
    model, statistics = folded(models.residual())
    data = images(256, (3, 8, 8))
    statistics = statistics_of(model, statistics, data)
    network = float_network(model, {"x": data}, statistics=statistics, fixed=256 // split if split > 1 else None)
    plan = override_widths(place_quantizers(model, TARGET, bits=3), TARGET, Widths(activations={"r0": "float"}))
    errors = {}
    for correction in ("none", form):
        config = QuantizationConfig(bits=3, bias_correction=correction)  # type: ignore[arg-type]
        calibrated, _ = Calibrate(config=config).run(network, planned_state(network, plan), silent_clock())
        corrected, used = CorrectBiases(form=correction).run(network, calibrated, silent_clock())  # type: ignore[arg-type]
        before, after = TorchGraph(calibrated.qdq).initializers, TorchGraph(corrected.qdq)
        (site,) = (site for site in plan.weights if site.node == "conv1")  # it reads r0
        name = str(site.bias)
        assert name in before and before[name].is_floating_point()
        assert torch.equal(before[name], after.initializers[name]) == (correction == "none")
        assert (used.get("conv1") == form) == (correction != "none")
        wanted, got = (graph.run({"x": data}, ["n1"])["n1"].mean((0, 2, 3)) for graph in (network.teacher, after))
        errors[correction] = float((got - wanted).abs().max())
    assert errors["none"] > 0.01
    # the statistics do not know what the layers before have got wrong
    assert errors[form] < (0.01 if form == "empirical" else 0.7) * errors["none"]
