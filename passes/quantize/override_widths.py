"""Give single layers and values of a plan widths of their own, or leave a value in float.

Values that share one scale share one width: what is said of one holds for all of its group.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from backends.target import NumberFormat, Target
from passes.plan import ActivationSite, QuantizationPlan, Refusal

Width = int | Literal["float"]
_FULL_BITS = 8  # what a user calls 8 bits has 7 on a target where 8 would saturate
_REASON = "it stays float, as the plan of widths says, and so does whatever makes or reads it"


class WidthsError(ValueError):
    """Widths do not fit the plan; the message says which name, and what there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Bits of single layers and values; what is not named keeps the plan's.

    Attributes:
        weights: bits of a layer's weight, by node name.
        activations: bits of a value, or "float", by value name.

    """

    weights: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, Width] = field(default_factory=dict)


def override_widths(plan: QuantizationPlan, target: Target, widths: Widths) -> QuantizationPlan:
    """Return a plan without scales whose formats are those of a target at the given widths.

    Args:
        plan: made by ``place_quantizers``; its scales are dropped, because they belong to its formats.
        target: gives sign and symmetry of the formats.
        widths: what to change.

    Raises:
        WidthsError: a name is not in the plan, a width is none of the target's, or values of one group are given
            different ones.

    """
    _require_known("layer", widths.weights, {site.node for site in plan.weights})
    _require_known("quantized value", widths.activations, {site.value for site in plan.activations})
    for name, bits in widths.weights.items():
        if not 2 <= bits <= max(target.weight.bits, _FULL_BITS):
            raise WidthsError(
                f"the weight of {name!r} can have 2 to {target.weight.bits} bits on {target.name}, got {bits}"
            )
    wanted = _by_group(plan.activations, target, widths.activations)
    weights = tuple(
        replace(site, number_format=_at_width(target.weight, min(widths.weights[site.node], target.weight.bits)))
        if site.node in widths.weights
        else site
        for site in plan.weights
    )
    activations = []
    for activation in plan.activations:
        width = wanted.get(activation.group, activation.number_format.bits)
        if width != "float":
            given = activation.group in wanted
            number_format = _at_width(target.activation, width) if given else activation.number_format
            activations.append(replace(activation, number_format=number_format))
    floats = (site.value for site in plan.activations if wanted.get(site.group) == "float")
    refusals = (*plan.refusals, *(Refusal(where=name, op_type="activation", reason=_REASON) for name in floats))
    return QuantizationPlan(
        activations=tuple(activations), weights=weights, refusals=refusals, quantize_outputs=plan.quantize_outputs
    )


def widths_of(plan: QuantizationPlan) -> Widths:
    """Widths of every layer and value of a plan, those included that ``override_widths`` left in float."""
    floats = (refusal.where for refusal in plan.refusals if refusal.reason == _REASON)
    return Widths(
        weights={site.node: site.number_format.bits for site in plan.weights},
        activations={
            **{site.value: site.number_format.bits for site in plan.activations},
            **dict.fromkeys(floats, "float"),
        },
    )


def _by_group(sites: tuple[ActivationSite, ...], target: Target, given: Mapping[str, Width]) -> dict[str, Width]:
    groups = {site.value: site.group for site in sites}
    wanted: dict[str, Width] = {}
    said_of: dict[str, str] = {}
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
                f"the values {said_of[group]!r} and {name!r} share one scale, so they need one width, got "
                f"{wanted[group]} and {width}"
            )
        said_of.setdefault(group, name)
    return wanted


def _require_known(kind: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise WidthsError(f"this model has no {kind} {name!r}{hint}")


def _at_width(number_format: NumberFormat, bits: int) -> NumberFormat:
    """Return the format at another width; only at its own is a signed grid narrow, elsewhere every code counts."""
    return number_format if bits == number_format.bits else replace(number_format, bits=bits, narrow=False)
