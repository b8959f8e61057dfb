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
        fused_as: operator that stands in the runtime's optimised graph when the fusion worked, empty when none does.
        inputs: positions of the inputs that are quantized; empty means all of them.
        modes: values of the attribute ``mode`` for which the row holds; empty means whatever it is.
        float_output: a weighted operator that runs in integers even when its output stays float.
        per_channel: a weight may have a scale for each output channel; else it has one for all.
        on_codes: a same-scale operator that the runtime moves no codes through by itself, but executes on codes when it
            is written between QuantizeLinear and DequantizeLinear; a constant that fills in is a code then.

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
class Blockwise:
    """Which matrix products have their 4-bit weights written in blocks, for a kernel that reads them as they are.

    Such a kernel moves half a byte for each weight where an integer kernel moves one, which pays where weights are many
    and rows of data few; it takes float data. A layer that does not fit the rule is written as any other.

    Attributes:
        block_size: weights of one column that follow each other and share a scale, a power of two from 16 to 256; 0
            means that no layer is written so.
        least_weights: weights that a layer must have.
        most_rows: rows of data that a layer may have; an open batch counts as one.

    """

    block_size: int = 0
    least_weights: int = 0
    most_rows: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Numbers of channels that integer convolutions are fast at; values are widened to them with zeros.

    Attributes:
        depthwise: depthwise convolutions want a multiple of so many channels; 0 wants nothing.
        inputs: other convolutions want a multiple of so many input channels; 0 wants nothing.
        outputs: and at least so many output channels, where they look at more than one place and have two thirds of
            them already; 0 wants nothing.

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
        opset: ONNX opset of the emitted model.
        providers: ONNX Runtime execution providers, in order.
        activation: format of activations at 8 bits; fewer bits keep its sign and symmetry.
        weight: format of weights at 8 bits; fewer bits keep its sign and symmetry.
        packed_weight_bits: weights of at most this many bits are stored packed, behind a Cast; 0 means never.
        operators: what runs in integers; anything else stays float.
        dense_weight_bits: weights of at most this many bits are stored without gaps, as digits of words, where that
            takes fewer bytes; 0 means never.
        wide_activation_bits: width above that of ``activation`` which the target runs in integers as well, for values
            that 8 bits ruin; 0 means that there is none, and such a value stays float.
        least_activation_bits: fewest bits that activations can have.
        quantize_results: what integer operators make is quantized too; else only what they read is.
        weight_only: activations and biases stay float, and weights are widened when the file is loaded.
        bias: "int32" with the product of the data's and the weight's scales, or "float".
        int4_form: how packed weights of 4 bits and less are written: "cast" to int8 codes in front of DequantizeLinear,
            which a processor folds at load; or "native", as the INT4 input of DequantizeLinear itself.
        blockwise: which matrix products have 4-bit weights in blocks instead.
        alignment: numbers of channels that convolutions are widened to.
        session_config: entries of ONNX Runtime's session options that the target needs.
        provider_options: options of execution providers, by provider.
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
    dense_weight_bits: int = 0
    wide_activation_bits: int = 0
    least_activation_bits: int = 2
    quantize_results: bool = True
    weight_only: bool = False
    bias: BiasForm = "int32"
    int4_form: Int4Form = "cast"
    blockwise: Blockwise = field(default_factory=Blockwise)
    alignment: Alignment = field(default_factory=Alignment)
    session_config: Mapping[str, str] = field(default_factory=dict)
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ort_platform: Literal["any", "arm"] = "any"

    def rule(self, op_type: str) -> OperatorRule | None:
        """Return the rule of an operator, or None when it stays float."""
        return next((rule for rule in self.operators if rule.op_type == op_type), None)
