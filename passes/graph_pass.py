"""Base classes of the passes: what a pass returns, and the check that follows each one."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.checks import GraphInvariant, describe, violations
from passes.plan import Refusal
from passes.surgery import is_standard

PASS_ERRORS = (ir.passes.PassError, ir.passes.InvariantError)
"""What a pass raises where a graph is not as it needs it, or not as it should leave it."""


@dataclass
class Outcome(ir.passes.PassResult):
    """Result of a pass, with the nodes of its pattern that it refused."""

    refusals: tuple[Refusal, ...] = ()


def run_passes(passes: ir.passes.PassBase, model: ir.Model) -> ir.Model:
    """Run passes in order; what one of them raises comes out as it is, without the PassErrors of the runner around."""
    try:
        return passes(model).model
    except ir.passes.PassError as error:
        raise innermost(error) from error


def innermost(error: BaseException) -> BaseException:
    """Return what made a pass fail, where the error only says that one did."""
    while isinstance(error, ir.passes.PassError) and error.__cause__ is not None:
        error = error.__cause__
    return error


class GraphPass(ir.passes.InPlacePass):
    """A pass that rewrites the main graph; each must leave it WELL_FORMED."""

    def ensures(self, model: ir.Model) -> None:
        """Raise PostconditionError, with the name of the pass, if it broke the graph."""
        if found := violations(model, GraphInvariant.WELL_FORMED):
            raise ir.passes.PostconditionError(f"{type(self).__name__} broke the graph: {describe(found)}")


class NodePass(GraphPass):
    """A pass that visits nodes of the ONNX operators ``op_types``, or all nodes if empty, once each, in graph order."""

    op_types: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Rewrite the graph around a node; return whether it changed, or why the node is refused."""

    def call(self, model: ir.Model) -> Outcome:
        """Visit the nodes that there are at the start."""
        refusals: list[Refusal] = []
        modified = False
        for node in list(model.graph):
            if not self.op_types or is_standard(node, *self.op_types):
                result = self.rewrite(model.graph, node)
                if isinstance(result, str):
                    refusals.append(Refusal.of(node, result))
                else:
                    modified |= result
        return Outcome(model, modified, tuple(refusals))
