"""Which nodes of a float model run in integers under a plan, and what must follow where a value is left in float.

An integer kernel needs all that it reads, and for most what it makes, in codes. So a value that is left in float takes
the kernels around it along, and these take along what no other kernel needs quantized.
"""

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass

import onnx_ir as ir

from backends.target import OperatorRule, Target
from passes.operators import WEIGHTED
from passes.plan import QuantizationPlan
from passes.surgery import input_at, is_standard, rule_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A node that runs in integers.

    Attributes:
        node: its name.
        reads: groups of the values that it reads in codes.
        made: name of its value, behind the activation that is fused into it.
        makes: group of that value; None where it stays float.
        weighted: it multiplies by constants, or two matrices with each other.
        carries: it only moves codes.

    """

    node: str
    reads: tuple[str, ...]
    made: str
    makes: str | None
    weighted: bool
    carries: bool

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of everything that it needs in codes."""
        return self.reads if self.makes is None else (*self.reads, self.makes)


class IntegerKernels:
    """The kernels of a plan.

    Attributes:
        kernels: in graph order.
        groups: names of the groups that the plan quantizes.

    """

    def __init__(self, model: ir.Model, plan: QuantizationPlan, target: Target) -> None:
        self._sites = {site.value: site for site in plan.activations}
        self.groups = frozenset(site.group for site in plan.activations)
        made = {str(node.name): node for node in model.graph}
        self.kernels: tuple[Kernel, ...] = tuple(
            kernel
            for node in model.graph
            if (rule := rule_of(node, target)) is not None and rule.kind != "activation"
            if (kernel := self._kernel(node, rule, made.get(plan.folded.get(str(node.name), "")), target)) is not None
        )

    def close(self, floats: Collection[str]) -> frozenset[str]:
        """Return the groups to be left in float with some: those that no kernel which is left needs any more.

        Operators without weights go as well where no layer with weights is left beside them: alone, they cost more in
        conversions than they save.
        """
        left = set(floats) & self.groups
        while True:
            kept = self.running(left)
            needed = {group for kernel in kept if not kernel.carries for group in kernel.groups}
            needed -= _idle(kept) if left else set()
            if not (more := self.groups - needed - left - self._unneeded):
                return frozenset(left)
            left |= more

    def running(self, floats: Set[str]) -> tuple[Kernel, ...]:
        """Kernels that still run in integers when some groups are left in float."""
        return tuple(kernel for kernel in self.kernels if floats.isdisjoint(kernel.groups))

    def values(self, groups: Set[str]) -> frozenset[str]:
        """Names of the values of some groups."""
        return frozenset(name for name, site in self._sites.items() if site.group in groups)

    @property
    def _unneeded(self) -> set[str]:
        """Groups that nothing needs even in the whole plan: whoever placed them had other reasons."""
        needed = {group for kernel in self.kernels if not kernel.carries for group in kernel.groups}
        return (set(self.groups) - needed) | _idle(self.kernels)

    def _kernel(self, node: ir.Node, rule: OperatorRule, fused: ir.Node | None, target: Target) -> Kernel | None:
        read = [value for value in _data(node, rule) if value is not None and value.dtype in (None, ir.DataType.FLOAT)]
        sites = [self._sites.get(str(value.name)) for value in read]
        if not sites or any(site is None or node.name in site.float_readers for site in sites):
            return None
        output = str((fused or node).outputs[0].name)
        made = self._sites.get(output)
        if made is None and not (rule.float_output or not target.quantize_results):
            return None
        weighted = is_standard(node, *WEIGHTED)
        return Kernel(
            node=str(node.name),
            reads=tuple(dict.fromkeys(site.group for site in sites if site is not None)),
            made=output,
            makes=None if made is None else made.group,
            weighted=weighted,
            carries=rule.kind == "same_scale",
        )


def _data(node: ir.Node, rule: OperatorRule) -> list[ir.Value | None]:
    if rule.kind == "weighted":
        weight = input_at(node, 1)
        return list(node.inputs[: 1 if weight is None or weight.const_value is not None else 2])
    return [input_at(node, position) for position in rule.inputs or range(len(node.inputs))]


def _idle(kernels: Iterable[Kernel]) -> set[str]:
    """Find the groups that hang together through kernels none of which multiplies."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    kernels = tuple(kernels)
    for kernel in kernels:
        first, *others = (root(group) for group in kernel.groups)
        for other in others:
            parent[other] = first
    busy = {root(kernel.groups[0]) for kernel in kernels if kernel.weighted}
    return {group for kernel in kernels for group in kernel.groups if root(group) not in busy}
