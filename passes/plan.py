"""The quantization plan: which values get which integer format, and why others get none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from backends.target import NumberFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A node, or a value, that was left alone, with the reason in words."""

    where: str
    op_type: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scale:
    """Affine grid parameters: real = scale * (code - zero_point).

    ``scale`` float32 and ``zero_point`` int32 have the same shape: () per tensor, or (channels,) per channel.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationSite:
    """A value that is quantized per tensor right after it is made.

    Attributes:
        value: name of the value.
        number_format: its integer grid.
        group: sites of one group share one scale (MaxPool, Reshape, Concat...); the group's name is one of its values.
        moved_from: name of the value of the same group whose codes the producer moves as they are (Pad on codes), or
            None; then the producer is put between that value's QuantizeLinear and this one's DequantizeLinear.

    """

    value: str
    number_format: NumberFormat
    group: str
    moved_from: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSite:
    """A constant weight of one node, quantized per channel where its channels have an axis.

    Attributes:
        node: name of the node that reads it.
        initializer: name of the float initializer.
        axis: channel axis of the initializer, output channels of the node; None where they lie along no single axis
            (a grouped ConvTranspose), which leaves one scale for the whole weight.
        number_format: its integer grid.
        data_input: name of the value that the weight multiplies.
        bias: name of the bias initializer, or None; it becomes int32 with scale = scale(data_input) * scale(weight).

    """

    node: str
    initializer: str
    axis: int | None
    number_format: NumberFormat
    data_input: str
    bias: str | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizationPlan:
    """Sites, refusals, and (after calibration) a scale for every activation group and weight initializer.

    Attributes:
        activations: in graph order.
        weights: in graph order, each with an initializer and a bias of its own.
        refusals: what stays float, and why.
        activation_scales: by group.
        weight_scales: by initializer.
        quantize_outputs: a site that is a graph output becomes the output itself; else the output stays float.

    """

    activations: tuple[ActivationSite, ...]
    weights: tuple[WeightSite, ...]
    refusals: tuple[Refusal, ...]
    activation_scales: Mapping[str, Scale] = field(default_factory=dict)
    weight_scales: Mapping[str, Scale] = field(default_factory=dict)
    quantize_outputs: bool = False

    def with_scales(
        self, *, activations: Mapping[str, Scale] | None = None, weights: Mapping[str, Scale] | None = None
    ) -> "QuantizationPlan":
        """Return the same plan with scales added or replaced."""
        return replace(
            self,
            activation_scales={**self.activation_scales, **(activations or {})},
            weight_scales={**self.weight_scales, **(weights or {})},
        )
