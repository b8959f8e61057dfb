"""Name nodes: plans, reports and messages refer to them by name."""

import onnx_ir as ir

from passes.graph_pass import GraphPass


class NameNodes(GraphPass):
    """Give every node of the main graph a unique name: its own where it has one, else its operator and first output.

    The first of several nodes of one name keeps it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name the nodes that have no name, and rename repeated ones."""
        own = {node.name for node in model.graph if node.name}
        taken: set[str] = set()
        modified = False
        for node in model.graph:
            wanted = node.name or f"{node.op_type}_{next((output.name for output in node.outputs if output.name), '')}"
            name, count = wanted, 0
            while name in taken or (name in own and name != node.name):
                count += 1
                name = f"{wanted}_{count}"
            taken.add(name)
            if name != node.name:
                node.name = name
                modified = True
        return ir.passes.PassResult(model, modified)
