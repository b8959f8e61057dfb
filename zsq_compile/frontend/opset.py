"""Raise a model to the opset that has 4-bit integers (21), without changing what it computes."""

from math import prod
from typing import Any

import onnx
import onnx.version_converter

from zsq_compile.frontend.expand_group_norm import expand_group_norm

MINIMUM_OPSET = 21
_MINIMUM_IR = 10  # the file format that knows INT4
_LARGE = 1024  # elements; smaller initializers may be sizes or limits, which the converter looks at


class OpsetError(ValueError):
    """ONNX's version converter does not know how to raise an operator of this model."""


def raise_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model at opset 21, or at its own if that is later; the model given is not changed.

    Raises:
        OpsetError: the converter failed.

    """
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    if opset < MINIMUM_OPSET:
        expand_group_norm(raised, opset)
        weights = _detach_weights(raised.graph)
        try:
            raised = onnx.version_converter.convert_version(raised, MINIMUM_OPSET)
        except Exception as error:  # its C++ core raises bare RuntimeError and worse
            raise OpsetError(str(error).strip().splitlines()[0]) from error
        _attach_weights(raised.graph, weights, [tensor.name for tensor in model.graph.initializer])
        _restore_resizing(model, raised, opset)
    raised.ir_version = max(raised.ir_version, _MINIMUM_IR)
    return raised


def _detach_weights(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Make graph inputs of large float initializers, in place: the converter copies every byte several times."""
    tensors = list(graph.initializer)
    weights = [one for one in tensors if one.data_type == onnx.TensorProto.FLOAT and prod(one.dims) > _LARGE]
    graph.input.extend(onnx.helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in weights)
    detached = {one.name for one in weights}
    _replace(graph.initializer, [one for one in tensors if one.name not in detached])
    return weights


def _attach_weights(graph: onnx.GraphProto, weights: list[onnx.TensorProto], order: list[str]) -> None:
    """Make initializers of the weights again, in place, and put all into the given order."""
    attached, places = {one.name for one in weights}, {name: place for place, name in enumerate(order)}
    _replace(graph.input, [value for value in graph.input if value.name not in attached])
    tensors = [*graph.initializer, *weights]
    _replace(graph.initializer, sorted(tensors, key=lambda one: places.get(one.name, len(places))))


def _replace(field: Any, items: list[Any]) -> None:
    """Give a repeated field other items; some of them may be its own."""
    del field[:]
    field.extend(items)


def _restore_resizing(model: onnx.ModelProto, raised: onnx.ModelProto, opset: int) -> None:
    """Set the coordinate mode of nodes that were Upsample, or Resize before version 11.

    Those divide the position by the scale ("asymmetric"). The converter sets no mode, and the default of Resize 11 is
    "half_pixel".
    """
    old = ("Upsample", "Resize") if opset < 11 else ()
    outputs = {node.output[0] for node in model.graph.node if node.op_type in old}
    for node in raised.graph.node:
        if node.op_type != "Resize" or node.output[0] not in outputs:
            continue
        kept = [
            entry for entry in node.attribute if entry.name not in ("coordinate_transformation_mode", "nearest_mode")
        ]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))
