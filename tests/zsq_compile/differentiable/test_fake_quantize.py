"""QuantizeLinear -> [Clip] -> DequantizeLinear in one go. Oracle: the operators one by one, by asking for codes."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from backends.session import open_session
from zsq_compile.differentiable.module import TorchGraph

GRIDS: dict[str, tuple[np.generic, tuple[int, int] | None]] = {
    "uint8": (np.uint8(0), None),
    "uint8 with a zero point": (np.uint8(113), None),
    "int8 with a zero point": (np.int8(-7), None),
    "int16": (np.int16(300), None),
    "four bits": (np.uint8(0), (0, 15)),
    "four bits with a zero point": (np.uint8(6), (0, 15)),
    "two bits, signed": (np.int8(-1), (-2, 1)),
    "limits wider than the type": (np.uint8(9), (0, 255)),
}
SHAPE = (3, 4, 5)


def quantizers(
    scale: NDArray[Any],
    zero_point: NDArray[Any] | np.generic,
    limits: tuple[int, int] | None = None,
    *,
    axis: int | None = None,
    more: tuple[onnx.NodeProto, ...] = (),
    outputs: tuple[onnx.ValueInfoProto, ...] = (),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """x -> quantize -> [clip] -> dequantize -> y, and perhaps more readers and outputs."""
    zero_point = np.asarray(zero_point)
    attributes = {} if axis is None else {"axis": axis}
    constants = {"s": scale, "z": zero_point}
    codes, nodes = "codes", [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["codes"], name="q", **attributes)]
    if limits is not None:
        constants |= {name: np.array(code, zero_point.dtype) for name, code in zip("lh", limits, strict=True)}
        nodes.append(helper.make_node("Clip", ["codes", "l", "h"], ["clipped"], name="clip"))
        codes = "clipped"
    nodes.append(helper.make_node("DequantizeLinear", [codes, "s", "z"], ["y"], name="dq", **attributes))
    graph = helper.make_graph(
        [*nodes, *more],
        "chain",
        [helper.make_tensor_value_info("x", kind, SHAPE)],
        [helper.make_tensor_value_info("y", kind, SHAPE), *outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def signal(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def ran(graph: TorchGraph, feeds: dict[str, torch.Tensor], outputs: list[str]) -> list[str]:
    """Names of the nodes that ran, a fused chain under the name of its dequantizer."""
    names: list[str] = []

    def note(node: ir.Node, made: tuple[torch.Tensor, ...]) -> None:
        names.append(str(node.name))

    graph.run(feeds, outputs, visit=note)
    return names


def with_gradients(
    graph: TorchGraph, x: torch.Tensor, scale: torch.Tensor, outputs: list[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, and the gradients to x and the scale of a fixed random sum of them."""
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    y = graph.run({"x": x}, outputs, replace={"s": scale})["y"]
    (y * signal(1).to(y.dtype)).sum().backward()
    assert x.grad is not None and scale.grad is not None
    return y.detach(), x.grad, scale.grad


def assert_same_gradient(one: torch.Tensor, other: torch.Tensor) -> None:
    """The operators divide by the step and multiply by it again; what lies outside the grid is exactly 0 in both."""
    assert torch.equal(one == 0, other == 0)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(), (1,)], ids=["no axis", "one axis"])
@pytest.mark.parametrize("name", GRIDS)
def test_values_and_gradients_are_those_of_the_operators(name: str, shape: tuple[int, ...]) -> None:
    zero_point, limits = GRIDS[name]
    scale = np.full(shape, 0.011 if limits is None else 0.37, np.float32)
    graph = TorchGraph(ir.from_proto(quantizers(scale, np.full(shape, zero_point), limits)))
    assert ran(graph, {"x": signal()}, ["y"]) == ["dq"]
    assert ran(graph, {"x": signal()}, ["y", "codes"]) == ["q", *["clip"] * (limits is not None), "dq"]
    together = with_gradients(graph, signal(), torch.from_numpy(scale), ["y"])
    one_by_one = with_gradients(graph, signal(), torch.from_numpy(scale), ["y", "codes"])
    assert torch.equal(together[0], one_by_one[0])
    assert_same_gradient(together[1], one_by_one[1])
    assert 0 < int((together[1] != 0).sum()) < together[1].numel() or name == "int16"
    torch.testing.assert_close(together[2], one_by_one[2], rtol=1e-4, atol=1e-3)  # sums of codes in either order
    assert together[2].shape == shape


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(2**-10, 4.0, width=32),
    zero_point=st.integers(0, 255),
    low=st.integers(0, 255),
    width=st.integers(0, 255),
)
def test_any_grid_gives_what_the_operators_give(seed: int, scale: float, zero_point: int, low: int, width: int) -> None:
    limits = (low, min(low + width, 255))
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(scale), np.uint8(zero_point), limits)))
    x = signal(seed % 1000)
    # a number half-way between the last code and the one outside belongs to neither side
    ratio = (x / scale).double()
    assume(bool(((ratio - ratio.floor() - 0.5).abs() > 1e-3).all()))
    together = with_gradients(graph, x, torch.tensor(scale), ["y"])
    one_by_one = with_gradients(graph, x, torch.tensor(scale), ["y", "codes"])
    assert torch.equal(together[0], one_by_one[0])
    assert_same_gradient(together[1], one_by_one[1])
    torch.testing.assert_close(together[2], one_by_one[2], rtol=1e-3, atol=1e-2)  # sums of up to 255 in either order


