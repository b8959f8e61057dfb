"""Write the GroupNormalization of opsets 18 to 20, which has a scale for every group, in operators that remained.

    GroupNormalization(x, scale, bias)
    ->  Reshape(InstanceNormalization(Reshape(x, [0, groups, -1]), scale, bias), Shape(x))

Since opset 21 it has a scale for every channel. ONNX's version converter keeps the node and its inputs, which
then fit no longer.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from passes.operators import STANDARD_DOMAINS

_WITH_GROUP_SCALES = range(18, 21)


def expand_group_norm(model: onnx.ModelProto, opset: int) -> None:
    """Replace the nodes of the main graph, in place, in a model of that opset."""
    if opset not in _WITH_GROUP_SCALES:
        return
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "GroupNormalization" and node.domain in STANDARD_DOMAINS:
            nodes += _expanded(node, model.graph)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _expanded(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    prefix = f"{node.output[0]}_grouped"
    shape = numpy_helper.from_array(np.array([0, given["num_groups"], -1], np.int64), f"{prefix}_shape")
    graph.initializer.append(shape)
    epsilon = {"epsilon": given["epsilon"]} if "epsilon" in given else {}
    return [
        helper.make_node("Reshape", [node.input[0], shape.name], [prefix]),
        helper.make_node(
            "InstanceNormalization", [prefix, *node.input[1:]], [f"{prefix}_normal"], node.name, **epsilon
        ),
        helper.make_node("Shape", [node.input[0]], [f"{prefix}_sizes"]),
        helper.make_node("Reshape", [f"{prefix}_normal", f"{prefix}_sizes"], list(node.output)),
    ]
