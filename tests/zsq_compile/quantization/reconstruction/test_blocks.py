from collections.abc import Sequence

import onnx_ir as ir
import pytest
import torch

from tests.models import parse
from tests.zsq_compile.quantization.learnable import NETWORKS, find_batched_values, planned, signal
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.reconstruction.blocks import Block, find_blocks

LAYERS: dict[str, list[list[str]]] = {
    "chain": [["conv0"], ["conv1"], ["gemm"]],
    "residual": [["stem"], ["a1", "a2", "project"], ["b1", "b2"], ["gemm"]],
    "inverted": [["stem"], ["widen0", "deep0", "narrow0"], ["widen1", "deep1", "narrow1"], ["gemm"]],
    # no single value crosses between these layers
    "pyramid": [["stem"], ["down"], ["side1"], ["side0"], ["coarse0"], ["fine0"], ["coarse1"], ["fine1"], ["coarse2"]],
    # a Tanh in float passes by the first two, and r1 passes by all of them
    "long skip": [["stem"], ["conv1", "conv2"], *([f"conv{i}"] for i in range(3, 8)), ["last"]],
    "concat": [["stem"], ["left", "right"], ["conv"], ["gemm"]],
    "two inputs": [["image0", "image1", "vector"], ["mix"], ["last"]],
    "one layer": [["gemm"]],
    "padded": [["conv0"], ["conv1"], ["conv2"], ["gemm"]],
    "split": [["stem"], ["left", "right"], ["gemm"]],
    "tokens": [["stem"], ["first", "second"], ["matmul"]],
    "embedded": [["first"], ["second"], ["last"]],
}


def found(text: str) -> tuple[ir.Model, tuple[Block, ...], frozenset[str]]:
    model, plan = planned(parse(text), bits=4, act_bits=4)
    batched = find_batched_values(model)
    return model, find_blocks(model, plan, batched), batched


