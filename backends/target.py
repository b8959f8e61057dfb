"""What a runtime can execute in integers: frozen values, read from the files in ``targets/``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

OperatorKind = Literal["weighted", "activation", "same_scale", "quantized"]
"""How a runtime treats an operator between DequantizeLinear and QuantizeLinear.

``weighted``   Conv, Gemm, MatMul: integer weights, and an int32 bias where the operator has one.
``activation`` Relu, Clip: fused into the layer before it; nothing is quantized between the two.
``same_scale`` MaxPool, Reshape...: passes codes on without changing them, so input and output share one scale.
``quantized``  Add, Concat...: has an integer kernel of its own, with a scale for each input and for the output.
"""

Structure = Literal["powers", "softmax_input", "decode_tail", "spectrum", "squeeze_excite", "attention", "first_layer"]
"""A part of a network that is recognised by what it computes (see ``passes/quantize/placement_rules.py``).

``powers``          squares, and sums of them, on the way to a root or a logarithm.
``softmax_input``   what nothing but a Softmax reads, behind masks and rescaling.
``decode_tail``     what turns the numbers of a detector's last layers into boxes, with what is joined to these.
``spectrum``        powers, and what makes the numbers that are squared for them.
``squeeze_excite``  the branch from the mean of each channel to the factor that the channel is multiplied by.
``attention``       products of two computed values in front of and behind a Softmax.
``first_layer``     a convolution that reads a graph input of few channels.
"""

BiasForm = Literal["int32", "float"]
Int4Form = Literal["cast", "native"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberFormat:
    """The integers that codes may be.

    Attributes:
        bits: width of a code, 2 to 16.
        signed: two's complement when True.
        symmetric: the zero point is ``middle``; else it is free.
        narrow: a signed format leaves out its lowest code, so that it is symmetric about 0.

    """

    bits: int
    signed: bool
    symmetric: bool
    narrow: bool = False

    @property
    def qmin(self) -> int:
        """Lowest code."""
        return -(1 << (self.bits - 1)) + int(self.narrow) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Highest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def levels(self) -> int:
        """Number of codes."""
        return self.qmax - self.qmin + 1

    @property
    def middle(self) -> int:
        """Zero point of a symmetric quantizer."""
        return 0 if self.signed else (self.qmax + 1) // 2

    def with_bits(self, bits: int) -> "NumberFormat":
        """Return the format at another width; only at its own is a signed format narrow."""
        return self if bits == self.bits else replace(self, bits=bits, narrow=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorRule:
    """One operator that the target executes in integers.

    Attributes:
        op_type: ONNX operator of the default domain.
        kind: see OperatorKind.
        fused_as: operator of the runtime's optimized graph into which it is fused, empty for none.
        inputs: positions of the inputs that are quantized; empty for all.
        modes: values of the attribute ``mode`` for which the rule holds; empty for all.
        float_output: a weighted operator that runs in integers even when its output stays float.
        per_channel: a weight may have a scale for each output channel; else it has one for all.
        on_codes: a same-scale operator that the runtime executes on codes only when it is written between
            QuantizeLinear and DequantizeLinear; then its fill value is a code, too.

    """

    op_type: str
    kind: OperatorKind
    fused_as: str = ""
    inputs: tuple[int, ...] = ()
    modes: tuple[str, ...] = ()
    float_output: bool = False
    per_channel: bool = True
    on_codes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRule:
    """An operator that computes in float with constants that the runtime can widen when it opens the file.

    Attributes:
        op_type: ONNX operator of the default domain.
        inputs: positions of the inputs that are stored in integers where they are constant.

    """

    op_type: str
    inputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementRule:
    """A structure that computes in float, though the target has integer kernels for it.

    Attributes:
        structure: what it is recognised as.
        reason: a clause for the user, about "it", a node of the structure or what one makes.

    """

    structure: Structure
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Blockwise:
    """Which matrix products have their 4-bit weights written in blocks, for a kernel that reads INT4.

    Such a kernel reads half a byte for each weight where an integer kernel reads one, which is faster where weights are
    many and rows of data few; it takes float data.

    Attributes:
        block_size: consecutive weights of a column that share a scale, a power of two from 16 to 256; 0 for none.
        least_weights: least number of weights of such a layer.
        most_rows: largest number of rows of its data; an open batch counts as one.

    """

    block_size: int = 0
    least_weights: int = 0
    most_rows: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Numbers of channels that integer convolutions are fast at; values are padded to them with zeros; 0 for any.

    Attributes:
        depthwise: channels of depthwise convolutions are a multiple of it.
        inputs: input channels of other convolutions are a multiple of it.
        outputs: least output channels of convolutions larger than 1x1 that have two thirds of them already.

    """

    depthwise: int = 0
    inputs: int = 0
    outputs: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A runtime on a kind of machine.

    Attributes:
        name: file name in ``targets/`` without its ending.
        description: one line for the user.
        opset: least ONNX opset of the emitted model.
        newest_opset: newest one that the runtime was tried with; a model of a later one is lowered to it. 0 for any.
        providers: ONNX Runtime execution providers, in order.
        activation, weight: formats at 8 bits; fewer bits keep sign and symmetry.
        packed_weight_bits: most bits of weights that are stored as INT4; 0 for none.
        operators: those that run in integers; all others stay float.
        keep_float: structures that stay float, whatever rows their operators have.
        stored: those that run in float, and whose constants are stored in integers behind a Cast and a Mul.
        dense_weight_bits: most bits of weights that are stored as digits of words, where that is smaller; 0 for none.
        wide_activation_bits: width above that of ``activation`` which runs in integers as well, for values that lose
            too much at 8 bits; 0 for none: such a value stays float.
        least_activation_bits: fewest bits of activations.
        quantize_results: outputs of integer operators are quantized, too; else only their inputs.
        weight_only: activations and biases stay float, and weights are dequantized when the file is loaded.
        bias: "int32" with the product of the data's and the weight's scales, or "float".
        unsigned_weights: 8-bit weights are written as uint8 around 128 where kernels of int8 ones would saturate.
        int4_form: INT4 weights have a "cast" to int8 in front of DequantizeLinear, which a runtime on a CPU folds at
            load; or DequantizeLinear reads them itself ("native").
        in_parts: operators that run faster when they are written with others (passes/quantize/write_in_parts.py).
        blockwise: which matrix products have 4-bit weights in blocks instead.
        alignment: numbers of channels that convolutions are padded to.
        session_config: entries of ONNX Runtime's session options that the target needs.
        provider_options: by execution provider.
        ort_platform: processor that an .ort file is made for; "arm" keeps int8 quantizers as they are.

    """

    name: str
    description: str
    opset: int
    providers: tuple[str, ...]
    activation: NumberFormat
    weight: NumberFormat
    packed_weight_bits: int
    operators: tuple[OperatorRule, ...]
    newest_opset: int = 0
    keep_float: tuple[PlacementRule, ...] = ()
    stored: tuple[StoredRule, ...] = ()
    dense_weight_bits: int = 0
    wide_activation_bits: int = 0
    least_activation_bits: int = 2
    quantize_results: bool = True
    weight_only: bool = False
    bias: BiasForm = "int32"
    unsigned_weights: bool = False
    int4_form: Int4Form = "cast"
    in_parts: tuple[Literal["ConvTranspose", "Mish", "PRelu"], ...] = ()
    blockwise: Blockwise = field(default_factory=Blockwise)
    alignment: Alignment = field(default_factory=Alignment)
    session_config: Mapping[str, str] = field(default_factory=dict)
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ort_platform: Literal["any", "arm"] = "any"

    def rule(self, op_type: str) -> OperatorRule | None:
        """Return the rule of an operator, or None when it stays float."""
        return next((rule for rule in self.operators if rule.op_type == op_type), None)