@pytest.mark.parametrize("name", GRIDS)
def test_values_are_those_of_the_runtime(name: str) -> None:
    zero_point, limits = GRIDS[name]
    model = quantizers(np.float32(0.023), zero_point, limits)
    got = TorchGraph(ir.from_proto(model)).run({"x": signal()})["y"]
    wanted = open_session(model, threads=1, optimize="none").run({"x": signal().numpy()})["y"]
    np.testing.assert_array_equal(got.numpy(), wanted)


def test_the_gradient_of_the_scale_is_that_of_learned_step_size_quantization() -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.37), np.uint8(6), (0, 15))))
    _, to_x, to_scale = with_gradients(graph, signal(), torch.tensor(0.37), ["y"])
    ratio, weight = signal().double() / np.float32(0.37), signal(1).double()
    inside = (ratio.round() >= -6) & (ratio.round() <= 9)
    assert 0.2 < float(inside.double().mean()) < 0.98
    each = torch.where(inside, ratio.round() - ratio, ratio.round().clamp(-6, 9))
    torch.testing.assert_close(to_x.double(), torch.where(inside, weight, torch.zeros(())))
    torch.testing.assert_close(to_scale.double(), (each * weight).sum(), rtol=1e-4, atol=1e-4)


def test_only_the_wanted_gradients_are_made() -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.1), np.uint8(0))))
    x = signal().requires_grad_()
    graph.run({"x": x})["y"].sum().backward()
    assert x.grad is not None
    scale = torch.tensor(0.1, requires_grad=True)
    graph.run({"x": signal()}, replace={"s": scale})["y"].sum().backward()
    assert scale.grad is not None
    assert graph.run({"x": signal()})["y"].grad_fn is None


def codes_output(name: str = "codes") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, SHAPE)


READER = helper.make_node("Cast", ["codes"], ["again"], name="cast", to=TensorProto.FLOAT)
AGAIN = helper.make_tensor_value_info("again", TensorProto.FLOAT, SHAPE)


@pytest.mark.parametrize("limits", [None, (0, 15)], ids=["plain", "limited"])
@pytest.mark.parametrize(
    ("more", "outputs"), [((READER,), (AGAIN,)), ((), (codes_output(),))], ids=["second reader", "graph output"]
)
def test_codes_that_somebody_else_wants_are_made(
    more: tuple[onnx.NodeProto, ...], outputs: tuple[onnx.ValueInfoProto, ...], limits: tuple[int, int] | None
) -> None:
    model = quantizers(np.float32(0.1), np.uint8(3), limits, more=more, outputs=outputs)
    graph = TorchGraph(ir.from_proto(model))
    assert ran(graph, {"x": signal()}, ["y"]) == ["q", *["clip"] * (limits is not None), "dq"]
    wanted = open_session(model, threads=1, optimize="none").run({"x": signal().numpy()})
    for name, value in graph.run({"x": signal()}).items():
        np.testing.assert_array_equal(value.numpy(), wanted[name])


def test_the_clipped_codes_may_have_a_second_reader() -> None:
    reader = helper.make_node("Cast", ["clipped"], ["again"], name="cast", to=TensorProto.FLOAT)
    model = quantizers(np.float32(0.1), np.uint8(3), (0, 15), more=(reader,), outputs=(AGAIN,))
    graph = TorchGraph(ir.from_proto(model))
    assert ran(graph, {"x": signal()}, ["y"]) == ["q", "clip", "dq"]
    got = graph.run({"x": signal()})
    torch.testing.assert_close((got["again"] - 3) * 0.1, got["y"])


