"""How well each layer of a quantized network follows its float original: plain values, and the layers to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsq_compile.metrics import decibel_words, decibels

LIMIT_DB = 144.0
"""Ratios are cut to plus and minus this many dB: float32 itself, with 24 bits, keeps no more apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerQuality:
    """Float against quantized numbers at what one layer makes, before its own output is rounded.

    Two ratios separate cause from effect: in the network a layer also has the noise of all layers before it.

    Attributes:
        node: name of the node.
        op_type: its operator.
        value: name of what it makes, behind the Relu or Clip that is folded into it.
        weight_bits: width of its weights; None for a node without quantized weights.
        activation_bits: width of its quantized inputs, the narrowest of them.
        sqnr_db: signal to quantization noise ratio in the network, dB, by step of quantization, in order.
        own_sqnr_db: the same after the last step when the inputs are those of the float network, dB: what the layer
            loses by rounding its inputs and its weights, and nothing that was lost before. Mean errors of channels are
            not in it.
        reason: where most of that comes from, in words; None when nothing stands out.

    """

    node: str
    op_type: str
    value: str
    weight_bits: int | None
    activation_bits: int
    sqnr_db: Mapping[str, float]
    own_sqnr_db: float
    reason: str | None

    def describe(self) -> str:
        """Return it as one line."""
        widths = f"{self.activation_bits}-bit inputs"
        if self.weight_bits is not None:
            widths = f"{self.weight_bits}-bit weights, {widths}"
        ratios = [f"{decibel_words(self.own_sqnr_db)} by itself"]
        ratios += [f"{decibel_words(ratio)} in the network" for ratio in list(self.sqnr_db.values())[-1:]]
        cause = "" if self.reason is None else f"; {self.reason}"
        return f"{self.node} ({self.op_type}, {widths}): {', '.join(ratios)}{cause}"


def limited_decibels(signal: float, noise: float) -> float:
    """Ratio of two powers in dB (see ``metrics.decibels``), at most LIMIT_DB from zero."""
    return min(max(decibels(signal, noise), -LIMIT_DB), LIMIT_DB)


def worst_layers(qualities: Sequence[LayerQuality], count: int = 3) -> tuple[LayerQuality, ...]:
    """Layers that add most noise of their own, the worst first; those of one ratio in the order they came in."""
    return tuple(sorted(qualities, key=lambda quality: quality.own_sqnr_db)[:count])
