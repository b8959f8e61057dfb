"""Switch nodes that were exported for training to what they do when the network is used.

BatchNormalization(training_mode=1)  ->  BatchNormalization, with the moments it remembers
Dropout(x, ratio, training=True)     ->  Dropout(x, ratio)
"""

import onnx_ir as ir

from passes.constants import constant_value
from passes.outcome import Outcome
from passes.plan import Refusal
from passes.surgery import is_standard


class EnterInference(ir.passes.InPlacePass):
    """Take BatchNormalization and Dropout out of training mode, unless something reads what only training makes."""

    def call(self, model: ir.Model) -> Outcome:
        """Visit all nodes once; the refusals name those that stay in training mode."""
        refusals: list[Refusal] = []
        modified = False
        for node in model.graph:
            if not _in_training(node):
                continue
            read = [output.name for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
            if read:
                reason = f"it is in training mode, and '{read[0]}', which exists in training only, is read"
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=reason))
                continue
            if node.op_type == "BatchNormalization":
                node.attributes.pop("training_mode", None)
                node.resize_outputs(1)
            else:
                node.resize_inputs(2)
            modified = True
        return Outcome(model, modified, tuple(refusals))


def _in_training(node: ir.Node) -> bool:
    if is_standard(node, "BatchNormalization"):
        return bool(node.attributes.get_int("training_mode", 0))
    if not is_standard(node, "Dropout") or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    flag = constant_value(node.inputs[2])
    return flag is None or bool(flag.any())
