"""Older operator versions, which ONNX's node tests do not cover. Oracle: ONNX Runtime, relative and absolute 1e-5."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto

from backends.session import open_session
from tests.zsq_compile.differentiable.single_node import build, floats, image, ints
from zsq_compile.differentiable.module import TorchGraph

BATCH_NORM = {"scale": image(3), "shift": image(3), "mean": image(3), "variance": np.abs(image(3))}
OLD = {
    "Add-7": build("Add", 7, {"a": image(2, 3, 4), "b": image(3, 1)}, {}),
    "Sum-8": build("Sum", 8, {"a": image(2, 3, 4), "b": image(3, 1)}, {}),
    "Mean-8": build("Mean", 8, {"a": image(2, 3, 4), "b": image(3, 1)}, {}),
    "Max-8": build("Max", 8, {"a": image(2, 3, 4), "b": image(3, 1)}, {}),
    "Pow-7": build("Pow", 7, {"a": np.abs(image(2, 3))}, {"b": floats(0.5)}),
    "BatchNormalization-7": build("BatchNormalization", 7, {"x": image(2, 3, 4, 5)}, BATCH_NORM, epsilon=1e-3),
    "BatchNormalization-9": build("BatchNormalization", 9, {"x": image(2, 3, 4, 5)}, BATCH_NORM),
    "BatchNormalization-9, no spatial axes": build("BatchNormalization", 9, {"x": image(2, 3)}, BATCH_NORM),
    "Clip-6": build("Clip", 6, {"x": image(2, 3)}, {}, min=-0.5, max=0.25),
    "Clip-6, one limit": build("Clip", 6, {"x": image(2, 3)}, {}, max=0.25),
    "Dropout-7": build("Dropout", 7, {"x": image(2, 3)}, {}, ratio=0.5),
    "Dropout-10": build("Dropout", 10, {"x": image(2, 3)}, {}, ratio=0.5),
    "Gemm-7": build("Gemm", 7, {"a": image(3, 2)}, {"b": image(4, 3), "c": image(2, 1)}, transA=1, transB=1, alpha=0.5),
    "Softmax-1": build("Softmax", 7, {"x": image(2, 3, 4)}, {}),
    "Softmax-11": build("Softmax", 11, {"x": image(2, 3, 4)}, {}, axis=0),
    "Softmax-11, last axis": build("Softmax", 11, {"x": image(2, 3, 4)}, {}, axis=2),
    "LogSoftmax-11": build("LogSoftmax", 11, {"x": image(2, 3, 4)}, {}, axis=1),
    "Hardmax-11": build("Hardmax", 11, {"x": image(2, 3, 4)}, {}, axis=1),
    "Pad-2": build("Pad", 2, {"x": image(2, 3)}, {}, pads=[0, 1, 2, 0], value=1.5),
    "Pad-2, cropping": build("Pad", 2, {"x": image(4, 5)}, {}, pads=[-1, 0, 2, -2]),
    "Pad-2, reflect": build("Pad", 2, {"x": image(1, 2, 4, 5)}, {}, pads=[0, 0, 1, 2, 0, 0, 3, 1], mode="reflect"),
    "Pad-11, edge": build("Pad", 11, {"x": image(3, 4)}, {"pads": ints(1, 0, 0, 2)}, mode="edge"),
    "Slice-1": build("Slice", 9, {"x": image(4, 5, 6)}, {}, starts=[1, -3], ends=[1000, -1], axes=[0, 2]),
    "Slice-1, all axes": build("Slice", 9, {"x": image(4, 5)}, {}, starts=[1, 2], ends=[3, 4]),
    "Split-2": build("Split", 2, {"x": image(2, 6)}, {}, outputs=3, axis=1),
    "Split-2, sizes": build("Split", 11, {"x": image(2, 6)}, {}, outputs=2, axis=-1, split=[1, 5]),
    "Squeeze-1": build("Squeeze", 11, {"x": image(1, 3, 1, 2)}, {}, axes=[0, -2]),
    "Squeeze-1, all": build("Squeeze", 1, {"x": image(1, 3, 1, 2)}, {}),
    "Unsqueeze-1": build("Unsqueeze", 11, {"x": image(3, 2)}, {}, axes=[0, -1]),
    "TopK-1": build("TopK", 9, {"x": image(3, 7)}, {}, outputs=2, k=3),
    "TopK-10": build("TopK", 10, {"x": image(3, 7)}, {"k": ints(2)}, outputs=2, axis=0),
    "Upsample-7": build("Upsample", 7, {"x": image(1, 2, 3, 4)}, {}, scales=[1.0, 1.0, 2.0, 3.0]),
    "Upsample-7, linear": build(
        "Upsample", 7, {"x": image(1, 2, 3, 4)}, {}, scales=[1.0, 1.0, 2.0, 2.5], mode="linear"
    ),
    "Upsample-9": build("Upsample", 9, {"x": image(1, 2, 3, 4)}, {"s": floats(1.0, 1.0, 1.5, 2.0)}),
    "Upsample-9, linear": build("Upsample", 9, {"x": image(1, 2, 3, 4)}, {"s": floats(1, 1, 2, 2)}, mode="linear"),
    "Resize-10": build("Resize", 10, {"x": image(1, 2, 6, 8)}, {"s": floats(1.0, 1.0, 0.5, 0.7)}),
    "Resize-10, linear": build("Resize", 10, {"x": image(1, 2, 6, 8)}, {"s": floats(1, 1, 0.5, 2)}, mode="linear"),
    "ReduceMean-1": build("ReduceMean", 11, {"x": image(2, 3, 4)}, {}, axes=[-1, 0], keepdims=0),
    "ReduceSum-11, all": build("ReduceSum", 11, {"x": image(2, 3, 4)}, {}),
    "ReduceMax-13": build("ReduceMax", 13, {"x": image(2, 3, 4)}, {}, axes=[1]),
    "ReduceL2-11": build("ReduceL2", 11, {"x": image(2, 3, 4)}, {}, axes=[1], keepdims=0),
    "ReduceProd-11": build("ReduceProd", 11, {"x": image(2, 3, 4)}, {}, axes=[1, 2]),
    "ReduceLogSumExp-11": build("ReduceLogSumExp", 11, {"x": image(2, 3, 4)}, {}, axes=[2]),
    "GlobalLpPool-2": build("GlobalLpPool", 11, {"x": image(2, 3, 4, 5)}, {}, p=3),
    "LpPool-2": build(
        "LpPool", 10, {"x": image(1, 2, 6, 6)}, {}, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 0, 1]
    ),
    "MaxPool-1": build(
        "MaxPool", 7, {"x": image(1, 2, 7, 6)}, {}, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "AveragePool-7": build("AveragePool", 7, {"x": image(1, 2, 7, 6)}, {}, kernel_shape=[3, 2], pads=[0, 1, 1, 0]),
    "AveragePool-10, ceil": build(
        "AveragePool", 10, {"x": image(1, 2, 7, 6)}, {}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
    "Conv-1, uneven pads": build(
        "Conv", 9, {"x": image(1, 4, 7, 6)}, {"w": image(6, 2, 3, 3), "b": image(6)}, group=2, pads=[0, 1, 2, 0]
    ),
    "Conv-1, same lower": build(
        "Conv", 9, {"x": image(1, 2, 7, 6)}, {"w": image(3, 2, 4, 3)}, auto_pad="SAME_LOWER", strides=[2, 1]
    ),
    "ConvTranspose-1": build(
        "ConvTranspose",
        9,
        {"x": image(1, 4, 5, 6)},
        {"w": image(4, 2, 3, 3), "b": image(4)},
        group=2,
        strides=[2, 2],
        pads=[0, 1, 1, 1],
        output_padding=[1, 0],
    ),
    "ConvTranspose-1, same": build(
        "ConvTranspose", 9, {"x": image(1, 2, 5, 6)}, {"w": image(2, 3, 3, 3)}, auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "InstanceNormalization-6": build(
        "InstanceNormalization", 9, {"x": image(2, 3, 4, 5)}, {"s": image(3), "b": image(3)}
    ),
    "PRelu-7": build("PRelu", 7, {"x": image(2, 3, 4)}, {"slope": image(3, 1)}),
    "Flatten-1": build("Flatten", 7, {"x": image(2, 3, 4)}, {}, axis=2),
    "RoiAlign-10": build(
        "RoiAlign",
        10,
        {"x": image(2, 3, 6, 7), "boxes": np.abs(4 * image(3, 4)) + floats(0, 0, 3, 3)},
        {"which": ints(0, 1, 1)},
        output_height=3,
        output_width=2,
        sampling_ratio=2,
        spatial_scale=0.7,
    ),
    "RoiAlign-16, adaptive": build(
        "RoiAlign",
        16,
        {"x": image(2, 3, 6, 7), "boxes": np.abs(4 * image(3, 4)) + floats(0, 0, 3, 3)},
        {"which": ints(0, 1, 1)},
        output_height=3,
        output_width=2,
        mode="avg",
    ),
    "Unique-11, in order": build("Unique", 11, {"x": floats(2, 1, 1, 3, 4, 3)}, {}, outputs=4, sorted=0),
    "Gather-1": build("Gather", 9, {"x": image(4, 5)}, {"i": np.array([[0, 2], [1, 1]], np.int64)}, axis=1),
    "Gather-11, negative": build("Gather", 11, {"x": image(4, 5)}, {"i": np.array(-1, np.int64)}, axis=0),
    "ArgMax-11": build("ArgMax", 11, {"x": image(3, 4)}, {}, axis=1, keepdims=0),
    "CumSum-11": build("CumSum", 11, {"x": image(3, 4)}, {"axis": np.array(1, np.int64)}, exclusive=1, reverse=1),
    "Scatter-9": build("Scatter", 9, {"x": image(3, 4)}, {"i": np.array([[0, 2]], np.int64), "u": image(1, 2)}, axis=1),
    "OneHot-9": build("OneHot", 9, {"i": ints(0, 2, -1)}, {"depth": ints(3), "v": floats(0, 1)}, axis=0),
    "Cast-6": build("Cast", 6, {"x": 3 * image(3, 4)}, {}, to=TensorProto.INT32),
    "DepthToSpace-11": build("DepthToSpace", 11, {"x": image(1, 8, 2, 3)}, {}, blocksize=2, mode="CRD"),
    "LSTM-7": build(
        "LSTM",
        7,
        {"x": image(5, 2, 3)},
        {"w": image(2, 16, 3), "r": image(2, 16, 4), "b": image(2, 32)},
        outputs=3,
        hidden_size=4,
        direction="bidirectional",
    ),
    "GRU-7": build(
        "GRU",
        7,
        {"x": image(5, 2, 3)},
        {"w": image(1, 12, 3), "r": image(1, 12, 4), "b": image(1, 24)},
        outputs=2,
        hidden_size=4,
        direction="reverse",
        linear_before_reset=1,
    ),
    "RNN-7": build(
        "RNN",
        7,
        {"x": image(5, 2, 3)},
        {"w": image(1, 4, 3), "r": image(1, 4, 4)},
        outputs=2,
        hidden_size=4,
        activations=["Relu"],
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_version_agrees_with_onnx_runtime(name: str) -> None:
    model = OLD[name]
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            feeds[value.name] = ints(0, 2, -1)
            continue
        feeds[value.name] = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        if name.startswith("Pow"):
            feeds[value.name] = np.abs(feeds[value.name])
    graph = TorchGraph(ir.from_proto(model))
    got = graph.run({key: torch.from_numpy(array) for key, array in feeds.items()})
    for output, expected in open_session(model, threads=1).run(feeds).items():
        np.testing.assert_allclose(got[output].numpy(), expected, rtol=1e-5, atol=1e-5)
        assert got[output].numpy().dtype == expected.dtype
