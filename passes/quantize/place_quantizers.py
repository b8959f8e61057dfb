"""Decide which values and weights of a model are quantized, in which formats, and why the rest stays float.

1. An operator of the target's table takes part if its weights are constant and its data float32; else it is refused.
2. Its inputs are quantized, and its output, behind the Relu or Clip that the target fuses into it.
3. Operators that pass codes on unchanged (``same_scale``) join the groups of their inputs and outputs.
4. Graph outputs, and whatever leads to them through operators that only move, rescale or squash values, stay float
   unless asked for: clipping a logit or a box coordinate costs more accuracy than any inner layer does, and synthetic
   data do not show the range of a detector's logits.
5. Weights of the first and the last layers keep at least ``edge_bits``, and so do the activations between a first layer
   and the next: few channels come out of a first layer, and all that follows depends on them. The inputs of these
   layers keep 8 bits, as images have. With 8 edge bits this is the setting of BRECQ (Li et al. 2021) and Genie (Jeon et
   al. 2023); with those of all other layers, that of GDFQ (Xu et al. 2020), which leaves these inputs in float. A
   weight that several layers share has the bits of the one that keeps most.
6. What a graph input holds stays as it is on its way to an output through operators that only move it, and for every
   other reader that computes in float: nothing has to be converted for it.
7. Structures that the target's file names under ``keep_float`` stay float (see ``placement_rules``).
8. Fewer activation bits are for values that weights multiply. What is only added keeps 8: it saves no multiplication,
   accumulators are wider anyway, and the branch in front of a residual Add would carry most of the network's noise.
   BRECQ, QDrop and Genie count their 4 bits like that.
9. Values whose size depends on the data stay float, with the operators that read or make them: where nothing survives
   on synthetic data there is no range to see. Weights are stored in integers there all the same.
10. What the user excludes computes in float with float weights, and stays away from integer kernels (``exclude``).
"""

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from backends.target import NumberFormat, OperatorRule, Target
from passes.analysis.find_uneven_values import find_uneven_values
from passes.plan import ActivationSite, QuantizationPlan, Refusal, WeightSite, with_shared_formats
from passes.quantize.exclude import BESIDE, REQUESTED, Exclusion, keep_float, with_sharers
from passes.quantize.float_regions import input_copies, output_region
from passes.quantize.layers_before import layers_before
from passes.quantize.place_stored import place_stored, say_stored
from passes.quantize.placement_rules import apply_rules
from passes.quantize.refuse import data_inputs, is_float, rank_of, refuse
from passes.surgery import input_at, is_constant, is_standard, only_use, rule_of
from passes.weight_layout import channel_axis

_EDGE_BITS = 8
_EDGE_INPUT_BITS = 8
_ADDED_BITS = 8
_NOTHING = Exclusion()


def place_quantizers(
    model: ir.Model,
    target: Target,
    *,
    bits: int = 8,
    act_bits: int = 8,
    edge_bits: int | None = None,
    added_bits: int | None = None,
    quantize_outputs: bool = False,
    excluded: Exclusion = _NOTHING,
) -> QuantizationPlan:
    """Plan the quantization of a folded float model for a target, without scales.

    Args:
        model: not changed.
        target: what the runtime executes in integers.
        bits: weight bits, 2 to 8.
        act_bits: bits of activations that weights multiply, 2 to 8 (or the width of the target's own format).
        edge_bits: least bits of the weights of the first and last layers, and of the activations between a first layer
            and the next; None is 8.
        added_bits: bits of activations that no weight multiplies; None is 8, or ``act_bits`` if that is more.
        quantize_outputs: quantize graph outputs as well.
        excluded: what is to stay float; layers that share a weight with it do so as well.

    """
    excluded = with_sharers(model.graph, excluded)
    placement = _Placement(model, target, quantize_outputs, excluded)
    before = layers_before(placement.weighted)
    first = {layer for layer, found in before.items() if not found}
    last = set(placement.weighted).difference(*before.values())
    second = {layer for layer, found in before.items() if found and found <= first}
    edge_bits = _EDGE_BITS if edge_bits is None else edge_bits
    added_bits = max(act_bits, _ADDED_BITS) if added_bits is None else added_bits
    narrow_weight = _narrowed(target.weight, bits)
    edge_weight = _narrowed(target.weight, max(bits, edge_bits))
    weights = tuple(
        _weight_site(node, edge_weight if node in first or node in last else narrow_weight, target)
        for node in placement.weighted
    )
    widths = {placement.group(name): act_bits for name in placement.multiplied}
    widths |= dict.fromkeys(placement.groups_before(second), max(act_bits, edge_bits))
    widths |= dict.fromkeys(placement.groups_before(first | last), max(act_bits, _EDGE_INPUT_BITS))
    activations = tuple(
        ActivationSite(
            value=name,
            number_format=_narrowed(target.activation, widths.get(placement.group(name), added_bits)),
            group=placement.group(name),
            moved_from=placement.moved_from(value),
            float_readers=placement.float_readers(value),
        )
        for name, value in placement.sites.items()
    )
    weights = with_shared_formats(weights)
    stored = place_stored(model, target, weights, matrices=narrow_weight, tables=edge_weight, excluded=excluded.nodes)
    return QuantizationPlan(
        activations=activations,
        weights=weights,
        refusals=say_stored(placement.refusals, stored),
        stored=stored,
        folded=placement.folded,
        excluded=(*sorted(excluded.nodes), *sorted(excluded.values)),
        quantize_outputs=quantize_outputs,
    )


