"""Which operators the executor in torch has, known without importing torch.

A test compares this list with the executor's own table.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from passes.operators import BODY_DOMAIN
from passes.surgery import inner_nodes, read_values
from zsq_compile.errors import UnsupportedModelError

NEWEST_VERSION = 28
"""Newest opset whose operator versions the executor was checked against."""

_NAMES = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike
    CausalConvWithState Ceil Celu CenterCropPad Clip Col2Im Compress Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization
    IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop
    LpNormalization LpPool MatMul Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
    NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear
    RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding
    Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh
    TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""

EXECUTABLE = frozenset(_NAMES.split())
"""Operators that the executor has every version of that holds in an opset from 21 to NEWEST_VERSION."""

_SIZES = ("Shape", "Size")


def version_of(node: ir.Node, opset: int) -> int:
    """Return the version of an operator at an opset; where the installed onnx does not know it, the opset itself."""
    try:
        return int(onnx.defs.get_schema(node.op_type, opset).since_version)
    except onnx.defs.SchemaError:
        return opset


def require_executable(model: ir.Model, path: Path) -> None:
    """Refuse a model of opset 21 or later with an operator, or a version of one, that the executor lacks.

    What is computed from sizes and constants alone may be folded later, and is not looked at.

    Raises:
        UnsupportedModelError: with the first such node.

    """
    opset = model.graph.opset_imports[""]
    functions = (
        inner for function in model.functions.values() for one in function for inner in (one, *inner_nodes(one))
    )
    for node in itertools.chain(_computed(model.graph), functions):
        if node.domain == BODY_DOMAIN:
            continue
        version = version_of(node, opset)
        if node.op_type in EXECUTABLE and version <= NEWEST_VERSION:
            continue
        what = f"version {version} of {node.op_type}" if node.op_type in EXECUTABLE else node.op_type
        raise UnsupportedModelError(
            f"{path} cannot be quantized: there is no torch kernel for {what} (node '{node.name}'), and quantizing "
            "needs one of every operator. Cut the model before this node, or export it without"
        )


def _computed(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes that read a graph input or what was computed from one, and those in their bodies."""
    computed: set[ir.Value] = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if node.op_type not in _SIZES and not computed.isdisjoint(read_values(node)):
            computed.update(node.outputs)
            yield node
            yield from inner_nodes(node)
