"""The user's own word on single layers and values: patterns of the options and of a plan file, brought to one model.

From strong to weak: ``exclude`` of either, which nothing takes back; ``layer_bits`` of the options; names in the plan
file; its patterns. What none of them names is as the other options say. Among patterns of bits later ones win.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from passes.plan import QuantizationPlan
from passes.quantize.exclude import Exclusion, PatternError, find_excluded, find_layers_named, with_sharers
from passes.quantize.override_widths import Width, Widths, require_known, widths_of
from zsq_compile.config.compile import LayerBits, QuantizationConfig
from zsq_compile.errors import ConfigError
from zsq_compile.quantization.plan_file import PlanFile

_NO_PLAN = PlanFile(weights={}, activations={})


@dataclass(frozen=True, kw_only=True, slots=True)
class UserWord:
    """What is to stay float, and the widths of what is not."""

    excluded: Exclusion
    widths: Widths

    @property
    def floats(self) -> bool:
        """Whether anything is to stay float."""
        return self.excluded != Exclusion()


def hear_user(
    model: ir.Model, placed: QuantizationPlan, config: QuantizationConfig, given: PlanFile | None = None
) -> UserWord:
    """Bring patterns and names to a model.

    Args:
        model: folded, and so with the names that patterns are held against.
        placed: its plan without anything excluded, whose layers and values are those that can be named.
        config: with the patterns of the options.
        given: the plan file.

    Raises:
        ConfigError: a pattern fits nothing, a name is unknown, or layers that share a weight get different bits.
        WidthsError: a name of the plan file is unknown.

    """
    given = given or _NO_PLAN
    layers = tuple(widths_of(placed).weights)
    nodes = [str(node.name) for node in model.graph]
    floats = {name for name, width in given.weights.items() if width == "float"}
    require_known("layer", given.weights.keys() - floats, layers)
    require_known("node", floats, nodes)
    require_known("quantized value", given.activations, {site.value for site in placed.activations})
    excluded = _excluded(model, "the plan's exclude", given.exclude)
    excluded |= _excluded(model, "exclude", config.exclude)
    bits = _spread(model, "the plan's layer_bits", given.layer_bits, layers) | dict(given.weights)
    bits |= _spread(model, "layer_bits", config.layer_bits, layers)
    _require_one_word(model, bits)
    excluded |= Exclusion(nodes=frozenset(name for name, width in bits.items() if width == "float"))
    silent = with_sharers(model.graph, excluded).nodes
    numbers = {name: width for name, width in bits.items() if width != "float" and name not in silent}
    return UserWord(excluded=excluded, widths=Widths(weights=numbers, activations=given.activations))


def within(plan: QuantizationPlan, widths: Widths) -> Widths:
    """Widths without the values that an exclusion has left in float anyway."""
    sites = {site.value for site in plan.activations}
    values: dict[str, Width] = {name: width for name, width in widths.activations.items() if name in sites}
    return Widths(weights=widths.weights, activations=values)


def _excluded(model: ir.Model, what: str, patterns: Sequence[str]) -> Exclusion:
    try:
        return find_excluded(model.graph, patterns)
    except PatternError as error:
        raise ConfigError(f"{what}: {error}") from error


def _spread(model: ir.Model, what: str, given: Mapping[str, LayerBits], layers: Sequence[str]) -> dict[str, LayerBits]:
    """Bits by layer of patterns, the last one that fits."""
    bits: dict[str, LayerBits] = {}
    for pattern, width in given.items():
        try:
            bits |= dict.fromkeys(find_layers_named(model.graph, pattern, layers), width)
        except PatternError as error:
            raise ConfigError(f"{what}: {error}") from error
    return bits


def _require_one_word(model: ir.Model, bits: Mapping[str, LayerBits]) -> None:
    """Raise ConfigError where layers that share a weight are given in float and in integers."""
    floats = [name for name, width in bits.items() if width == "float"]
    for name in floats:
        for other in sorted(with_sharers(model.graph, Exclusion(nodes=frozenset({name}))).nodes):
            if bits.get(other, "float") != "float":
                raise ConfigError(
                    f"layer_bits: the layers {name!r} and {other!r} share one weight, so they need equal bits, got "
                    f"float and {bits[other]}"
                )
