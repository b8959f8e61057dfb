"""Give single layers and values of a plan bits of their own, or keep a value in float.

Values of one group share their bits, and so do layers that share a weight: those given for one hold for all.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from backends.target import Target
from passes.plan import ActivationSite, QuantizationPlan, Refusal, WeightSite

Width = int | Literal["float"]
_FULL_BITS = 8  # are asked for where a target has fewer, and mean those
_REASON = "it stays float, as requested, and so does whatever makes or reads it"


class WidthsError(ValueError):
    """Widths do not fit the plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Bits of weights, by node name, and of values, or "float", by name; others keep those of the plan."""

    weights: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, Width] = field(default_factory=dict)


def override_widths(plan: QuantizationPlan, target: Target, widths: Widths) -> QuantizationPlan:
    """Return a plan without scales whose formats are those of a target at the given widths.

    Args:
        plan: made by ``place_quantizers``; its scales are dropped, because they belong to its formats.
        target: gives sign and symmetry of the formats.
        widths: the bits to change.

    Raises:
        WidthsError: a name is not in the plan, the target does not have these bits, or what shares them has others.

    """
    require_known("layer", widths.weights, widths_of(plan).weights)
    require_known("quantized value", widths.activations, {site.value for site in plan.activations})
    for name, bits in widths.weights.items():
        if not 2 <= bits <= max(target.weight.bits, _FULL_BITS):
            raise WidthsError(
                f"the weight of {name!r} can have 2 to {target.weight.bits} bits on {target.name}, got {bits}"
            )
    wanted = _by_group(plan.activations, target, widths.activations)
    formats = {
        name: target.weight.with_bits(min(bits, target.weight.bits))
        for name, bits in _by_weight(plan.weights, widths.weights).items()
    }
    weights = tuple(
        replace(site, number_format=formats.get(site.initializer, site.number_format)) for site in plan.weights
    )
    own = {
        site.initializer: target.weight.with_bits(min(widths.weights[site.node], target.weight.bits))
        for site in plan.stored
        if site.node in widths.weights
    }
    stored = tuple(
        replace(site, number_format=(own | formats).get(site.tied or site.initializer, site.number_format))
        for site in plan.stored
    )
    activations = []
    for activation in plan.activations:
        width = wanted.get(activation.group, activation.number_format.bits)
        if width != "float":
            given = activation.group in wanted
            number_format = target.activation.with_bits(width) if given else activation.number_format
            activations.append(replace(activation, number_format=number_format))
    floats = tuple(
        Refusal(where=site.value, op_type="activation", reason=_REASON, requested=True)
        for site in plan.activations
        if wanted.get(site.group) == "float"
    )
    return replace(
        plan,
        activations=tuple(activations),
        weights=weights,
        refusals=(*plan.refusals, *floats),
        stored=stored,
        activation_scales={},
        weight_scales={},
    )


def widths_of(plan: QuantizationPlan) -> Widths:
    """Bits of every layer, stored constant and value of a plan; "float" where ``override_widths`` kept it in float."""
    floats = (refusal.where for refusal in plan.refusals if refusal.requested and refusal.op_type == "activation")
    stored = {site.node: site.number_format.bits for site in plan.stored if site.tied is None}
    return Widths(
        weights={site.node: site.number_format.bits for site in plan.weights} | stored,
        activations={
            **{site.value: site.number_format.bits for site in plan.activations},
            **dict.fromkeys(floats, "float"),
        },
    )


def _by_weight(sites: tuple[WeightSite, ...], given: Mapping[str, int]) -> dict[str, int]:
    """Bits by initializer of those that are given by layer."""
    wanted: dict[str, int] = {}
    named: dict[str, str] = {}
    for site in sites:
        bits = given.get(site.node)
        if bits is None:
            continue
        if wanted.setdefault(site.initializer, bits) != bits:
            raise WidthsError(
                f"the layers {named[site.initializer]!r} and {site.node!r} share one weight, so they need equal bits, "
                f"got {wanted[site.initializer]} and {bits}"
            )
        named.setdefault(site.initializer, site.node)
    return wanted


def _by_group(sites: tuple[ActivationSite, ...], target: Target, given: Mapping[str, Width]) -> dict[str, Width]:
    groups = {site.value: site.group for site in sites}
    wanted: dict[str, Width] = {}
    named: dict[str, str] = {}
    for name, width in given.items():
        if (
            width != "float"
            and width != target.wide_activation_bits
            and not (target.least_activation_bits <= width <= target.activation.bits)
        ):
            wide = f", {target.wide_activation_bits}" if target.wide_activation_bits else ""
            least, most = target.least_activation_bits, target.activation.bits
            raise WidthsError(
                f'the value {name!r} can have {least} to {most}{wide} bits or be "float" on {target.name}, got {width}'
            )
        group = groups[name]
        if wanted.setdefault(group, width) != width:
            raise WidthsError(
                f"the values {named[group]!r} and {name!r} share one scale, so they need equal bits, got "
                f"{wanted[group]} and {width}"
            )
        named.setdefault(group, name)
    return wanted


def require_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise WidthsError, with the nearest, for the first name that is not known."""
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise WidthsError(f"this model has no {kind} {name!r}{hint}")
