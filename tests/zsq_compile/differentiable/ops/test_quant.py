"""QuantizeLinear and DequantizeLinear: values against ONNX Runtime (bit for bit), gradients against closed forms."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from backends.session import open_session
from tests.zsq_compile.differentiable.single_node import build
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import UnsupportedModelError

TYPES = {
    "int4": (np.dtype(ml_dtypes.int4), -8, 7),
    "uint4": (np.dtype(ml_dtypes.uint4), 0, 15),
    "int8": (np.dtype(np.int8), -128, 127),
    "uint8": (np.dtype(np.uint8), 0, 255),
    "int16": (np.dtype(np.int16), -32768, 32767),
    "uint16": (np.dtype(np.uint16), 0, 65535),
}
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "per tensor": ((), {}),
    "per axis": ((6,), {"axis": 1}),
    "per last axis": ((8,), {"axis": -1}),
    "in blocks": ((4, 6, 2), {"axis": 2, "block_size": 4}),
    "in blocks, the last one short": ((4, 6, 3), {"axis": 2, "block_size": 3}),
}
SHAPE = (4, 6, 8)


def grid(name: str, layout: str) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    dtype, low, high = TYPES[name]
    shape, attributes = LAYOUTS[layout]
    rng = np.random.default_rng(3)
    scale = rng.uniform(2.0, 4.0, shape) / (high - low)
    zero_point = rng.integers(low, high + 1, shape) // 2
    return scale.astype(np.float32), np.asarray(zero_point).astype(dtype), attributes


def chain(scale: np.ndarray, zero_point: np.ndarray, attributes: dict[str, int]) -> onnx.ModelProto:
    """Quantize then dequantize; the codes are an output too."""
    kind = helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["codes"], name="quantize", **attributes),
            helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["y"], name="dequantize", **attributes),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE),
            helper.make_tensor_value_info("codes", kind, SHAPE),
        ],
        [onnx.numpy_helper.from_array(scale, "s"), onnx.numpy_helper.from_array(zero_point, "z")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def signal() -> np.ndarray:
    return np.random.default_rng(4).normal(size=SHAPE).astype(np.float32) * 2


def runtime(model: onnx.ModelProto, feeds: dict[str, np.ndarray], output: str) -> np.ndarray:
    return open_session(model, threads=1, optimize="none").run(feeds, [output])[output]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TYPES)
def test_quantize_dequantize_equals_onnx_runtime(name: str, layout: str) -> None:
    model = chain(*grid(name, layout))
    x = signal()
    got = TorchGraph(ir.from_proto(model)).run({"x": torch.from_numpy(x)}, ["y"])["y"]
    np.testing.assert_array_equal(got.numpy(), runtime(model, {"x": x}, "y"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*TYPES, "int32"])
def test_dequantized_initializer_equals_onnx_runtime(name: str, layout: str) -> None:
    rng = np.random.default_rng(5)
    if name == "int32":
        scale, zero_point, attributes = grid("int8", layout)
        codes, zero_point = rng.integers(-(2**20), 2**20, SHAPE).astype(np.int32), 0 * zero_point.astype(np.int32)
    else:
        scale, zero_point, attributes = grid(name, layout)
        dtype, low, high = TYPES[name]
        codes = rng.integers(low, high + 1, SHAPE).astype(dtype)
    model = build("DequantizeLinear", 21, {}, {"codes": codes, "s": scale, "z": zero_point}, **attributes)
    model.ir_version = 10
    got = TorchGraph(ir.from_proto(model)).run({})["y0"]
    np.testing.assert_array_equal(got.numpy(), runtime(model, {}, "y0"))


def test_packed_initializers_become_bytes() -> None:
    codes = np.arange(-8, 8).astype(ml_dtypes.int4)
    model = build("Cast", 21, {}, {"codes": codes, "more": (codes.astype(np.int8) + 8).astype(ml_dtypes.uint4)}, to=3)
    del model.graph.node[0].input[1]
    graph = TorchGraph(ir.from_proto(model))
    assert graph.initializers["codes"].dtype == torch.int8
    assert graph.initializers["more"].dtype == torch.uint8
    assert graph.run({})["y0"].tolist() == list(range(-8, 8))
    assert graph.run({}, ["more"])["more"].tolist() == list(range(16))


def spread(values: np.ndarray, layout: str) -> np.ndarray:
    _, attributes = LAYOUTS[layout]
    if "block_size" in attributes:
        return np.repeat(values, attributes["block_size"], attributes["axis"])[:, :, : SHAPE[2]]
    if values.ndim == 1:
        shape = [1, 1, 1]
        shape[attributes["axis"]] = -1
        return values.reshape(shape)
    return values


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_learned_step_size_quantization(layout: str) -> None:
    scale, zero_point, attributes = grid("int8", layout)
    model = chain(scale, zero_point, attributes)
    x = torch.from_numpy(signal()).requires_grad_()
    step = torch.from_numpy(np.asarray(scale)).requires_grad_()
    offset = torch.from_numpy(np.asarray(zero_point, dtype=np.float32)).requires_grad_()
    y = TorchGraph(ir.from_proto(model)).run({"x": x}, ["y"], replace={"s": step, "z": offset})["y"]
    weight = torch.from_numpy(np.random.default_rng(6).normal(size=SHAPE).astype(np.float32))
    (y * weight).sum().backward()

    s, z = spread(scale, layout).astype(np.float64), spread(zero_point, layout).astype(np.float64)
    ratio = signal().astype(np.float64) / s
    codes = np.rint(ratio) + z
    inside = (codes >= -128) & (codes <= 127)
    assert 0.3 < inside.mean() < 0.99
    assert (codes < -128).any()
    assert (codes > 127).any()
    to_scale = np.where(inside, np.rint(ratio) - ratio, np.clip(codes, -128, 127) - z) * weight.numpy()
    to_zero = np.where(inside, 0.0, -s) * weight.numpy()
    np.testing.assert_allclose(x.grad.numpy(), np.where(inside, weight.numpy(), 0), rtol=1e-6)
    np.testing.assert_allclose(step.grad.numpy(), collect(to_scale, layout, scale.shape), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(offset.grad.numpy(), collect(to_zero, layout, scale.shape), rtol=1e-3, atol=1e-5)


def collect(gradient: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """Sum an elementwise gradient over what shares one scale."""
    _, attributes = LAYOUTS[layout]
    if "block_size" in attributes:
        return np.add.reduceat(gradient, np.arange(0, SHAPE[2], attributes["block_size"]), axis=attributes["axis"])
    if shape:
        kept = attributes["axis"] % 3
        return gradient.sum(tuple(axis for axis in range(3) if axis != kept))
    return gradient.sum()


@given(
    value=st.floats(-1e6, 1e6, width=32),
    scale=st.floats(2**-13, 128, width=32),
    zero_point=st.integers(-128, 127),
)
def test_codes_are_integers_in_range_and_round_trip_within_half_a_step(
    value: float, scale: float, zero_point: int
) -> None:
    model = chain(np.float32(scale), np.int8(zero_point), {})
    got = TorchGraph(ir.from_proto(model)).run({"x": torch.tensor(value)}, ["codes", "y"])
    code = int(got["codes"])
    assert -128 <= code <= 127
    if -128 < code < 127:
        assert abs(float(got["y"]) - value) <= scale * (0.5 + 1e-4)


def test_ties_round_to_even() -> None:
    model = chain(np.float32(1), np.int8(1), {})
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    got = TorchGraph(ir.from_proto(model)).run({"x": x}, ["y"])["y"]
    assert got.tolist() == [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0]


def test_codes_are_floats_inside_and_integers_as_graph_outputs() -> None:
    model = chain(np.float32(0.1), np.uint8(3), {})
    x = torch.tensor([-1.0, 0.0, 100.0])
    graph = TorchGraph(ir.from_proto(model))
    assert graph.run({"x": x})["codes"].dtype == torch.uint8
    seen: list[torch.dtype] = []

    def note(node: ir.Node, outputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(outputs[0].dtype)

    graph.run({"x": x}, visit=note)
    assert seen == [torch.float32, torch.float32]


def test_fine_codes_survive_bf16_autocast() -> None:
    model = chain(np.float32(2**-14), np.uint16(0), {})
    x = (torch.arange(64, dtype=torch.float32) / 64 + 2**-14).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        codes = TorchGraph(ir.from_proto(model)).run({"x": x}, ["codes"])["codes"]
    assert torch.equal(codes.float(), x.float() * 2**14)


def test_learned_codes_pass_a_widening_cast_with_their_gradient() -> None:
    codes = np.arange(-8, 8).astype(ml_dtypes.int4)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["codes"], ["wide"], name="widen", to=TensorProto.INT8),
            helper.make_node("DequantizeLinear", ["wide", "s"], ["y"], name="dequantize"),
        ],
        "packed",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (16,))],
        [onnx.numpy_helper.from_array(codes, "codes"), onnx.numpy_helper.from_array(np.float32(0.5), "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    soft = (torch.arange(-8, 8) + 0.25).requires_grad_()
    y = TorchGraph(ir.from_proto(model)).run({}, replace={"codes": soft})["y"]
    y.sum().backward()
    assert torch.equal(y.detach(), soft.detach() * 0.5)
    assert torch.equal(soft.grad, torch.full((16,), 0.5))


def test_eight_bit_floats_are_refused() -> None:
    zero_point = np.array(0, dtype=ml_dtypes.float8_e4m3fn)
    model = build("QuantizeLinear", 21, {"x": signal()}, {"s": np.float32(1), "z": zero_point})
    with pytest.raises(UnsupportedModelError, match="FLOAT8E4M3FN"):
        TorchGraph(ir.from_proto(model))


def test_zero_point_of_unknown_type_is_refused() -> None:
    model = build("QuantizeLinear", 21, {"x": signal(), "z": np.int8(0)}, {"s": np.float32(1)})
    model.graph.node[0].input[:] = ["x", "s", "z"]
    model.graph.input[1].ClearField("type")
    with pytest.raises(UnsupportedModelError, match="type of its zero point is not known; run shape inference"):
        TorchGraph(ir.from_proto(model))
