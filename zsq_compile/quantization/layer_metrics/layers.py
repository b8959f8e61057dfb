"""Which nodes of a float graph compute with quantized numbers."""

import math
from dataclasses import dataclass

import onnx_ir as ir

from backends.target import Target
from passes.analysis.find_uneven_values import find_uneven_values
from passes.operators import DENSE
from passes.plan import ActivationSite, QuantizationPlan, WeightSite
from passes.value_ranges import clip_limits


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredLayer:
    """A node that reads at least one quantized value and computes with it.

    Attributes:
        node: its name.
        op_type: its operator.
        value: name of what it makes, behind the Relu or Clip that is folded into it.
        limits: of that Relu or Clip; (None, None) where none is folded.
        inputs: names of the values that it reads and that are no constants.
        sites: the quantized ones among them.
        weight: its weights; None where it has no quantized ones.
        channel_axis: axis of the channels, of its inputs and of what it makes.

    """

    node: str
    op_type: str
    value: str
    limits: tuple[float | None, float | None]
    inputs: tuple[str, ...]
    sites: tuple[ActivationSite, ...]
    weight: WeightSite | None
    channel_axis: int


def find_layers(model: ir.Model, plan: QuantizationPlan, target: Target) -> tuple[MeasuredLayer, ...]:
    """Layers of a float model that its plan makes inexact, in graph order.

    Operators that only move codes about (MaxPool, Reshape, ...) are left out: they lose nothing that the reader of
    their output does not lose as well. An activation that is folded into a layer is a part of that layer. What makes a
    value whose size depends on the data is left out as well: there may be other elements in the quantized network.
    """
    uneven = find_uneven_values(model)
    sites = {site.value: site for site in plan.activations}
    weights = {site.node: site for site in plan.weights}
    nodes = {node.name: node for node in model.graph if node.name}
    layers: list[MeasuredLayer] = []
    for node in model.graph:
        inputs = [str(value.name) for value in node.inputs if value is not None and value.const_value is None]
        read = tuple(
            sites[name]
            for name in dict.fromkeys(inputs)
            if name in sites and node.name not in sites[name].float_readers
        )
        output = node.outputs[0]
        if not read or output.dtype not in (None, ir.DataType.FLOAT) or _moves_codes(node, read[0], sites, target):
            continue
        activation = nodes.get(plan.folded.get(str(node.name), ""))
        if activation is not None and activation.outputs[0].name not in sites:
            activation = None  # its values stay float, as the user asked for, and so does the layer
        value = str((activation or node).outputs[0].name)
        if value in uneven:
            continue
        layers.append(
            MeasuredLayer(
                node=str(node.name),
                op_type=node.op_type,
                value=value,
                limits=(None, None) if activation is None else _limits(activation),
                inputs=tuple(dict.fromkeys(inputs)),
                sites=read,
                weight=weights.get(str(node.name)),
                channel_axis=-1 if node.op_type in DENSE else 1,
            )
        )
    return tuple(layers)


def _limits(activation: ir.Node) -> tuple[float | None, float | None]:
    """Range that a Relu, or a Clip with constant limits, leaves."""
    limits = clip_limits(activation)
    assert limits is not None
    low, high = (None if math.isinf(limit) else limit for limit in limits)
    return low, high


def origin(site: ActivationSite, plan: QuantizationPlan) -> ActivationSite:
    """Find the site that is rounded where this one only has that one's codes moved."""
    by_value = {other.value: other for other in plan.activations}
    while site.moved_from is not None:
        site = by_value[site.moved_from]
    return site


def _moves_codes(node: ir.Node, read: ActivationSite, sites: dict[str, ActivationSite], target: Target) -> bool:
    rule, made = target.rule(node.op_type), sites.get(str(node.outputs[0].name))
    return rule is not None and rule.kind == "same_scale" and made is not None and made.group == read.group