class _Placement:
    """Eligible nodes of a graph, quantized values, and their same-scale groups."""

    def __init__(self, model: ir.Model, target: Target, quantize_outputs: bool, excluded: Exclusion) -> None:
        self.target = target
        self._kept = keep_float(model.graph, target, excluded)
        self.refusals: list[Refusal] = []
        self.sites: dict[str, ir.Value] = {}
        self.multiplied: set[str] = set()
        self.folded: dict[str, str] = {}
        self._parent: dict[str, str] = {}
        self._integer: set[ir.Node] = set()
        self._uneven = find_uneven_values(model)
        self._float_region = set() if quantize_outputs else output_region(model.graph)
        self._kept_by_rule = apply_rules(model.graph, target)
        self._copies, self._carriers = input_copies(model.graph)
        eligible: list[tuple[ir.Node, OperatorRule]] = []
        for node in model.graph:
            rule = rule_of(node, target)
            if node.name in self._kept.nodes:
                if is_float(node.outputs[0]):
                    self.refusals.append(replace(Refusal.of(node, REQUESTED), requested=True))
                continue
            reason = "" if node in self._carriers else refuse(node, rule)
            if reason is None and rule is not None and rule.kind != "weighted":
                reason = self._kept_by_rule.nodes.get(node)
            if reason is None and rule is not None:
                eligible.append((node, rule))
            elif reason:
                self.refusals.append(Refusal.of(node, reason))
        self.weighted = [node for node, rule in eligible if rule.kind == "weighted" and is_constant(node, 1)]
        if not target.weight_only:
            self._mark_compute([(n, r) for n, r in eligible if r.kind in ("weighted", "quantized")])
            same_scale = (node for node, rule in eligible if rule.kind == "same_scale")
            self._join_groups(
                [node for node in same_scale if not self._is_uneven(node) and not self._kept.touches(node)]
            )
        order = {value.name: i for i, value in enumerate(_values(model.graph))}
        self.sites = dict(sorted(self.sites.items(), key=lambda item: order[item[0]]))

    def group(self, name: str) -> str:
        """Name of the group of a value."""
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def groups_before(self, layers: Iterable[ir.Node]) -> set[str]:
        """Names of the groups of the quantized inputs of these layers."""
        entering = (str(layer.inputs[0].name) for layer in layers if layer.inputs[0] is not None)
        return {self.group(name) for name in entering if name in self.sites}

    def moved_from(self, value: ir.Value) -> str | None:
        """Name of the value whose codes the producer of ``value`` moves: see ``ActivationSite``."""
        node = value.producer()
        rule = None if node is None else self.target.rule(node.op_type)
        if node is None or rule is None or not rule.on_codes or node.inputs[0] is None or node in self._carriers:
            return None
        fill = input_at(node, 2)
        if value.is_graph_output() or (fill is not None and fill.const_value is None):
            return None  # the output would turn to codes; a fill value that is computed has no code
        source = str(node.inputs[0].name)
        return source if source in self.sites and self.group(source) == self.group(str(value.name)) else None

    def float_readers(self, value: ir.Value) -> tuple[str, ...]:
        """Names of the nodes that read what a graph input holds and compute in float, or that only name an output."""
        readers = [node for node in dict.fromkeys(use.node for use in value.uses()) if node not in self._integer]
        asked = self._kept.readers.get(str(value.name), frozenset())
        if value.name not in self._copies:
            readers = [node for node in readers if node.name in asked or _names_output(node)]
        return tuple(str(node.name) for node in readers)

    def _mark(self, value: ir.Value | None) -> bool:
        if value is None or value.name is None or value.name in self.sites or value.name in self._kept.values:
            return False
        self.sites[value.name] = value
        return True

    def _mark_compute(self, nodes: list[tuple[ir.Node, OperatorRule]]) -> None:
        kernels = any(rule.fused_as for rule in self.target.operators)  # else nobody has looked which there are
        for node, rule in nodes:
            if self._is_uneven(node):
                self.refusals.append(
                    Refusal.of(node, "how much it reads or makes depends on the data, so it runs in float")
                )
                continue
            if node in self._kept_by_rule.nodes:
                self.refusals.append(Refusal.of(node, f"{self._kept_by_rule.nodes[node]}, so it runs in float"))
                continue
            if any(value is not None and value.name in self._kept.values for value in node.inputs):
                self.refusals.append(Refusal.of(node, BESIDE))
                continue
            activation = self._fused_activation(node)
            output = (activation or node).outputs[0]
            reason = self._exposed(output, rule)
            exposed = reason is not None
            if reason and not rule.float_output:
                self.refusals.append(Refusal.of(node, f"{reason}, which stays float, so it runs in float"))
            elif rule.kind == "weighted" and kernels and not rule.fused_as:
                reason = f"the target has no integer kernel for {node.op_type}: only its weights are stored as integers"
                self.refusals.append(Refusal.of(node, reason))
            if exposed and rule.kind == "quantized":
                continue
            self._integer.add(node)
            for index in data_inputs(node, rule):
                value = node.inputs[index]
                self._mark(value)
                if rule.kind == "weighted" and value is not None:
                    self.multiplied.add(str(value.name))
            if not exposed and self.target.quantize_results:
                self._mark(output)
                if activation is not None:
                    self.folded[str(node.name)] = str(activation.name)

    def _exposed(self, output: ir.Value, rule: OperatorRule) -> str | None:
        """Why the output of a kernel, behind an activation, stays float; None where it does not."""
        if output.name in self._kept.values:
            return "what it makes stays float, as requested"
        if output.name in self._float_region:
            return "its output leads straight to a graph output"
        if output.name in self._kept_by_rule.spared and not (rule.float_output or rule.kind == "quantized"):
            return None
        return self._kept_by_rule.values.get(str(output.name))

    def _join_groups(self, nodes: list[ir.Node]) -> None:
        changed = True
        while changed:
            changed = False
            for node in nodes:
                ins = [v for v in (node.inputs if node.op_type == "Concat" else node.inputs[:1]) if v is not None]
                outs = [v for v in node.outputs if v.name and is_float(v) and self._may_be_codes(v.name)]
                if any(v.name in self.sites for v in (*ins, *outs)):
                    self._integer.add(node)
                    changed |= any([self._mark(v) for v in (*ins, *outs)])
                    self._unite([str(v.name) for v in (*ins, *outs)])

    def _is_uneven(self, node: ir.Node) -> bool:
        """Tell whether the size of anything that a node reads or makes depends on the data."""
        return any(value is not None and value.name in self._uneven for value in (*node.inputs, *node.outputs))

    def _may_be_codes(self, name: str) -> bool:
        """Tell whether a value may be quantized: it leads to no output, or is quantized for another reader."""
        kept = name in self._float_region or (
            name in self._kept_by_rule.values and name not in self._kept_by_rule.spared
        )
        return not kept or name in self.sites

    def _unite(self, names: list[str]) -> None:
        roots = {self.group(name) for name in names}
        leader = min(roots)
        for root in roots:
            self._parent[root] = leader

    def _fused_activation(self, node: ir.Node) -> ir.Node | None:
        """Relu or Clip behind a node that the target fuses into it."""
        use = only_use(node.outputs[0])
        rule = None if use is None else self.target.rule(use[0].op_type)
        fused = use is not None and rule is not None and rule.kind == "activation" and refuse(use[0], rule) is None
        kept = node.outputs[0].name in self._kept.values or (use is not None and use[0].name in self._kept.nodes)
        return use[0] if use is not None and fused and not kept else None


def _names_output(node: ir.Node) -> bool:
    return is_standard(node, "Identity") and node.outputs[0].is_graph_output()


def _weight_site(node: ir.Node, number_format: NumberFormat, target: Target) -> WeightSite:
    rule = target.rule(node.op_type)
    data, weight, bias = node.inputs[0], node.inputs[1], input_at(node, 2)
    assert data is not None and weight is not None
    return WeightSite(
        node=str(node.name),
        initializer=str(weight.name),
        axis=channel_axis(node, rank_of(weight)) if rule is not None and rule.per_channel else None,
        number_format=number_format,
        data_input=str(data.name),
        bias=None if bias is None else str(bias.name),
    )


def _narrowed(number_format: NumberFormat, bits: int) -> NumberFormat:
    return number_format.with_bits(min(bits, number_format.bits))


def _values(graph: ir.Graph) -> list[ir.Value]:
    """All values that are computed or fed, in graph order."""
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]
