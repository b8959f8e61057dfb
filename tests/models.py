"""Tiny networks written as ONNX text, shared by all tests.

Weights are declared without values behind the graph's outputs and filled here, always the same way, by what their names
say: a rank of two or more is scaled to keep the signal's variance, ``*variance*`` and ``*scale*`` are positive.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import open_session

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parse(text: str, *, seed: int = 0, weights: Mapping[str, NDArray[np.generic]] | None = None) -> onnx.ModelProto:
    """Parse a graph, or a whole model if the text brings its own header, and give every declared weight a value."""
    model = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEADER + text)
    graph = model.graph
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.output}
    declared = [value for value in graph.value_info if value.name not in made]
    rng = np.random.default_rng(seed)
    for value in declared:
        tensor_type = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor_type.shape.dim)
        array = _draw(value.name, shape, rng)
        if weights and value.name in weights:
            array = np.asarray(weights[value.name])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
        graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype).reshape(shape), value.name))
        graph.value_info.remove(value)
    onnx.checker.check_model(model, full_check=True)
    return model


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    if "variance" in name or "scale" in name:
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) >= 2:
        return rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    return 0.3 * rng.standard_normal(shape)


def conv_bn_relu(*, seed: int = 0) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu: (N, 3, 8, 8) -> (N, 8, 8, 8)."""
    return parse(
        """
        conv_bn_relu (float[N,3,8,8] x) => (float[N,8,8,8] y)
        <float[8,3,3,3] w, float[8] b, float[8] scale, float[8] shift, float[8] mean, float[8] variance>
        {
            [conv] c = Conv<pads=[1,1,1,1]>(x, w, b)
            [bn] n = BatchNormalization<epsilon=0.001>(c, scale, shift, mean, variance)
            [relu] y = Relu(n)
        }
        """,
        seed=seed,
    )


def residual(*, seed: int = 0) -> onnx.ModelProto:
    """A residual block with a classifier: (N, 3, 8, 8) -> (N, 5) logits; three Conv with BN, one Gemm."""
    return parse(
        """
        residual (float[N,3,8,8] x) => (float[N,5] logits)
        <float[8,3,3,3] w0, float[8] scale0, float[8] shift0, float[8] mean0, float[8] variance0,
         float[8,8,3,3] w1, float[8] scale1, float[8] shift1, float[8] mean1, float[8] variance1,
         float[8,8,3,3] w2, float[8] scale2, float[8] shift2, float[8] mean2, float[8] variance2,
         float[5,8] w3, float[5] b3>
        {
            [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0)
            [bn0] n0 = BatchNormalization(c0, scale0, shift0, mean0, variance0)
            [relu0] r0 = Relu(n0)
            [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1)
            [bn1] n1 = BatchNormalization(c1, scale1, shift1, mean1, variance1)
            [relu1] r1 = Relu(n1)
            [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2)
            [bn2] n2 = BatchNormalization(c2, scale2, shift2, mean2, variance2)
            [add] a = Add(n2, r0)
            [relu2] r2 = Relu(a)
            [pool] p = GlobalAveragePool(r2)
            [flatten] f = Flatten(p)
            [gemm] logits = Gemm<transB=1>(f, w3, b3)
        }
        """,
        seed=seed,
    )


def depthwise(*, seed: int = 0) -> onnx.ModelProto:
    """Depthwise separable convolutions with ReLU6 and a strided, unevenly padded stem: (N, 3, 9, 9) -> (N, 5)."""
    return parse(
        """
        depthwise (float[N,3,9,9] x) => (float[N,5] logits)
        <float low = {0.0}, float high = {6.0},
         float[8,3,3,3] w0, float[8] scale0, float[8] shift0, float[8] mean0, float[8] variance0,
         float[8,1,3,3] w1, float[8] scale1, float[8] shift1, float[8] mean1, float[8] variance1,
         float[12,8,1,1] w2, float[12] scale2, float[12] shift2, float[12] mean2, float[12] variance2,
         float[5,12] w3, float[5] b3>
        {
            [conv0] c0 = Conv<pads=[0,0,1,1], strides=[2,2]>(x, w0)
            [bn0] n0 = BatchNormalization(c0, scale0, shift0, mean0, variance0)
            [clip0] r0 = Clip(n0, low, high)
            [conv1] c1 = Conv<pads=[1,1,1,1], group=8>(r0, w1)
            [bn1] n1 = BatchNormalization(c1, scale1, shift1, mean1, variance1)
            [clip1] r1 = Clip(n1, low, high)
            [conv2] c2 = Conv(r1, w2)
            [bn2] n2 = BatchNormalization(c2, scale2, shift2, mean2, variance2)
            [clip2] r2 = Clip(n2, low, high)
            [pool] p = GlobalAveragePool(r2)
            [flatten] f = Flatten(p)
            [gemm] logits = Gemm<transB=1>(f, w3, b3)
        }
        """,
        seed=seed,
    )


