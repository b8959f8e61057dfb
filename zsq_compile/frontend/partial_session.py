"""Run the part of a model that computes some of its values in ONNX Runtime, without torch and without long loading."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from backends.session import Session, open_session

_LARGE = 4096  # elements; smaller initializers stay inside the model


def open_partial_session(
    model: ir.Model, values: Sequence[str], *, open_axes: Mapping[str, Sequence[int]] | None = None
) -> Session:
    """Open a session of the part of a model that computes the named values; the model given is not changed.

    Args:
        model: a float model.
        values: names of node outputs; those that no node writes are left out.
        open_axes: axes by name of an input that other sizes may be fed along, where the part allows it.

    Raises:
        RuntimeModelError: the runtime cannot load that part.

    """
    part = model.clone()
    outputs = {value.name: value for node in part.graph for value in node.outputs}
    part.graph.outputs.clear()
    for value in (outputs[name] for name in dict.fromkeys(values) if name in outputs):
        value.dtype = value.dtype or ir.DataType.FLOAT  # the runtime needs the type of every output
        part.graph.outputs.append(value)
    common.RemoveUnusedNodesPass()(part)
    weights = _detach_weights(part)
    proto = ir.to_proto(part)
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    for graph_input in proto.graph.input:
        for axis in (open_axes or {}).get(graph_input.name, ()):
            _open(graph_input, axis)
    # All optimizations would take longer than the few runs that follow. And dead filters, whose weights are below
    # 1e-38, would make these runs twenty times slower. The first session of a process that flushes denormals does so
    # for the thread that opens it, for good: here for one that ends, so that the caller's numbers stay as they are.
    with ThreadPoolExecutor(1) as thread:
        config = {"session.set_denormal_as_zero": "1"}
        return thread.submit(open_session, proto, optimize="basic", config=config, weights=weights).result()


def _detach_weights(model: ir.Model) -> dict[str, NDArray[Any]]:
    """Declare the large weights of a model external, in place, and return them: so they are not copied on the way."""
    weights: dict[str, NDArray[Any]] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size > _LARGE:
            weights[name] = np.ascontiguousarray(tensor.numpy())
            value.const_value = ir.ExternalTensor(
                "weights",
                offset=0,
                length=tensor.nbytes,
                dtype=tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
            )
    return weights


def _open(value: onnx.ValueInfoProto, axis: int) -> None:
    size = value.type.tensor_type.shape.dim[axis]
    size.Clear()
    size.dim_param = f"{value.name}_{axis}"
