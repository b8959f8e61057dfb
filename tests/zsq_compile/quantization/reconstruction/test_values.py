import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from tests.models import parse
from tests.zsq_compile.quantization.learnable import NETWORKS, ClosedForm, closed_form, signal, started
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.reconstruction.values import write_values

TRANSPOSED = """
    transposed (float[N,4,4,4] x) => (float[N,3,8,8] y)
    <float[4,4,3,3] w0, float[4] b0, float[4,2,2,2] w1, float[4] b1, float[3,4,1,1] w2, float[3] b2>
    {
        [conv] c = Conv<pads=[1,1,1,1]>(x, w0, b0) [relu] r = Relu(c)
        [up] u = ConvTranspose<strides=[2,2], group=2>(r, w1, b1) [relu1] v = Relu(u)
        [last] y = Conv(v, w2, b2)
    }
    """
DENSE = """
    dense (float[N,5] x) => (float[N,3] y) <float[5,6] w0, float[1,6] b0, float[6,6] w1, float[1] b1, float[6,3] w2>
    {
        [first] a = Gemm(x, w0, b0) [relu0] b = Relu(a)
        [second] c = Gemm(b, w1, b1) [relu1] d = Relu(c)
        [last] y = MatMul(d, w2)
    }
    """
TEXTS = {**{name: NETWORKS[name] for name in ("residual", "inverted", "concat", "embedded")}, "transposed": TRANSPOSED}
TEXTS["dense"] = DENSE


@functools.cache
def prepared(name: str) -> tuple[onnx.ModelProto, ClosedForm]:
    proto = parse(TEXTS[name])
    return proto, closed_form(proto, signal(16, proto), bits=3, act_bits=4)


def codes(model: ir.Model) -> dict[str, np.ndarray]:
    """All integer constants and scales of a QDQ model."""
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_written_without_a_change_is_what_was_there(name: str) -> None:
    _, closed = prepared(name)
    _, start = started(closed)
    written = write_values(closed.model, closed.plan, start)
    before, after = codes(closed.quantized), codes(written.qdq)
    assert before.keys() == after.keys()
    for constant, array in before.items():
        np.testing.assert_array_equal(after[constant], array, err_msg=constant)


@pytest.mark.parametrize("name", TEXTS)
def test_the_graph_runs_on_these_values_as_on_its_own(name: str) -> None:
    proto, closed = prepared(name)
    student, start = started(closed)
    feeds = signal(4, proto, seed=1)
    got = student.run({**feeds, **start.feeds(closed.plan.weights, closed.plan)}, replace=start.replacements())
    for output, wanted in TorchGraph(closed.quantized).run(feeds).items():
        torch.testing.assert_close(got[output], wanted, rtol=1e-5, atol=1e-5)


def test_changed_values_come_back_as_codes_of_the_new_grid() -> None:
    _, closed = prepared("residual")
    _, start = started(closed)
    step = start.steps["w1"] * torch.linspace(0.7, 1.3, 8).reshape(-1, 1, 1, 1)
    numbers = torch.randint(-4, 4, start.weights["w1"].shape, generator=torch.Generator().manual_seed(0))
    newer = start.merge(
        type(start)(
            weights={"w1": numbers * step},
            steps={"w1": step},
            biases={"b1": start.biases["b1"] + 0.5},
            scales={"r0": start.scales["r0"] * 1.1},
        )
    )
    assert newer.weights["w2"] is start.weights["w2"]
    written = write_values(closed.model, closed.plan, newer)
    plan, got, was = written.plan, codes(written.qdq), codes(closed.quantized)
    np.testing.assert_array_equal(got["w1_quantized"], numbers.numpy())
    np.testing.assert_array_equal(got["w1_scale"], step.flatten().numpy())
    np.testing.assert_allclose(got["r0_scale"], was["r0_scale"] * np.float32(1.1), rtol=1e-6)
    bias = got["b1_quantized"] * (got["r0_scale"] * got["w1_scale"])
    step = got["r0_scale"] * got["w1_scale"]
    assert (np.abs(bias - (start.biases["b1"] + 0.5).numpy()) <= 0.5001 * step).all()
    fed = newer.feeds([site for site in plan.weights if site.bias == "b1"], plan)["b1_dequantized"]
    np.testing.assert_allclose(fed, bias, rtol=1e-6)  # what blocks are measured with is what is written
    np.testing.assert_array_equal(got["w2_quantized"], was["w2_quantized"])
    assert codes(closed.model)["w1"].tobytes() == codes(parse_again())["w1"].tobytes()  # the float model is not touched


def parse_again() -> ir.Model:
    return ir.from_proto(parse(NETWORKS["residual"]))


def test_feeds_are_of_the_asked_layers_only() -> None:
    _, closed = prepared("residual")
    _, start = started(closed)
    sites = [site for site in closed.plan.weights if site.node in ("a1", "b2")]
    assert set(start.feeds(sites, closed.plan)) == {
        "w1_dequantized",
        "b1_dequantized",
        "w5_dequantized",
        "b5_dequantized",
    }
    assert set(start.replacements()) == {f"{site.group}_scale" for site in closed.plan.activations}


def test_a_layer_without_a_bias_and_one_without_a_channel_axis() -> None:
    for name, bias, rank in (("dense", "w2", 2), ("transposed", "w1", 4)):
        _, closed = prepared(name)
        _, start = started(closed)
        site = next(site for site in closed.plan.weights if site.initializer == bias)
        assert start.steps[bias].ndim == rank
        assert (start.steps[bias].numel() == 1) == (site.axis is None)
        grid = start.weights[bias] / start.steps[bias]
        torch.testing.assert_close(grid, grid.round(), rtol=0, atol=1e-4)
        assert site.number_format.qmin <= float(grid.min().round())
        assert float(grid.max().round()) <= site.number_format.qmax
