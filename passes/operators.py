"""Sets of ONNX operators, by what they have in common."""

CONVOLUTIONS = ("Conv", "ConvTranspose")
DENSE = ("Gemm", "MatMul")
WEIGHTED = (*CONVOLUTIONS, *DENSE)
"""Layers: the second input is the weight, where it is constant."""

WITH_BIAS = (*CONVOLUTIONS, "Gemm")
"""Layers whose third input is a bias."""

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")

REARRANGING = ("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice")
DATA_MOVEMENT = (
    *REARRANGING,
    *("Split", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
)
"""Every output element is an element of the first input."""

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
