"""Each row of ort_cpu.toml, and the conditions in its comments, against the graph as ONNX Runtime rewrites it."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.catalog import load_target
from backends.session import open_session

TARGET = load_target("ort_cpu")
IMAGE = ("N", 8, 12, 12)


class Graph:
    """Builds a QDQ graph node by node; every method returns the name of the value it made."""

    def __init__(self):
        self.nodes, self.weights = [], []
        self.rng = np.random.default_rng(0)

    def constant(self, array):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type, inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def qdq(self, value, scale=0.02, zero_point=128):
        parameters = [self.constant(np.float32(scale)), self.constant(np.uint8(zero_point))]
        return self.op("DequantizeLinear", [self.op("QuantizeLinear", [value, *parameters]), *parameters])

    def weight(self, shape, axis=0, int4=False):
        codes = self.rng.integers(-7, 8, shape)
        name = f"w{len(self.weights)}"
        if int4:
            self.weights.append(helper.make_tensor(name, TensorProto.INT4, shape, codes.reshape(-1)))
            name = self.op("Cast", [name], to=TensorProto.INT8)
        else:
            name = self.constant(codes.astype(np.int8))
        scale = self.constant(np.full(shape[axis], 0.01, np.float32))
        return self.op("DequantizeLinear", [name, scale, self.constant(np.zeros(shape[axis], np.int8))], axis=axis)

    def bias(self, size, scale=0.0002):
        codes = self.constant(self.rng.integers(-100, 100, size).astype(np.int32))
        parameters = [self.constant(np.full(size, scale, np.float32)), self.constant(np.zeros(size, np.int32))]
        return self.op("DequantizeLinear", [codes, *parameters], axis=0)

    def conv(self, value="x", group=1, dims=2, int4=False, bias_scale=0.0002, **attributes):
        weight = self.weight((8, 8 // group, *([3] * dims)), int4=int4)
        return self.op("Conv", [self.qdq(value), weight, self.bias(8, bias_scale)], group=group, **attributes)


def optimised(tmp_path, build, *shapes):
    """Count the operators that ONNX Runtime leaves of the graph that ``build(graph, *inputs)`` makes."""
    graph, names = Graph(), ["x", "y"][: len(shapes)]
    outputs = build(graph, *names)
    outputs = [outputs] if isinstance(outputs, str) else outputs
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    proto = helper.make_graph(graph.nodes, "g", infos, results, graph.weights)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", TARGET.opset)], ir_version=10)
    path = tmp_path / "optimised.onnx"
    open_session(onnx.shape_inference.infer_shapes(model), threads=1, optimized_path=path)
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def unary(op_type, *constants, outputs=1, scale=0.02, zero_point=128, **attributes):
    def build(graph, x):
        made = graph.op(op_type, [graph.qdq(x), *map(graph.constant, constants)], outputs, **attributes)
        return [graph.qdq(value, scale, zero_point) for value in ([made] if outputs == 1 else made)]

    return build


def binary(op_type, *heads, scale=0.05):
    def build(graph, x, y):
        ins = [graph.constant(head) for head in heads]
        return graph.qdq(
            graph.op(op_type, [*ins, graph.qdq(x), graph.qdq(y, scale, 100)], **AXIS.get(op_type, {})), 0.07
        )

    return build


AXIS = {"Concat": {"axis": 1}}


def on_codes(op_type, *constants, **attributes):
    """Conv, Q, the operator on codes, DQ, GlobalAveragePool: its neighbours must stay in integers."""

    def build(graph, x):
        parameters = [graph.constant(np.float32(0.02)), graph.constant(np.uint8(128))]
        codes = graph.op("QuantizeLinear", [graph.conv(x), *parameters])
        moved = graph.op(op_type, [codes, *map(graph.constant, constants)], **attributes)
        return graph.qdq(graph.op("GlobalAveragePool", [graph.op("DequantizeLinear", [moved, *parameters])]))

    return build


def ints(*values):
    return np.asarray(values, np.int64)


def gemm(graph, x):
    return graph.op("Gemm", [graph.qdq(x), graph.weight((10, 16)), graph.bias(10)], transB=1)


def matmul(graph, x):
    return graph.op("MatMul", [graph.qdq(x), graph.weight((16, 10), axis=1)])


def resize(graph, x, mode="nearest"):
    made = graph.op("Resize", [graph.qdq(x), "", graph.constant(np.float32([1, 1, 2, 2]))], mode=mode)
    return graph.qdq(made)


PADS = ints(0, 0, 1, 1, 0, 0, 1, 1)
ROWS = {
    "Conv": (lambda graph, x: graph.qdq(graph.conv(x)), IMAGE),
    "Gemm": (lambda graph, x: graph.qdq(gemm(graph, x)), ("N", 16)),
    "MatMul": (lambda graph, x: graph.qdq(matmul(graph, x)), ("N", 5, 16)),
    "Add": (binary("Add"), IMAGE, IMAGE),
    "Mul": (binary("Mul"), IMAGE, ("N", 8, 1, 1)),
    "Concat": (binary("Concat"), IMAGE, IMAGE),
    "Where": (binary("Where", np.ones((1, 8, 12, 12), bool)), (1, 8, 12, 12), (1, 8, 12, 12)),
    "GlobalAveragePool": (unary("GlobalAveragePool", scale=0.01), IMAGE),
    "AveragePool": (unary("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], scale=0.01), IMAGE),
    "Sigmoid": (unary("Sigmoid", scale=1 / 256, zero_point=0), IMAGE),
    "LeakyRelu": (unary("LeakyRelu", alpha=0.1, scale=0.01), IMAGE),
    "MaxPool": (unary("MaxPool", kernel_shape=[2, 2]), IMAGE),
    "Reshape": (unary("Reshape", ints(0, -1)), IMAGE),
    "Flatten": (unary("Flatten"), IMAGE),
    "Transpose": (unary("Transpose", perm=[0, 2, 3, 1]), IMAGE),
    "Squeeze": (unary("Squeeze", ints(0)), (1, 8, 12, 12)),
    "Unsqueeze": (unary("Unsqueeze", ints(0)), IMAGE),
    "Slice": (unary("Slice", ints(0), ints(4), ints(1)), IMAGE),
    "Split": (unary("Split", ints(3, 5), outputs=2, axis=1), IMAGE),
    "Gather": (unary("Gather", ints(1, 3), axis=1), IMAGE),
    "GatherElements": (unary("GatherElements", np.zeros((1, 4, 12, 12), np.int64), axis=1), (1, 8, 12, 12)),
    "Expand": (unary("Expand", ints(2, 8, 12, 12)), (1, 8, 12, 12)),
    "Tile": (unary("Tile", ints(1, 2, 1, 1)), IMAGE),
    "DepthToSpace": (unary("DepthToSpace", blocksize=2), IMAGE),
    "ReduceMax": (unary("ReduceMax", ints(2, 3)), IMAGE),
    "ReduceMin": (unary("ReduceMin", ints(2, 3)), IMAGE),
    "Resize": (resize, IMAGE),
    "Pad": (on_codes("Pad", PADS, np.uint8(128)), IMAGE),
    "SpaceToDepth": (on_codes("SpaceToDepth", blocksize=2), IMAGE),
}


@pytest.mark.parametrize("op_type", [rule.op_type for rule in TARGET.operators if rule.fused_as])
def test_row_runs_in_integers(tmp_path, op_type):
    build, *shapes = ROWS[op_type]
    counts = optimised(tmp_path, build, *shapes)
    rule = TARGET.rule(op_type)
    assert counts[rule.fused_as] == 1, counts
    if rule.fused_as != op_type:
        assert counts[op_type] == 0, counts
    # Only the quantizers at the doors of the graph are left.
    assert counts["QuantizeLinear"] == len(shapes), counts
    assert counts["DequantizeLinear"] == (2 if op_type == "Split" else 1), counts


@pytest.mark.parametrize("rule", [rule for rule in TARGET.operators if rule.on_codes], ids=lambda rule: rule.op_type)
def test_operators_marked_on_codes_are_not_moved_through(tmp_path, rule):
    arguments = (PADS,) if rule.op_type == "Pad" else ()
    attributes = {} if rule.op_type == "Pad" else {"blocksize": 2}
    counts = optimised(tmp_path, unary(rule.op_type, *arguments, **attributes), IMAGE)
    assert counts["QuantizeLinear"] == 2, counts


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"group": 2}, IMAGE),
        ({"group": 8}, IMAGE),
        ({"dims": 1}, ("N", 8, 12)),
        ({"dims": 3}, ("N", 8, 6, 6, 6)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, IMAGE),
        ({"int4": True}, IMAGE),
    ],
)
def test_every_kind_of_conv_fuses(tmp_path, arguments, shape):
    counts = optimised(tmp_path, lambda graph, x: graph.qdq(graph.conv(x, **arguments)), shape)
    assert (counts["QLinearConv"], counts["Conv"]) == (1, 0), counts


def test_a_bias_of_another_scale_keeps_the_conv_float(tmp_path):
    counts = optimised(tmp_path, lambda graph, x: graph.qdq(graph.conv(x, bias_scale=0.0003)), IMAGE)
    assert counts["QLinearConv"] == 0


@pytest.mark.parametrize(
    ("op_type", "build", "shape"),
    [("Conv", Graph.conv, IMAGE), ("Gemm", gemm, ("N", 16)), ("MatMul", matmul, ("N", 5, 16))],
)
def test_float_output_column(tmp_path, op_type, build, shape):
    counts = optimised(tmp_path, build, shape)
    assert (counts[op_type] == 0) == TARGET.rule(op_type).float_output, counts


@pytest.mark.parametrize(("zero_point", "swallowed"), [(0, True), (5, False)])
@pytest.mark.parametrize("producer", ["conv", "add"])
def test_relu_is_swallowed_at_zero_point_zero(tmp_path, zero_point, swallowed, producer):
    def build(graph, x):
        made = graph.conv(x) if producer == "conv" else graph.op("Add", [graph.qdq(x), graph.qdq(x, 0.03)])
        return graph.qdq(graph.op("Relu", [made]), 0.02, zero_point)

    counts = optimised(tmp_path, build, IMAGE)
    assert (counts["QLinearConv"] + counts["QLinearAdd"] == 1) == swallowed, counts


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0, 6, 6 / 255, 0),
        (0, 6, 0.02, 0),
        (0, 6, 6 / 254.6, 0),
        (0, 6, 6 / 254.4, 0),
        (0, 6, 0.03, 0),
        (0, 6, 0.02, 5),
        (-1, 1, 1 / 128, 128),
        (-1, 1, 1 / 126, 128),
        (-1, 6, 0.02, 10),
        (0.1, 6, 0.02, 0),
    ],
)
def test_clip_is_swallowed_when_its_limits_land_on_the_ends_of_the_grid(tmp_path, low, high, scale, zero_point):
    def build(graph, x):
        limits = [graph.constant(np.float32(low)), graph.constant(np.float32(high))]
        return graph.qdq(graph.op("Clip", [graph.conv(x), *limits]), scale, zero_point)

    step = np.float32(scale)
    expected = np.rint(low / step) + zero_point <= 0 and np.rint(high / step) + zero_point >= 255
    counts = optimised(tmp_path, build, IMAGE)
    assert (counts["QLinearConv"] == 1) == expected, counts


@pytest.mark.parametrize(
    "build",
    [
        unary("Tanh"),
        unary("HardSigmoid"),
        unary("GlobalMaxPool"),
        unary("ReduceMean", ints(2, 3)),
        lambda graph, x: resize(graph, x, "linear"),
    ],
    ids=["Tanh", "HardSigmoid", "GlobalMaxPool", "ReduceMean", "Resize linear"],
)
def test_operators_without_a_row_stay_float(tmp_path, build):
    assert optimised(tmp_path, build, IMAGE)["QuantizeLinear"] == 2


def test_sixteen_bit_activations_keep_the_conv_float(tmp_path):
    def build(graph, x):
        parameters = [graph.constant(np.float32(0.0001)), graph.constant(np.uint16(32768))]

        def wide(value):
            return graph.op("DequantizeLinear", [graph.op("QuantizeLinear", [value, *parameters]), *parameters])

        return wide(graph.op("Conv", [wide(x), graph.weight((8, 8, 3, 3)), graph.bias(8, 0.000001)]))

    counts = optimised(tmp_path, build, IMAGE)
    assert (counts["QLinearConv"], counts["QuantizeLinear"]) == (0, 2), counts
    assert TARGET.wide_activation_bits == 0


def test_narrow_activations_fuse_as_uint8_behind_a_clip(tmp_path):
    def narrow(graph, value):
        parameters = [graph.constant(np.float32(0.02)), graph.constant(np.uint8(8))]
        codes = graph.op("QuantizeLinear", [value, *parameters])
        limits = [graph.constant(np.uint8(0)), graph.constant(np.uint8(15))]
        return graph.op("DequantizeLinear", [graph.op("Clip", [codes, *limits]), *parameters])

    def build(graph, x):
        made = graph.op("Conv", [narrow(graph, x), graph.weight((8, 8, 3, 3)), graph.bias(8)])
        return narrow(graph, made)

    assert optimised(tmp_path, build, IMAGE)["QLinearConv"] == 1


def test_constant_operands_of_add_must_be_uint8(tmp_path):
    def build(dtype):
        def inner(graph, x):
            codes = graph.constant(np.ones((1, 8, 1, 1), dtype))
            parameters = [graph.constant(np.float32(0.02)), graph.constant(dtype(0))]
            return graph.qdq(graph.op("Add", [graph.qdq(x), graph.op("DequantizeLinear", [codes, *parameters])]))

        return inner

    assert optimised(tmp_path, build(np.uint8), IMAGE)["QLinearAdd"] == 1
    assert optimised(tmp_path, build(np.int8), IMAGE)["QLinearAdd"] == 0


@pytest.mark.parametrize(("op_type", "axis"), [("ConvTranspose", 1), ("Conv", 0), ("Gemm", 1)])
def test_float_weights_between_quantizers_do_not_stay_float(tmp_path, op_type, axis):
    """Why ConvTranspose has a row: what the runtime does to a float weight, but not to a quantized one."""
    shape, constant = ((8, 8, 2, 2), IMAGE) if op_type != "Gemm" else ((16, 8), ("N", 16))
    rng = np.random.default_rng(1)

    def build(quantized):
        def inner(graph, x):
            weight = graph.weight(shape, axis=axis) if quantized else graph.constant(rng.random(shape, np.float32))
            return graph.qdq(graph.op(op_type, [graph.qdq(x), weight]))

        return inner

    optimised(tmp_path, build(False), constant)
    stored = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    weights = [tensor for tensor in stored if len(tensor.dims) > 1]
    assert [tensor.data_type for tensor in weights] == [TensorProto.INT8]
    scales = [tensor for tensor in stored if tensor.data_type == TensorProto.FLOAT and tensor.dims == [8]]
    assert scales == []  # one scale for the whole weight
    optimised(tmp_path, build(True), constant)
    stored = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    assert any(tensor.data_type == TensorProto.FLOAT and list(tensor.dims) == [8] for tensor in stored)
