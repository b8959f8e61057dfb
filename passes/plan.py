"""The quantization plan: which values get which integer format, and why others stay float."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.target import NumberFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A node or value that was left as it is.

    Attributes:
        where: its name.
        op_type: operator of the node; "activation" of a value.
        reason: a clause for the user, about "it".
        requested: the user asked for it.

    """

    where: str
    op_type: str
    reason: str
    requested: bool = False

    @classmethod
    def of(cls, node: ir.Node, reason: str) -> "Refusal":
        """Return the refusal of a node."""
        return cls(where=node.name or "", op_type=node.op_type, reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scale:
    """Parameters of a quantizer: real = scale * (code - zero_point).

    ``scale`` float32 and ``zero_point`` int32 have the same shape: () per tensor, or (channels,) per channel.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationSite:
    """A value that is quantized, per tensor.

    Attributes:
        value: its name.
        number_format: of its codes.
        group: sites of one group share one scale (MaxPool, Reshape, Concat...); the group's name is one of its values.
        moved_from: a value of the same group whose codes the producer of this one reads and moves (Pad on codes): it
            then stands between that value's QuantizeLinear and this one's DequantizeLinear. None for all others.
        float_readers: names of the nodes that go on reading the float value.

    """

    value: str
    number_format: NumberFormat
    group: str
    moved_from: str | None = None
    float_readers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSite:
    """A constant weight of one layer, and its bias.

    Attributes:
        node: name of the layer.
        initializer: name of the float weight; layers that share one agree in ``axis`` and ``number_format``.
        axis: of the weight, along which the output channels lie; None for one scale per tensor, as where they lie along
            no single axis (a grouped ConvTranspose).
        number_format: of its codes.
        data_input: name of the value that the weight multiplies.
        bias: name of the float bias, or None; it becomes int32 with scale = scale(data_input) * scale(weight).

    """

    node: str
    initializer: str
    axis: int | None
    number_format: NumberFormat
    data_input: str
    bias: str | None


def with_shared_formats(sites: Sequence[WeightSite]) -> tuple[WeightSite, ...]:
    """Give layers that share a weight the format of most bits among theirs."""
    widest: dict[str, NumberFormat] = {}
    for site in sites:
        own = site.number_format
        widest[site.initializer] = max(widest.get(site.initializer, own), own, key=lambda one: one.bits)
    return tuple(replace(site, number_format=widest[site.initializer]) for site in sites)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSite:
    """A constant that is stored in integers, and widened for an operator that computes in float.

    Attributes:
        node: name of the operator, the first of several.
        initializer: name of the float constant; each of its rows along the last axis has a scale.
        number_format: of its codes.
        tied: name of the weight of a layer that holds the same numbers, its channels along the rows, and whose codes
            this one has; None for codes of its own.

    """

    node: str
    initializer: str
    number_format: NumberFormat
    tied: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizationPlan:
    """Sites, refusals, and (after calibration) a scale for every group of activations and every weight.

    Attributes:
        activations: in graph order.
        weights: in graph order; only those that share a weight may share a bias.
        refusals: what stays float, and why.
        stored: constants of operators that stay float, each once, in graph order.
        folded: by the name of a layer, that of the Relu or Clip that the runtime computes with it.
        excluded: names of the nodes and values that the user wants in float, nothing of them quantized.
        activation_scales: by group.
        weight_scales: by initializer, those of ``stored`` in the shape of the constant with a last axis of 1.
        quantize_outputs: a site that is a graph output becomes the output itself; else the output stays float.

    """

    activations: tuple[ActivationSite, ...]
    weights: tuple[WeightSite, ...]
    refusals: tuple[Refusal, ...]
    stored: tuple[StoredSite, ...] = ()
    folded: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    activation_scales: Mapping[str, Scale] = field(default_factory=dict)
    weight_scales: Mapping[str, Scale] = field(default_factory=dict)
    quantize_outputs: bool = False

    def sites_by_weight(self) -> dict[str, tuple[WeightSite, ...]]:
        """Sites by initializer, in graph order; several where layers share a weight."""
        found: dict[str, tuple[WeightSite, ...]] = {}
        for site in self.weights:
            found[site.initializer] = (*found.get(site.initializer, ()), site)
        return found

    @property
    def bits_by_initializer(self) -> dict[str, int]:
        """Bits of every weight, and of every other constant that has integer codes of its own."""
        bits = {site.initializer: site.number_format.bits for site in self.weights}
        return bits | {site.initializer: site.number_format.bits for site in self.stored if site.tied is None}

    def without(self, values: Set[str], reason: str) -> "QuantizationPlan":
        """Return the same plan with some values left in float.

        Those whose whole group is count as requested, so that a plan made from this one leaves them in float as well.
        """
        kept = tuple(site for site in self.activations if site.value not in values)
        groups = {site.group for site in kept}
        floats = tuple(
            Refusal(where=site.value, op_type="activation", reason=reason, requested=site.group not in groups)
            for site in self.activations
            if site.value in values
        )
        scales = {group: scale for group, scale in self.activation_scales.items() if group in groups}
        return replace(self, activations=kept, refusals=(*self.refusals, *floats), activation_scales=scales)

    def with_scales(
        self, *, activations: Mapping[str, Scale] | None = None, weights: Mapping[str, Scale] | None = None
    ) -> "QuantizationPlan":
        """Return the same plan with scales added or replaced."""
        return replace(
            self,
            activation_scales={**self.activation_scales, **(activations or {})},
            weight_scales={**self.weight_scales, **(weights or {})},
        )