@pytest.mark.parametrize("name", ["codes", "clipped"])
def test_codes_may_be_wanted_and_fed(name: str) -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.5), np.uint8(3), (0, 15))))
    assert ran(graph, {"x": signal()}, ["y", name]) == ["q", "clip", "dq"]
    fed = torch.full(SHAPE, 5.0)
    assert "q" not in ran(graph, {name: fed}, ["y"])
    assert torch.equal(graph.run({name: fed}, ["y"])["y"], torch.full(SHAPE, 1.0))
    assert ran(graph, {"x": signal()}, ["y"]) == ["dq"]  # what was laid out for one call is not there for the next


def test_grids_per_channel_are_left_alone() -> None:
    scale = np.linspace(0.05, 0.2, SHAPE[1]).astype(np.float32)
    model = quantizers(scale, np.full(SHAPE[1], 3, np.uint8), axis=1)
    graph = TorchGraph(ir.from_proto(model))
    assert ran(graph, {"x": signal()}, ["y"]) == ["q", "dq"]
    wanted = open_session(model, threads=1, optimize="none").run({"x": signal().numpy()})["y"]
    np.testing.assert_array_equal(graph.run({"x": signal()})["y"].numpy(), wanted)


def test_two_grids_are_two_operators() -> None:
    model = quantizers(np.float32(0.1), np.uint8(3))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(np.float32(0.2)), "t"))
    model.graph.node[1].input[1] = "t"
    graph = TorchGraph(ir.from_proto(model))
    assert ran(graph, {"x": signal()}, ["y"]) == ["q", "dq"]
    wanted = open_session(model, threads=1, optimize="none").run({"x": signal().numpy()})["y"]
    np.testing.assert_array_equal(graph.run({"x": signal()})["y"].numpy(), wanted)


def test_under_autocast_bfloat16_stays_bfloat16() -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.25), np.uint8(6), (0, 15))))
    x = signal().to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = with_gradients(graph, x, torch.tensor(0.25), ["y"])
        in_full = graph.run({"x": signal()}, ["y"])["y"]
    assert got[0].dtype == got[1].dtype == torch.bfloat16
    assert got[2].dtype == in_full.dtype == torch.float32
    # a step of a quarter and its multiples are exact in bfloat16, and so is what lies half-way between them
    exact = with_gradients(graph, x.float(), torch.tensor(0.25), ["y"])
    assert torch.equal(got[0].float(), exact[0])
    weight = signal(1).to(torch.bfloat16).float()
    assert torch.equal(got[1].float() != 0, (exact[1] != 0) & (weight != 0))
    torch.testing.assert_close(got[2], exact[2], rtol=0.03, atol=0.3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_outside_autocast_types_are_those_of_the_operators(kind: torch.dtype) -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.25), np.uint8(6))))
    x = signal().to(kind)
    together, one_by_one = (graph.run({"x": x}, names)["y"] for names in (["y"], ["y", "codes"]))
    assert together.dtype == one_by_one.dtype
    assert torch.equal(together, one_by_one)


def test_half_precision_scales_give_half_precision() -> None:
    model = quantizers(np.float16(0.25), np.uint8(6), kind=TensorProto.FLOAT16)
    graph = TorchGraph(ir.from_proto(model))
    x = signal().to(torch.float16)
    together, one_by_one = (graph.run({"x": x}, names)["y"] for names in (["y"], ["y", "codes"]))
    assert together.dtype == one_by_one.dtype == torch.float16
    assert torch.equal(together, one_by_one)


@pytest.mark.parametrize("name", ["z", "l", "h"])
def test_what_is_replaced_by_a_parameter_gets_its_gradient(name: str) -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.37), np.uint8(6), (0, 15))))
    gradients = []
    for outputs in (["y"], ["y", "codes"]):
        number = graph.initializers[name].float().requires_grad_()
        (graph.run({"x": signal()}, outputs, replace={name: number})["y"] * signal(1)).sum().backward()
        gradients.append(number.grad)
    assert gradients[1] is not None and float(gradients[1].abs()) > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_replaced_grids_are_seen_each_time() -> None:
    graph = TorchGraph(ir.from_proto(quantizers(np.float32(0.37), np.uint8(6), (0, 15))))
    for code in (0, 9, 4):
        changed = {"z": torch.tensor(code, dtype=torch.uint8)}
        together, one_by_one = (graph.run({"x": signal()}, n, replace=changed)["y"] for n in (["y"], ["y", "codes"]))
        assert torch.equal(together, one_by_one)
    graph.initializers["h"] = torch.tensor(7, dtype=torch.uint8)
    assert float(graph.run({"x": torch.full(SHAPE, 99.0)})["y"].max()) == pytest.approx((7 - 6) * 0.37)