def branches(*, seed: int = 0) -> onnx.ModelProto:
    """Concat of two branches, MaxPool, no BatchNormalization: (N, 1, 8, 8) -> (N, 4)."""
    return parse(
        """
        branches (float[N,1,8,8] x) => (float[N,4] y)
        <float[4,1,3,3] w0, float[4] b0, float[4,1,1,1] w1, float[4] b1, float[4,8,3,3] w2, float[4] b2,
         int64[2] shape = {0, -1}, float[64,4] w3, float[4] b3>
        {
            [left] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
            [left_relu] r0 = Relu(c0)
            [right] c1 = Conv(x, w1, b1)
            [right_relu] r1 = Relu(c1)
            [concat] j = Concat<axis=1>(r0, r1)
            [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(j)
            [conv] c2 = Conv<pads=[1,1,1,1]>(p, w2, b2)
            [relu] r2 = Relu(c2)
            [reshape] f = Reshape(r2, shape)
            [gemm] y = Gemm(f, w3, b3)
        }
        """,
        seed=seed,
    )


def padded(*, seed: int = 0) -> onnx.ModelProto:
    """A Pad between two convolutions, unevenly: (N, 2, 6, 6) -> (N, 3, 4, 4)."""
    return parse(
        """
        padded (float[N,2,6,6] x) => (float[N,3,4,4] y)
        <float[4,2,3,3] w0, float[4] b0, int64[8] pads = {0,0,1,1,0,0,1,1}, float[3,4,3,3] w1, float[3] b1>
        {
            [first] c = Conv(x, w0, b0)
            [relu] r = Relu(c)
            [pad] p = Pad(r, pads)
            [second] y = Conv(p, w1, b1)
        }
        """,
        seed=seed,
    )


def graph(text: str, *, seed: int = 0, weights: Mapping[str, NDArray[np.generic]] | None = None) -> ir.Model:
    """The same as ``parse``, for passes."""
    return ir.from_proto(parse(text, seed=seed, weights=weights))


def operators(model: ir.Model) -> list[str]:
    """Operators of the main graph, in order."""
    return [node.op_type for node in model.graph]


def random_feeds(model: onnx.ModelProto, *, batch: int = 2, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Random numbers for every graph input; sizes that are open become ``batch``."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    made: dict[str, NDArray[np.generic]] = {}
    for value in model.graph.input:
        if value.name not in constants:
            tensor_type = value.type.tensor_type
            shape = [dim.dim_value if dim.HasField("dim_value") else batch for dim in tensor_type.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
            made[value.name] = (2.0 * rng.standard_normal(shape)).astype(dtype)
    return made


def to_proto(model: onnx.ModelProto | ir.Model) -> onnx.ModelProto:
    """The model as protobuf, whichever it is."""
    return model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)


def largest_difference(before: onnx.ModelProto | ir.Model, after: onnx.ModelProto | ir.Model) -> float:
    """Run both in ONNX Runtime on one random batch: largest difference of any output, relative to its magnitude.

    The runtime's own rewriting is off: it would do to the first model what the pass did to the second, right or wrong.
    """
    one, other = to_proto(before), to_proto(after)
    feeds = random_feeds(one)
    expected, got = (open_session(model, threads=1, optimize="none").run(feeds) for model in (one, other))
    assert list(expected) == list(got), "the graph outputs changed"
    ratios = []
    for name, array in expected.items():
        assert array.shape == got[name].shape, f"the shape of {name} changed"
        ratios.append(np.abs(array - got[name]).max(initial=0.0) / max(float(np.abs(array).max(initial=0.0)), 1e-30))
    return float(max(ratios))
