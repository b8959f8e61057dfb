"""Gradients against finite differences (torch.autograd.gradcheck, double precision) through whole TorchGraph runs."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from tests.zsq_compile.differentiable.single_node import build, floats, image, ints
from zsq_compile.differentiable.module import TorchGraph

PICTURE = {"x": image(2, 4, 5, 6)}
ATTENTION = {"q": image(1, 2, 3, 4), "k": image(1, 2, 5, 4), "v": image(1, 2, 5, 3)}
STATISTICS = {"scale": image(4), "shift": image(4), "mean": image(4), "variance": np.abs(image(4)) + 0.5}
UNARY = (
    "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Mish", "LeakyRelu", "Elu", "Celu", "Selu", "Softplus",
    "Softsign", "ThresholdedRelu", "Shrink", "Gelu", "Exp", "Erf", "Neg", "Abs", "Sin", "Cos", "Atan", "Reciprocal",
    "Softmax", "LogSoftmax", "GlobalAveragePool", "GlobalMaxPool", "LpNormalization", "MeanVarianceNormalization",
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
    "Transpose", "Flatten", "Identity",
)  # fmt: skip
MODELS = {
    **{name: build(name, 22, PICTURE, {}) for name in UNARY},
    **{
        name: build(name, 22, {"x": np.abs(image(3, 4)) + 0.5}, {})
        for name in ("Sqrt", "Log", "ReduceLogSum", "ReduceProd")
    },
    **{
        name: build(name, 22, {"a": image(2, 3, 4), "b": np.abs(image(3, 1)) + 0.5}, {})
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")
    },
    "Pow": build("Pow", 22, {"a": np.abs(image(2, 3)) + 0.5, "b": image(3)}, {}),
    "Pow by a constant": build("Pow", 22, {"a": image(2, 3)}, {"b": floats(3)}),
    "Swish": build("Swish", 24, PICTURE, {}, alpha=1.5),
    "PRelu": build("PRelu", 22, {**PICTURE, "slope": image(4, 1, 1)}, {}),
    "Clip with limits": build("Clip", 22, {**PICTURE, "low": np.float32(-0.5), "high": np.float32(0.7)}, {}),
    "Clip by constants": build("Clip", 22, PICTURE, {"low": np.float32(-0.5), "high": np.float32(0.7)}),
    "Where": build("Where", 22, {"a": image(2, 3), "b": image(3)}, {}),
    "Conv": build("Conv", 22, {**PICTURE, "w": image(6, 2, 3, 3), "b": image(6)}, {}, group=2, pads=[1, 1, 1, 1]),
    "Conv, uneven pads": build("Conv", 22, {**PICTURE, "w": image(3, 4, 3, 2)}, {}, pads=[0, 1, 2, 0], strides=[2, 1]),
    "Conv, one axis": build("Conv", 22, {"x": image(2, 3, 7), "w": image(3, 1, 3)}, {}, group=3, dilations=[2]),
    "Conv, three axes": build("Conv", 22, {"x": image(1, 2, 3, 4, 3), "w": image(2, 2, 2, 2, 2)}, {}),
    "ConvTranspose": build("ConvTranspose", 22, {**PICTURE, "w": image(4, 2, 3, 3), "b": image(2)}, {}, strides=[2, 2]),
    "ConvTranspose, uneven": build(
        "ConvTranspose", 22, {**PICTURE, "w": image(4, 2, 3, 3), "b": image(2)}, {}, pads=[0, 1, 1, 0]
    ),
    "Gemm": build("Gemm", 22, {"a": image(2, 3), "b": image(4, 3), "c": image(4)}, {}, transB=1),
    "Gemm, scaled": build(
        "Gemm", 22, {"a": image(3, 2), "b": image(3, 4), "c": image(4)}, {}, transA=1, alpha=0.5, beta=2.0
    ),
    "MatMul": build("MatMul", 22, {"a": image(2, 1, 3, 4), "b": image(2, 4, 2)}, {}),
    "Einsum": build("Einsum", 22, {"a": image(2, 3, 4), "b": image(2, 4, 5)}, {}, equation="bij, bjk -> bik"),
    "BatchNormalization": build("BatchNormalization", 15, PICTURE, STATISTICS),
    "BatchNormalization, everything": build("BatchNormalization", 15, {**PICTURE, **STATISTICS}, {}),
    "InstanceNormalization": build("InstanceNormalization", 22, {**PICTURE, "s": image(4), "b": image(4)}, {}),
    "LayerNormalization": build("LayerNormalization", 22, {**PICTURE, "s": image(6), "b": image(6)}, {}),
    "LayerNormalization, statistics": build("LayerNormalization", 22, {**PICTURE, "s": image(6)}, {}, outputs=3),
    "GroupNormalization": build("GroupNormalization", 22, {**PICTURE, "s": image(4), "b": image(4)}, {}, num_groups=2),
    "RMSNormalization": build("RMSNormalization", 23, {**PICTURE, "s": image(6)}, {}),
    "LRN": build("LRN", 22, PICTURE, {}, size=3),
    "MaxPool": build("MaxPool", 22, PICTURE, {}, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    "AveragePool": build("AveragePool", 22, PICTURE, {}, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool, ceil": build("AveragePool", 22, PICTURE, {}, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    "LpPool": build("LpPool", 22, PICTURE, {}, kernel_shape=[2, 2]),
    "Pad": build("Pad", 22, PICTURE, {"pads": ints(0, 0, 1, 2, 0, 0, 0, -1)}),
    "Pad, reflect": build("Pad", 22, PICTURE, {"pads": ints(0, 0, 1, 2, 0, 0, 3, 1)}, mode="reflect"),
    "Pad, edge": build("Pad", 22, PICTURE, {"pads": ints(1, 0, 1, 2, 0, 0, 3, 1)}, mode="edge"),
    "Resize, nearest": build("Resize", 22, PICTURE, {"roi": floats(), "s": floats(1, 1, 2, 1.5)}),
    "Resize, linear": build("Resize", 22, PICTURE, {"roi": floats(), "s": floats(1, 1, 2, 1.5)}, mode="linear"),
    "Resize, cubic": build(
        "Resize", 22, PICTURE, {"roi": floats(), "s": floats(1, 1, 0.6, 1.5)}, mode="cubic", antialias=1
    ),
    "GridSample": build("GridSample", 22, {"x": image(1, 2, 4, 4), "g": 0.3 * image(1, 3, 2, 2)}, {}),
    "DepthToSpace": build("DepthToSpace", 22, PICTURE, {}, blocksize=2),
    "SpaceToDepth": build("SpaceToDepth", 22, {"x": image(1, 2, 4, 6)}, {}, blocksize=2),
    "Reshape": build("Reshape", 22, PICTURE, {"shape": ints(0, -1, 3)}),
    "Slice": build("Slice", 22, PICTURE, {"s": ints(0, -1), "e": ints(3, -99), "a": ints(2, 3), "t": ints(2, -2)}),
    "Concat": build("Concat", 22, {"a": image(2, 3), "b": image(2, 1)}, {}, axis=1),
    "Split": build("Split", 22, PICTURE, {"sizes": ints(1, 3)}, outputs=2, axis=1),
    "Expand": build("Expand", 22, {"x": image(3, 1)}, {"shape": ints(2, 1, 4)}),
    "Tile": build("Tile", 22, {"x": image(3, 2)}, {"repeats": ints(2, 1)}),
    "Gather": build("Gather", 22, PICTURE, {"i": np.array([[0, -1], [2, 2]])}, axis=1),
    "Col2Im": build(
        "Col2Im", 22, {"x": image(2, 12, 9)}, {"image": ints(4, 5), "block": ints(2, 3)}, pads=[0, 0, 0, 0]
    ),
    "DeformConv": build(
        "DeformConv",
        22,
        {**PICTURE, "w": image(6, 2, 2, 2), "offset": 0.3 * image(2, 16, 4, 5)},
        {},
        group=2,
        offset_group=2,
    ),
    "RoiAlign": build(
        "RoiAlign",
        22,
        PICTURE,
        {"boxes": floats(0.3, 0.7, 3.9, 4.1).reshape(1, 4), "which": ints(1)},
        output_height=2,
        output_width=2,
        sampling_ratio=2,
    ),
    "LinearAttention": build(
        "LinearAttention",
        27,
        {
            "q": image(2, 3, 8),
            "k": image(2, 3, 4),
            "v": image(2, 3, 6),
            "past": image(2, 2, 2, 3),
            "decay": -np.abs(image(2, 3, 2)),
            "beta": image(2, 3, 1),
        },
        {},
        q_num_heads=4,
        kv_num_heads=2,
    ),
    "CausalConvWithState": build(
        "CausalConvWithState", 27, {"x": image(2, 3, 5), "w": image(3, 1, 3)}, {}, activation="silu"
    ),
    "GatherElements": build("GatherElements", 22, {"x": image(3, 3)}, {"i": np.array([[0, -1], [2, 2]])}),
    "GatherND": build("GatherND", 22, {"x": image(3, 3, 2)}, {"i": np.array([[0, -1], [2, 2]])}),
    "ScatterElements": build(
        "ScatterElements", 22, {"x": image(3, 3)}, {"i": np.array([[0, 2]]), "u": image(1, 2)}, axis=1
    ),
    "ScatterND": build(
        "ScatterND", 22, {"x": image(3, 2)}, {"i": np.array([[0], [2]]), "u": image(2, 2)}, reduction="add"
    ),
    "TopK": build("TopK", 22, {"x": image(3, 5)}, {"k": ints(2)}, outputs=2),
    "CumSum": build("CumSum", 22, {"x": image(3, 5)}, {"axis": np.array(1)}, exclusive=1, reverse=1),
    "Attention": build("Attention", 24, ATTENTION, {}, is_causal=1, softcap=2.0),
    "LSTM": build("LSTM", 22, {"x": image(3, 2, 3), "w": image(1, 16, 3), "r": image(1, 16, 4)}, {}, outputs=3),
    "GRU": build("GRU", 22, {"x": image(3, 2, 3), "w": image(1, 12, 3), "r": image(1, 12, 4)}, {}, outputs=2),
    "DequantizeLinear": build("DequantizeLinear", 21, {"x": image(3, 4), "s": image(4), "z": image(4)}, {}),
    "DFT": build("DFT", 22, {"x": image(1, 8, 1)}, {}, onesided=1),
}


def in_double(model: onnx.ModelProto) -> TorchGraph:
    graph = TorchGraph(ir.from_proto(model))
    for name, tensor in graph.initializers.items():
        graph.initializers[name] = tensor.double() if tensor.is_floating_point() else tensor
    return graph


@pytest.mark.parametrize("name", MODELS)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    model = MODELS[name]
    if name == "Where":
        condition = build("Where", 22, {}, {"c": np.array([True, False, True])})
        model.graph.node[0].input.insert(0, "c")
        model.graph.initializer.extend(condition.graph.initializer)
    if name == "DequantizeLinear":
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    graph = in_double(model)
    rng = np.random.default_rng(2)
    inputs = []
    for value in model.graph.input:
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape)
        if value.name in ("variance", "low", "high") or name in (
            "Sqrt",
            "Log",
            "ReduceLogSum",
            "Pow",
            "Reciprocal",
            "Div",
        ):
            array = np.abs(array) + 0.5
        if value.name == "low":
            array = -array
        if value.name == "g":
            array = 0.3 * array
        inputs.append(torch.from_numpy(np.asarray(array)).requires_grad_())

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = graph.run(dict(zip(graph.input_names, tensors, strict=True)))
        return tuple(result for result in results.values() if result.is_floating_point())

    assert all(result.dtype == torch.float64 for result in run(*inputs))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