def layers(blocks: Sequence[Block]) -> list[list[str]]:
    return [[site.node for site in block.layers] for block in blocks]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_of_each_block(name: str) -> None:
    _, blocks, _ = found(NETWORKS[name])
    assert layers(blocks) == LAYERS[name]
    assert [block.name for block in blocks] == [names[-1] for names in LAYERS[name]]


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_one_after_the_other_are_the_network(name: str) -> None:
    model, blocks, _ = found(NETWORKS[name])
    graph = TorchGraph(model)
    feeds = signal(5, ir.to_proto(model))
    values = dict(feeds)
    for block in blocks:
        values |= graph.run({name: values[name] for name in block.inputs}, block.outputs)
    for output, wanted in graph.run(feeds).items():
        assert torch.equal(values[output], wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_cover_each_node_once_and_meet_where_the_plan_allows_it(name: str) -> None:
    model, blocks, batched = found(NETWORKS[name])
    _, plan = planned(parse(NETWORKS[name]), bits=4, act_bits=4)
    made = [value for block in blocks for value in block.values]
    assert sorted(made) == sorted(str(value.name) for node in model.graph for value in node.outputs)
    assert tuple(site for block in blocks for site in block.layers) == plan.weights
    inputs = {str(value.name) for value in model.graph.inputs}
    allowed = {site.value for site in plan.activations if site.moved_from is None} | inputs
    for place, block in enumerate(blocks):
        assert block.layers
        assert set(block.inputs) <= allowed & batched
        assert set(block.inputs) <= block.read
        later = {value for other in blocks[place + 1 :] for value in other.inputs}
        ends = {str(value.name) for value in model.graph.outputs}
        assert set(block.outputs) == (later | ends) & block.values
        assert len(block.outputs) == len(set(block.outputs))


def test_a_long_stretch_is_split_behind_its_layers_and_several_values_cross() -> None:
    _, blocks, _ = found(NETWORKS["pyramid"])
    assert [(set(block.inputs), set(block.outputs)) for block in blocks[1:]] == [
        ({"r0"}, {"r1"}),
        ({"r1"}, {"c2"}),
        ({"r0"}, {"c3"}),
        ({"c2", "c3"}, {"a", "r4"}),
        ({"a"}, {"r5"}),
        ({"r4"}, {"r6"}),
        ({"r5"}, {"fine"}),
        ({"r6"}, {"coarse"}),
    ]


def test_a_value_may_be_read_in_the_block_that_makes_it_and_later_too() -> None:
    _, blocks, _ = found(NETWORKS["long skip"])
    assert set(blocks[1].outputs) == {"s", "r1"}
    assert "r1" in blocks[1].read
    assert set(blocks[6].inputs) == {"r6", "r1"}


def skipping(count: int) -> str:
    """As many convolutions in a row, with a skip connection around all of them, and one behind it."""
    row = [f"[c{i}] c{i} = Conv<pads=[1,1,1,1]>(r{i}, w{i}, b{i}) [k{i}] r{i + 1} = Relu(c{i})" for i in range(count)]
    weights = ", ".join(f"float[3,3,3,3] w{i}, float[3] b{i}" for i in range(count + 1))
    tail = f"[add] a = Add(r{count}, r0) [last] y = Conv(a, w{count}, b{count})"
    return f"g (float[N,3,5,5] r0) => (float[N,3,3,3] y) <{weights}> {{ {' '.join(row)} {tail} }}"


def test_six_layers_between_two_cuts_stay_together_and_seven_do_not() -> None:
    assert layers(found(skipping(6))[1]) == [[f"c{i}" for i in range(6)], ["last"]]
    assert layers(found(skipping(7))[1]) == [*([f"c{i}"] for i in range(7)), ["last"]]


def test_a_depthwise_layer_stays_with_the_pointwise_one_behind_it() -> None:
    text = """
        g (float[N,4,6,6] x) => (float[N,3,2,2] y)
        <float[8,4,3,3] w0, float[8] b0, float[8,1,3,3] w1, float[8] b1, float[12,8,1,1] w2, float[12] b2,
         float[3,12,1,1] w3, float[3] b3>
        {
            [full] c0 = Conv(x, w0, b0) [relu0] r0 = Relu(c0)
            [deep] c1 = Conv<group=8>(r0, w1, b1) [relu1] r1 = Relu(c1)
            [point] c2 = Conv(r1, w2, b2) [relu2] r2 = Relu(c2)
            [last] y = Conv(r2, w3, b3)
        }
        """
    assert layers(found(text)[1]) == [["full"], ["deep", "point"], ["last"]]


def test_values_whose_first_axis_does_not_count_samples_never_cross() -> None:
    model, blocks, batched = found(NETWORKS["tokens"])
    assert {"t1", "m0", "r1", "r2"}.isdisjoint(batched)
    assert {value for block in blocks for value in (*block.inputs, *block.outputs)} == {"x", "t0", "i0", "y"}
    # told that they do, the same network may be cut between its two Gemms
    _, plan = planned(parse(NETWORKS["tokens"]), bits=4, act_bits=4)
    every = {str(value.name) for node in model.graph for value in node.outputs} | {"x"}
    assert layers(find_blocks(model, plan, every)) == [["stem"], ["first"], ["second"], ["matmul"]]


def test_outputs_whose_first_axis_does_not_count_samples_are_nobody_s_target() -> None:
    text = """
        g (float[N,4,3,3] x) => (float[M,4] rows, float[N,2] y)
        <float[4,4,1,1] w0, float[4] b0, int64[2] shape = {-1, 4}, float[2,4] w1, float[2] b1>
        {
            [conv] c = Conv(x, w0, b0) [relu] r = Relu(c)
            [rows] rows = Reshape(r, shape)
            [pool] p = GlobalAveragePool(r) [flat] f = Flatten(p)
            [gemm] y = Gemm<transB=1>(f, w1, b1)
        }
        """
    _, blocks, batched = found(text)
    assert "rows" not in batched
    assert {value for block in blocks for value in block.outputs} <= batched


def test_codes_that_are_moved_do_not_cross() -> None:
    _, blocks, _ = found(NETWORKS["padded"])
    assert [block.inputs for block in blocks] == [("x",), ("r0",), ("r1",), ("f",)]


def test_nodes_in_front_of_the_first_layer_and_behind_the_last_join_them() -> None:
    text = """
        g (float[N,4,6,6] x) => (float[N,3,4,4] y)
        <float[4,4,3,3] w0, float[4] b0, float[3,4,1,1] w1, float[3] b1>
        {
            [sigmoid] s = Sigmoid(x) [tanh] t = Tanh(s) [conv] c = Conv(t, w0, b0) [relu] r = Relu(c)
            [last] d = Conv(r, w1, b1) [soft] e = Sigmoid(d) [exp] y = Exp(e)
        }
        """
    _, blocks, _ = found(text)
    assert layers(blocks) == [["conv"], ["last"]]
    assert {"s", "t", "c"} <= blocks[0].values
    assert {"d", "e", "y"} == blocks[1].values


def test_a_network_without_layers_is_one_block() -> None:
    model, plan = planned(parse("g (float[N,4] x) => (float[N,4] y) { [a] r = Relu(x) [b] y = Sigmoid(r) }"))
    (block,) = find_blocks(model, plan, {"x", "r", "y"})
    assert (block.name, block.layers, block.inputs, block.outputs) == ("b", (), ("x",), ("y",))


def test_an_inner_graph_output_belongs_to_the_block_that_makes_it() -> None:
    text = """
        g (float[N,4,6,6] x) => (float[N,4,4,4] r, float[N,3,2,2] y)
        <float[4,4,3,3] w0, float[4] b0, float[3,4,3,3] w1, float[3] b1>
        { [conv] c = Conv(x, w0, b0) [relu] r = Relu(c) [last] y = Conv(r, w1, b1) }
        """
    _, blocks, _ = found(text)
    assert [block.outputs for block in blocks] == [("r",), ("y",)]
