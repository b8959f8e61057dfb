"""TorchGraph: parts of graphs, taps, replaced initializers, visits, sizes, precision. Oracle: torch, by hand."""

import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ExecutionError, UnsupportedModelError

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,8] x, float[2] unused) => (float[N,4] y, int64[N] best)
<float[4,3,3,3] w, float[4] b, float[4,4] head, float[4] s, float[4] t, float[4] m, float[4] v, int64[2] shape>
{
    [conv] c = Conv<pads=[1,1,1,1]>(x, w, b)
    [bn] n = BatchNormalization(c, s, t, m, v)
    [relu] r = Relu(n)
    [pool] p = GlobalAveragePool(r)
    [flat] f = Reshape(p, shape)
    [gemm] y = Gemm(f, head)
    [best] best = ArgMax<axis=1, keepdims=0>(y)
}
"""


def network() -> ir.Model:
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for value in list(model.graph.value_info):
        if value.name not in ("w", "b", "head", "s", "t", "m", "v", "shape"):
            continue
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        array = np.array([0, -1]) if value.name == "shape" else rng.normal(size=shape).astype(np.float32)
        array = np.abs(array) + 0.5 if value.name == "v" else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    return ir.from_proto(model)


@pytest.fixture
def graph() -> TorchGraph:
    return TorchGraph(network())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def by_hand(graph: TorchGraph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    i = graph.initializers
    c = functional.conv2d(x, i["w"], i["b"], padding=1)
    n = functional.batch_norm(c, i["m"], i["v"], i["s"], i["t"])
    r = torch.relu(n)
    y = r.mean((2, 3)) @ i["head"]
    return {"c": c, "n": n, "r": r, "y": y, "best": y.argmax(1)}


def test_whole_graph(graph: TorchGraph, x: torch.Tensor) -> None:
    assert graph.input_names == ("x", "unused")
    assert graph.output_names == ("y", "best")
    got = graph.run({"x": x})  # an input that nothing reads need not be fed
    expected = by_hand(graph, x)
    torch.testing.assert_close(got, {name: expected[name] for name in ("y", "best")})


def test_batch_may_differ_from_run_to_run(graph: TorchGraph, x: torch.Tensor) -> None:
    for batch in (1, 5, 2):
        assert graph.run({"x": x[:1].expand(batch, -1, -1, -1)})["y"].shape == (batch, 4)


def test_taps_feeds_and_initializers_may_be_outputs(graph: TorchGraph, x: torch.Tensor) -> None:
    got = graph.run({"x": x}, ["n", "x", "c", "w", "n"])
    expected = by_hand(graph, x)
    torch.testing.assert_close(got["n"], expected["n"])
    torch.testing.assert_close(got["c"], expected["c"])
    assert got["x"] is x
    assert got["w"] is graph.initializers["w"]


def ran(graph: TorchGraph, feeds: dict[str, torch.Tensor], outputs: list[str]) -> list[str | None]:
    names: list[str | None] = []

    def note(node: ir.Node, made: tuple[torch.Tensor, ...]) -> None:
        names.append(node.name)

    graph.run(feeds, outputs, visit=note)
    return names


def test_only_the_nodes_between_feeds_and_outputs_run(graph: TorchGraph, x: torch.Tensor) -> None:
    assert ran(graph, {"x": x}, ["n"]) == ["conv", "bn"]
    inner = by_hand(graph, x)["n"]
    assert ran(graph, {"n": inner}, ["y"]) == ["relu", "pool", "flat", "gemm"]
    assert ran(graph, {"n": inner, "x": x}, ["y", "c"]) == ["conv", "relu", "pool", "flat", "gemm"]
    assert ran(graph, {"n": inner}, ["n"]) == []
    torch.testing.assert_close(graph.run({"n": inner}, ["y"])["y"], by_hand(graph, x)["y"])


def test_feed_takes_the_place_of_an_initializer(graph: TorchGraph, x: torch.Tensor) -> None:
    got = graph.run({"x": x, "w": torch.zeros(4, 3, 3, 3), "b": torch.ones(4)}, ["c"])["c"]
    assert torch.equal(got, torch.ones(2, 4, 8, 8))


def test_gradients_reach_feeds_and_replaced_initializers(graph: TorchGraph, x: torch.Tensor) -> None:
    x = x.requires_grad_()
    weight = torch.nn.Parameter(graph.initializers["w"] * 2)
    mean = torch.nn.Parameter(graph.initializers["m"] + 1)
    graph.run({"x": x}, ["y"], replace={"w": weight, "m": mean})["y"].square().sum().backward()
    got = [x.grad, weight.grad, mean.grad]

    again = x.detach().requires_grad_()
    i = graph.initializers
    c = functional.conv2d(again, weight, i["b"], padding=1)
    shape = (1, 4, 1, 1)
    normal = (c - mean.reshape(shape)) / torch.sqrt(i["v"].reshape(shape) + 1e-5)
    r = torch.relu(normal * i["s"].reshape(shape) + i["t"].reshape(shape))
    loss = (r.mean((2, 3)) @ i["head"]).square().sum()
    torch.testing.assert_close(got, list(torch.autograd.grad(loss, [again, weight, mean])), rtol=1e-4, atol=1e-5)


def test_replacing_is_for_one_call_and_setting_is_for_good(graph: TorchGraph, x: torch.Tensor) -> None:
    before = graph.run({"x": x})["y"]
    assert not torch.equal(graph.run({"x": x}, replace={"w": torch.zeros(4, 3, 3, 3)})["y"], before)
    assert torch.equal(graph.run({"x": x})["y"], before)
    graph.initializers["head"] = torch.zeros(4, 4)
    assert torch.equal(graph.run({"x": x})["y"], torch.zeros(2, 4))
    graph.initializers["shape"] = torch.tensor([1, -1])
    assert graph.run({"x": x}, ["f"])["f"].shape == (1, 8)


def test_visit_may_replace_what_a_node_made(graph: TorchGraph, x: torch.Tensor) -> None:
    def double_relu(node: ir.Node, made: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return (made[0] * 2,) if node.name == "relu" else None

    got = graph.run({"x": x}, ["r", "y"], visit=double_relu)
    torch.testing.assert_close(got["r"], by_hand(graph, x)["r"] * 2)
    torch.testing.assert_close(got["y"], by_hand(graph, x)["y"] * 2)


def test_values_are_freed_after_their_last_use(graph: TorchGraph, x: torch.Tensor) -> None:
    alive: dict[str | None, weakref.ref[torch.Tensor]] = {}
    dead_at: dict[str | None, str | None] = {}

    def watch(node: ir.Node, made: tuple[torch.Tensor, ...]) -> None:
        for name, reference in alive.items():
            if reference() is None:
                dead_at.setdefault(name, node.name)
        alive[node.name] = weakref.ref(made[0])

    with torch.no_grad():
        graph.run({"x": x}, ["y", "r"], visit=watch)
    assert dead_at["conv"] == "relu"  # while bn's result is looked at, its input still lives
    assert dead_at["bn"] == "pool"
    assert "relu" not in dead_at


def test_unknown_and_missing_names_are_told(graph: TorchGraph, x: torch.Tensor) -> None:
    with pytest.raises(KeyError, match=r"graph input 'x' is needed.*fed: nothing"):
        graph.run({})
    with pytest.raises(KeyError, match="value 'nothing' is needed"):
        graph.run({"x": x}, ["nothing"])
    with pytest.raises(KeyError, match=r"feeds name \['z'\]"):
        graph.run({"x": x, "z": x})
    with pytest.raises(KeyError, match=r"replace names \['z'\]"):
        graph.run({"x": x}, replace={"z": x})


def test_error_inside_a_kernel_names_the_node(graph: TorchGraph, x: torch.Tensor) -> None:
    with pytest.raises(ExecutionError, match=r"node 'conv' \(Conv\).*float32\[\d+, 2, "):
        graph.run({"x": x[:, :2]})


def test_bf16_autocast_stays_close(graph: TorchGraph, x: torch.Tensor) -> None:
    expected = by_hand(graph, x)["y"]
    with torch.autocast("cpu", torch.bfloat16):
        got = graph.run({"x": x}, ["c", "y"])
    assert got["c"].dtype == torch.bfloat16
    torch.testing.assert_close(got["y"].float(), expected, rtol=0.05, atol=0.05)


def test_gradient_through_bf16_autocast(graph: TorchGraph, x: torch.Tensor) -> None:
    x = x.requires_grad_()
    expected = torch.autograd.grad(by_hand(graph, x)["n"].square().sum(), x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = graph.run({"x": x}, ["n"])["n"].float().square().sum()
    got = torch.autograd.grad(loss, x)[0]
    assert functional.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > 0.999


def test_double_precision_throughout(graph: TorchGraph, x: torch.Tensor) -> None:
    for name, tensor in graph.initializers.items():
        graph.initializers[name] = tensor.double() if tensor.is_floating_point() else tensor
    got = graph.run({"x": x.double()})["y"]
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, by_hand(graph, x.double())["y"], rtol=1e-12, atol=1e-12)


def test_no_gradient_is_recorded_without_need(graph: TorchGraph, x: torch.Tensor) -> None:
    assert graph.run({"x": x})["y"].grad_fn is None


def test_initializers_listed_as_inputs_are_not_inputs() -> None:
    model = network()
    model.graph.inputs.append(model.graph.initializers["w"])
    assert TorchGraph(model).input_names == ("x", "unused")


def test_initializer_without_data_is_told() -> None:
    model = network()
    model.graph.initializers["w"].const_value = None
    with pytest.raises(UnsupportedModelError, match="initializer 'w' has no data"):
        TorchGraph(model)


def test_shape_arithmetic_is_exact_integers() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    shapes (float[N,6,4] x) => (float[a,b,c] y, int64[k] sizes)
    <int64[1] zero = {0}, int64[1] two = {2}, int64 last = {2}, int64 big = {9007199254740993}>
    {
        shape = Shape(x)
        n = Gather<axis=0>(shape, zero)
        c = Shape<start=1, end=2>(x)
        half = Div(c, two)
        l = Gather(shape, last)
        axes = Constant<value_ints=[0]>()
        lu = Unsqueeze(l, axes)
        double = Mul(lu, two)
        sizes = Concat<axis=0>(n, half, double)
        y = Reshape(x, sizes)
        odd = Add(big, last)
    }
    """
    graph = TorchGraph(ir.from_proto(onnx.parser.parse_model(text)))
    got = graph.run({"x": torch.zeros(3, 6, 4)}, ["y", "sizes", "odd"])
    assert got["sizes"].dtype == torch.int64
    assert got["sizes"].tolist() == [3, 3, 8]
    assert got["y"].shape == (3, 3, 8)
    assert int(got["odd"]) == 9007199254740995


def test_devices_meet() -> None:
    # "meta" stands for an accelerator: integers that describe shapes stay on the CPU, the rest is there
    graph = TorchGraph(network(), device="meta")
    assert graph.initializers["w"].device.type == "meta"
    assert graph.initializers["shape"].device.type == "cpu"
    got = graph.run({"x": torch.empty(2, 3, 8, 8, device="meta")})
    assert got["y"].device.type == "meta"
    assert got["y"].shape == (2, 4)
