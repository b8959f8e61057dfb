"""Keep control flow out of the way of all passes: its bodies become functions that read nothing but their arguments.

If(c) {reads x, w}  ->  zsq_compile.body.If(c, x, w)      with the If as the only node of that function

Passes see a node of another domain, which they leave alone, and every value that a body reads among its inputs;
runtimes and ONNX's inference take such functions as they are. ``inline_bodies`` puts the nodes back.
"""

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from passes.operators import BODY_DOMAIN
from passes.surgery import has_subgraph

Names = dict[str, None]


def outline_bodies(model: ir.Model) -> ir.Model:
    """Return the model with a function for each node of the main graph that holds graphs; itself where none does."""
    if not any(has_subgraph(node) for node in model.graph):
        return model
    proto = ir.to_proto(model)
    opsets = [entry for entry in proto.opset_import if entry.domain != BODY_DOMAIN]
    for count, node in enumerate(proto.graph.node):
        if any(True for _ in _bodies(node)):
            read = [*dict.fromkeys((*filter(None, node.input), *_captured(node)))]
            made = [name for name in node.output if name]
            proto.functions.append(
                onnx.helper.make_function(BODY_DOMAIN, node.op_type, read, made, [node], opsets, overload=str(count))
            )
            call = onnx.helper.make_node(
                node.op_type, read, made, name=node.name, domain=BODY_DOMAIN, overload=str(count)
            )
            node.CopyFrom(call)
    proto.opset_import.append(onnx.helper.make_opsetid(BODY_DOMAIN, 1))
    return ir.from_proto(proto)


def inline_bodies(model: ir.Model) -> ir.Model:
    """Return a copy of the model with the outlined nodes in their places; itself where there are none."""
    if not any(node.domain == BODY_DOMAIN for node in model.graph):
        return model
    model = model.clone()
    names = {node.outputs[0].name: node.name for node in model.graph if node.domain == BODY_DOMAIN}
    common.InlinePass()(model)
    model.graph.opset_imports.pop(BODY_DOMAIN, None)
    for node in model.graph:
        if has_subgraph(node) and node.outputs[0].name in names:
            node.name = names[node.outputs[0].name]
    return model


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _captured(node: onnx.NodeProto) -> Names:
    """Names that the bodies of a node read from outside of them, in order."""
    found: Names = {}
    for body in _bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        for inner in body.node:
            found |= dict.fromkeys(name for name in (*inner.input, *_captured(inner)) if name and name not in own)
            own.update(inner.output)
        found |= dict.fromkeys(value.name for value in body.output if value.name not in own)
    return found
