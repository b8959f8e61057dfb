"""Infer the shapes that ONNX's inference leaves out: what a Loop carries from turn to turn, and what it collects."""

import contextlib

import onnx

from passes.operators import BODY_DOMAIN

Types = dict[str, onnx.TypeProto]


def annotate_loops(proto: onnx.ModelProto) -> bool:
    """Annotate, in place, the outputs of outlined Loops whose shapes are missing; return whether any was annotated.

    A carried value has the rank that it starts with, and its sizes as far as one turn keeps them; what is collected has
    an axis for the turns in front of what the body makes. Inference must have annotated the rest of the graph.
    """
    if not proto.functions:
        return False
    known: Types = {
        value.name: value.type
        for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    for tensor in proto.graph.initializer:
        known[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    functions = {(function.name, function.overload): function for function in proto.functions}
    modified = False
    for node in proto.graph.node:
        function = functions.get((node.op_type, node.overload)) if node.domain == BODY_DOMAIN else None
        if function is None or node.op_type != "Loop" or all(name in known for name in node.output):
            continue
        arguments = {
            formal: known[name] for formal, name in zip(function.input, node.input, strict=True) if name in known
        }
        made = _loop_types(function, arguments)
        actual = dict(zip(function.output, node.output, strict=True))
        for formal, kind in made.items():
            if actual[formal] not in known:
                known[actual[formal]] = kind
                _annotate(proto.graph, actual[formal], kind)
                modified = True
    return modified


def _loop_types(function: onnx.FunctionProto, arguments: Types) -> Types:
    """Types of the outputs of a Loop, by name, as far as they are known."""
    loop = function.node[0]
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    starts = [arguments.get(name) for name in loop.input[2:]]
    turn = onnx.GraphProto()
    turn.CopyFrom(body)
    for value, start in zip(turn.input[2:], starts, strict=True):
        if start is not None:
            value.type.CopyFrom(start)
    turn.input.extend(onnx.ValueInfoProto(name=name, type=kind) for name, kind in arguments.items())
    for value in turn.output:
        value.type.tensor_type.ClearField("shape")
    model = onnx.helper.make_model(turn, opset_imports=function.opset_import)
    with contextlib.suppress(onnx.shape_inference.InferenceError):  # shapes that change from turn to turn
        turn = onnx.shape_inference.infer_shapes(model).graph
    made = [value.type if value.type.tensor_type.HasField("shape") else None for value in turn.output[1:]]
    carried = [_carried(start, behind) for start, behind in zip(starts, made, strict=False)]
    collected = [_collected(kind) for kind in made[len(starts) :]]
    kinds = zip(loop.output, (*carried, *collected), strict=False)
    return {name: kind for name, kind in kinds if name and kind is not None}


def _carried(start: onnx.TypeProto | None, behind: onnx.TypeProto | None) -> onnx.TypeProto | None:
    if start is None:
        return None
    kind = onnx.TypeProto()
    kind.CopyFrom(start)
    sizes = kind.tensor_type.shape.dim
    after = behind.tensor_type.shape.dim if behind is not None else []
    for place, size in enumerate(sizes):
        if len(after) != len(sizes) or size != after[place]:
            size.Clear()
    return kind


def _collected(behind: onnx.TypeProto | None) -> onnx.TypeProto | None:
    if behind is None:
        return None
    kind = onnx.TypeProto()
    kind.CopyFrom(behind)
    del kind.tensor_type.shape.dim[:]
    kind.tensor_type.shape.dim.add()
    kind.tensor_type.shape.dim.extend(behind.tensor_type.shape.dim)
    return kind


def _annotate(graph: onnx.GraphProto, name: str, kind: onnx.TypeProto) -> None:
    value = next((value for value in (*graph.output, *graph.value_info) if value.name == name), None)
    if value is None:
        value = graph.value_info.add()
        value.name = name
    value.type.CopyFrom(kind)
