"""Bring a model to an opset that it can be compiled at (21, which has 4-bit integers, or later)."""

from math import prod
from typing import Any

import onnx
import onnx.version_converter

from passes.operators import STANDARD_DOMAINS
from zsq_compile.frontend.expand_group_norm import expand_group_norm

MINIMUM_OPSET = 21
_MINIMUM_IR = 10  # the file format that knows INT4
_LARGE = 1024  # elements; smaller initializers may be sizes or limits, which the converter looks at


class OpsetError(ValueError):
    """ONNX's version converter does not know how to bring an operator of this model to another opset."""


def convert_opset(model: onnx.ModelProto, opset: int, wanted: int) -> onnx.ModelProto:
    """Return a copy of the model at the wanted opset, a later or an earlier one than its own, ``opset``.

    Raises:
        OpsetError: the converter failed.

    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    if opset != wanted:
        if opset < wanted:
            expand_group_norm(converted, opset)
        weights = detach_weights(converted.graph)
        try:
            converted = onnx.version_converter.convert_version(converted, wanted)
        except Exception as error:  # its C++ core raises bare RuntimeError and worse
            reason = str(error).strip().splitlines()[0].partition("` failed: ")
            if wanted > opset or not _relabelled(converted, wanted):
                raise OpsetError(reason[2] or reason[0]) from error
        _attach_weights(converted.graph, weights, [tensor.name for tensor in model.graph.initializer])
        _restore_resizing(model, converted, opset)
    converted.ir_version = max(converted.ir_version, _MINIMUM_IR)
    return converted


def _relabelled(model: onnx.ModelProto, opset: int) -> bool:
    """Write an earlier opset into a model, in place, and tell whether it is a valid model of that one.

    The converter lacks steps down for operators that only take more types since (GlobalMaxPool 22).
    """
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = opset
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # type inference raises other errors than the checker
        return False
    return True


def detach_weights(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
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
