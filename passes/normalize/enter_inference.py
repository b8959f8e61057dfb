"""Switch nodes that were exported for training to inference.

BatchNormalization(training_mode=1)  ->  BatchNormalization, with the running mean and variance
Dropout(x, ratio, training=True)     ->  Dropout(x, ratio)
"""

import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import input_at


class EnterInference(NodePass):
    """Take BatchNormalization and Dropout out of training mode; refused where an output of training alone is read."""

    op_types = ("BatchNormalization", "Dropout")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Switch the node."""
        if not _in_training(node):
            return False
        read = [output.name for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
        if read:
            return f"it is in training mode, and '{read[0]}', which exists in training only, is read"
        if node.op_type == "BatchNormalization":
            node.attributes.pop("training_mode", None)
            node.resize_outputs(1)
        else:
            node.resize_inputs(2)
        return True


def _in_training(node: ir.Node) -> bool:
    if node.op_type == "BatchNormalization":
        return bool(node.attributes.get_int("training_mode", 0))
    flag = constant_value(input_at(node, 2))
    return input_at(node, 2) is not None and (flag is None or bool(flag.any()))
