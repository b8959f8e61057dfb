"""Sets of ONNX operators, by what they have in common."""

STANDARD_DOMAINS = ("", "ai.onnx")
"""Domains of ONNX's own operators."""

BODY_DOMAIN = "zsq_compile.body"
"""Domain of the functions that hold control flow inside the compiler (see ``outline_bodies``)."""

CONVOLUTIONS = ("Conv", "ConvTranspose")
DENSE = ("Gemm", "MatMul")
WEIGHTED = (*CONVOLUTIONS, *DENSE)
"""Layers: the second input is the weight, where it is constant."""

WITH_BIAS = (*CONVOLUTIONS, "Gemm")
"""Layers whose third input is a bias."""

RECURRENT = ("LSTM", "GRU", "RNN")
"""Layers whose second and third inputs are weights, (directions, rows, columns)."""

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
INTEGER = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
"""Standard operators that compute codes, or with codes, beside the QUANTIZERS."""

REARRANGING = ("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice")
DATA_MOVEMENT = (
    *REARRANGING,
    *("Split", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
)
"""Every output element is an element of the first input."""

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
