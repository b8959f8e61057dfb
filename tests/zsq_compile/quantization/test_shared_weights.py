"""Weights that several layers share, through every step: one grid, one rounding, one bias where that is shared too."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.session import open_session
from passes.emit.emit import emit, emitted_bytes
from passes.qdq_names import codes_name
from tests import models
from tests.quantizing import execute, sqnr
from tests.sharing import STEPS, siamese, unrolled
from tests.widening import TARGET
from tests.zsq_compile.quantization.learnable import (
    ClosedForm,
    FixedSteps,
    blocks_of,
    closed_form,
    find_batched_values,
    signal,
    started,
)
from tests.zsq_compile.quantization.networks import float_network, planned_state, silent_clock
from zsq_compile import CompileConfig, QuantizationConfig, compile_model
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias.bias_correction import correct_analytically, correct_empirically
from zsq_compile.quantization.bias.moment_propagation import ValueMoments
from zsq_compile.quantization.closed_form import Calibrate
from zsq_compile.quantization.distillation.distill import Distill
from zsq_compile.quantization.mixed_precision.search import ChooseBits
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.reconstruction.block_student import learnable_weights
from zsq_compile.quantization.reconstruction.blocks import whole_network
from zsq_compile.quantization.reconstruction.reconstruct import Reconstruct

MAKERS = {"unrolled": unrolled, "siamese": siamese}


def closed(name: str, *, bits: int = 4, count: int = 48) -> ClosedForm:
    proto = MAKERS[name]()
    return closed_form(proto, signal(count, proto), bits=bits, edge_bits=bits)


def codes(quantized: ir.Model) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in TorchGraph(quantized).initializers.items()}


def step_means(graph: TorchGraph, data: dict[str, Tensor]) -> Tensor:
    """Mean of every channel of what each unrolled step makes, (steps, channels)."""
    means = []

    def visit(node: ir.Node, made: tuple[Tensor, ...]) -> None:
        if node.op_type == "Gemm" and str(node.name).startswith("step"):
            means.append(made[0].double().mean(0))

    with torch.no_grad():
        graph.run(data, visit=visit)
    return torch.stack(means)


@pytest.mark.parametrize("cuts", [[48], [20, 28]], ids=["one batch", "two batches"])
def test_a_shared_bias_is_corrected_by_the_mean_of_what_its_readers_want(cuts: list[int]) -> None:
    network = closed("unrolled", bits=3)
    data = signal(48, unrolled())
    plan, teacher = network.plan, network.teacher
    raw = planned_state(network.network, plan)
    quantized = TorchGraph(network.quantized)
    quantized.initializers.update({"c": TorchGraph(raw.base).initializers["c"]})
    before = step_means(quantized, data) - step_means(teacher, data)
    parts = [{"x": part} for part in data["x"].split(cuts)]
    changed = correct_empirically(plan, quantized, teacher, parts)
    assert "c" in changed and changed["c"].dtype == torch.float32
    quantized.initializers.update(changed)
    after = step_means(quantized, data) - step_means(teacher, data)
    assert float(after.mean(0).square().mean()) < 0.1 * float(before.mean(0).square().mean())


def test_the_analytic_correction_of_a_shared_bias_needs_the_moments_of_all_readers() -> None:
    network = closed("unrolled", bits=3)
    read = [site.data_input for site in network.plan.weights if site.initializer == "u"]
    moments = {
        name: ValueMoments(mean=torch.full((24,), place / 10.0).double(), variance=torch.ones(24).double())
        for place, name in enumerate(read)
    }
    quantized, weight = TorchGraph(network.quantized), network.teacher.initializers["u"].double()
    changed = correct_analytically(network.plan, quantized, network.teacher, moments)
    step = torch.from_numpy(network.plan.weight_scales["u"].scale)[:, None]
    error = quantized.initializers[codes_name("u")].double() * step - weight
    mean = sum(range(STEPS)) / STEPS / 10.0
    assert torch.allclose(changed["c"].double(), quantized.initializers["c"].double() - mean * error.sum(1), atol=1e-5)
    del moments[read[3]]
    assert "c" not in correct_analytically(network.plan, quantized, network.teacher, moments)


def test_a_block_learns_no_weight_that_layers_outside_share() -> None:
    network = closed("unrolled")
    _, start = started(network)
    blocks = blocks_of(network)
    assert len(blocks) > 1
    learned = [learnable_weights(block, start, network.teacher.initializers, "lsq").keys() for block in blocks]
    assert set().union(*learned) == {"w", "v"}
    whole = whole_network(network.model, network.plan, find_batched_values(network.model))
    assert learnable_weights(whole, start, network.teacher.initializers, "lsq").keys() == {"w", "u", "v"}


@pytest.mark.parametrize("name", MAKERS)
def test_reconstruction_leaves_shared_codes_and_does_no_harm(name: str) -> None:
    network = closed(name)
    shared = {name for name, sites in network.plan.sites_by_weight().items() if len(sites) > 1}
    state, _ = Reconstruct(rounding="lsq", learning=FixedSteps(count=8)).run(
        network.network, network.state, silent_clock()
    )
    before, after = codes(network.quantized), codes(state.qdq)
    for name in shared:
        np.testing.assert_array_equal(before[codes_name(name)], after[codes_name(name)])
    proto = MAKERS["unrolled" if "u" in shared else "siamese"]()
    feeds = {key: value.numpy() for key, value in signal(16, proto, seed=1).items()}
    wanted = execute(network.model, feeds)["y"]
    assert sqnr(wanted, execute(state.qdq, feeds)["y"]) > sqnr(wanted, execute(network.quantized, feeds)["y"]) - 1.0


def test_distillation_learns_one_weight_for_all_readers() -> None:
    network = closed("unrolled")
    step = Distill(config=DistillConfig(steps=4), learning=FixedSteps())
    state, _ = step.run(network.network, network.state, silent_clock())
    assert len([name for name in codes(state.qdq) if name == "u_quantized"]) == 1
    feeds = {"x": signal(16, unrolled())["x"].numpy()}
    quantized = state.qdq.clone()
    emit(quantized, state.plan, TARGET)
    graph = TorchGraph(state.qdq)
    simulated = graph.run({"x": torch.from_numpy(feeds["x"])})["y"].numpy()
    assert sqnr(simulated, execute(quantized, feeds)["y"]) > 40.0


def test_mixed_widths_count_a_shared_weight_once_and_give_it_one_width() -> None:
    proto, config = unrolled(), QuantizationConfig()
    data = signal(48, proto)
    model = closed("unrolled", bits=8).model
    network = float_network(model, data, held_out=signal(32, proto, seed=1))
    plan = plan_quantization(model, TARGET, config)
    full, least = emitted_bytes(model, plan, TARGET), 200
    network = float_network(model, data, held_out=signal(32, proto, seed=1), limit=full - least)
    state, _ = Calibrate(config=config).run(network, planned_state(network, plan), silent_clock())
    after, choice = ChooseBits(config=config).run(network, state, silent_clock())
    assert [layer.node for layer in choice.layers] == ["enter", "step1", "leave"]
    assert len({site.number_format.bits for site in after.plan.weights if site.initializer == "u"}) == 1
    assert emitted_bytes(model, after.plan, TARGET) <= full - least
    assert choice.chosen.file_bytes <= full - least


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_the_file_holds_a_shared_weight_once(name: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(MAKERS[name](), path)
    config = CompileConfig(
        samples=16,
        effort="fast",
        speed_trials=False,
        quantization=QuantizationConfig(bits=bits, edge_bits=bits),
    )
    given = models.random_feeds(onnx.load(path), batch=64, seed=1)
    result = compile_model(path, config=config, calibration=given)
    validation = result.report.validation
    assert validation.failures == ()
    feeds = models.random_feeds(onnx.load(path), batch=4)
    wanted, got = open_session(path).run(feeds)["y"], open_session(result.path).run(feeds)["y"]
    assert sqnr(wanted, got) > (20.0 if bits == 8 else 6.0)
    stored = sum(
        len(tensor.raw_data)
        for tensor in onnx.load(result.path).graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.INT4) and np.prod(tensor.dims) > 100
    )
    once = {"unrolled": 2 * 24 * 24 + 24 * 5, "siamese": 16 * 4 * 9 + 8 * 16 * 9}[name]
    assert stored <= once * bits / 8 + 64
