"""Whole models against ONNX Runtime.

Tolerance: 5e-5 of the largest output for float models, 1e-6 where that is nearly zero; for a quantized network one step
on one code in a thousand.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from backends.session import open_session
from zsq_compile.differentiable.module import TorchGraph

ASSETS = Path(os.environ.get("ZSQ_ASSETS", Path(__file__).parents[3].parent / "shared" / "assets")) / "models"
FILES = sorted(ASSETS.glob("**/*.onnx"))
CONTROL_FLOW = "silero_vad_if_subgraphs"
REJECTED_BY_THE_RUNTIME = "super_resolution_subpixel"
USABLE = [path for path in FILES if path.stem not in (CONTROL_FLOW, REJECTED_BY_THE_RUNTIME)]


def sizes(shape: tuple[int | None, ...]) -> list[int]:
    """A batch of 2, and 64 for any other size that the model leaves open."""
    return [size if size is not None else 64 if axis else 2 for axis, size in enumerate(shape)]


@pytest.mark.skipif(not FILES, reason=f"no models in {ASSETS}; set ZSQ_ASSETS")
@pytest.mark.parametrize("path", USABLE, ids=lambda path: path.stem)
def test_real_model_agrees_with_onnx_runtime(path: Path) -> None:
    runtime = open_session(path, threads=1)
    graph = TorchGraph(ir.load(path))
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.uniform(size=sizes(runtime.input_shapes[name])).astype(np.float32) for name in runtime.input_names
    }
    with torch.no_grad():
        got = graph.run({name: torch.from_numpy(array) for name, array in feeds.items()})
    for name, expected in runtime.run(feeds).items():
        assert got[name].numpy().dtype == expected.dtype
        assert np.abs(got[name].numpy() - expected).max() <= max(5e-5 * np.abs(expected).max(), 1e-6)


@pytest.mark.skipif(not FILES, reason=f"no models in {ASSETS}; set ZSQ_ASSETS")
@pytest.mark.parametrize(("rate", "length"), [(16000, 512), (8000, 256)])
def test_a_real_model_takes_the_branch_that_the_runtime_takes(rate: int, length: int) -> None:
    path = ASSETS / "wild" / f"{CONTROL_FLOW}.onnx"
    rng = np.random.default_rng(0)
    feeds = {
        "input": rng.uniform(-1.0, 1.0, (2, length)).astype(np.float32),
        "state": rng.standard_normal((2, 2, 128)).astype(np.float32),
        "sr": np.array(rate),
    }
    expected = open_session(path, threads=1).run(feeds)
    with torch.no_grad():
        got = TorchGraph(ir.load(path)).run({name: torch.from_numpy(array) for name, array in feeds.items()})
    for name, array in expected.items():
        assert got[name].shape == array.shape
        assert np.abs(got[name].numpy() - array).max() <= 5e-5 * np.abs(array).max()


QUANTIZED = """
<ir_version: 10, opset_import: ["" : 21]>
quantized (float[N,3,16,16] x) => (uint8[N,8,16,16] codes)
<float xs = {0.02}, uint8 xz = {117}, float ys = {0.03}, uint8 yz = {0},
 int8[8,3,3,3] w, float[8] ws, int32[8] b, float[8] bs>
{
    xq = QuantizeLinear(x, xs, xz)
    xf = DequantizeLinear(xq, xs, xz)
    wf = DequantizeLinear<axis=0>(w, ws)
    bf = DequantizeLinear<axis=0>(b, bs)
    c = Conv<pads=[1,1,1,1]>(xf, wf, bf)
    r = Relu(c)
    codes = QuantizeLinear(r, ys, yz)
}
"""


def quantized_network() -> onnx.ModelProto:
    model = onnx.parser.parse_model(QUANTIZED)
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.005, 0.01, 8).astype(np.float32)
    for name, array in {
        "w": rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8),
        "ws": scales,
        "b": rng.integers(-2000, 2000, 8).astype(np.int32),
        "bs": (scales * np.float32(0.02)).astype(np.float32),
    }.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_quantized_network_gives_the_codes_of_the_fused_runtime(precision: torch.dtype) -> None:
    model = quantized_network()
    x = np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)
    expected = open_session(model, threads=1).run({"x": x})["codes"]
    graph = TorchGraph(ir.from_proto(model))
    for name, tensor in graph.initializers.items():
        graph.initializers[name] = tensor.to(precision) if tensor.is_floating_point() else tensor
    with torch.no_grad():
        got = graph.run({"x": torch.from_numpy(x).to(precision)})["codes"].numpy()
    assert got.dtype == expected.dtype
    difference = np.abs(got.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3
    assert len(np.unique(expected)) > 100
