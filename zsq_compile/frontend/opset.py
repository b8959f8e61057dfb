"""Raise a model to the operators that integer weights need (opset 21), and see to it that it means the same."""

import onnx
import onnx.version_converter

MINIMUM_OPSET = 21
_MINIMUM_IR = 10  # the file format that knows INT4


class OpsetError(ValueError):
    """ONNX's version converter does not know how to raise an operator of this model."""


def raise_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model at opset 21, or at its own if that is later; the model given is not changed.

    Raises:
        OpsetError: the converter failed.

    """
    if opset < MINIMUM_OPSET:
        try:
            raised = onnx.version_converter.convert_version(model, MINIMUM_OPSET)
        except Exception as error:  # its C++ core raises bare RuntimeError and worse
            raise OpsetError(str(error).strip().splitlines()[0]) from error
        _restore_resizing(model, raised, opset)
    else:
        raised = onnx.ModelProto()
        raised.CopyFrom(model)
    raised.ir_version = max(raised.ir_version, _MINIMUM_IR)
    return raised


def _restore_resizing(model: onnx.ModelProto, raised: onnx.ModelProto, opset: int) -> None:
    """Say of Upsample and of Resize before version 11 where they take their samples.

    They divide the position by the scale. Resize 11 goes by pixel centres if nothing is said, and the converter says
    nothing.
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
