"""Run the front of a network, or all of it, in the runtime on a handful of made up samples, and look at its values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from backends.session import Session, open_session
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.inspection.natural_images import natural_fields, one_over_f

Arrays = dict[str, NDArray[Any]]

_LARGE = 4096  # numbers; what is smaller travels inside the model


def session_up_to(model: ir.Model, values: Sequence[str], *, sizes_open: bool = True) -> Session:
    """Open a session of the part of a model that makes the named values; the model given is not changed.

    With ``sizes_open`` pictures of another size may be fed, where the part allows it.

    Raises:
        RuntimeModelError: the runtime cannot load that part.

    """
    part = model.clone()
    wanted = dict.fromkeys(values)
    by_name = {value.name: value for node in part.graph for value in node.outputs if value.name in wanted}
    part.graph.outputs.clear()
    for value in (by_name[name] for name in wanted if name in by_name):
        value.dtype = value.dtype or ir.DataType.FLOAT  # the runtime wants to be told of outputs
        part.graph.outputs.append(value)
    common.RemoveUnusedNodesPass()(part)
    weights = _outside(part)
    proto = ir.to_proto(part)
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    for given in proto.graph.input if sizes_open else ():
        _open_sizes(given)
    # The runtime's deeper rewriting takes longer than the few runs that follow. And dead filters, whose weights are
    # below 1e-38, would make these runs twenty times slower.
    return open_session(proto, optimize="basic", config={"session.set_denormal_as_zero": "1"}, weights=weights)


def _outside(model: ir.Model) -> Arrays:
    """Call the large weights of a model external, in place; returns their numbers."""
    weights: Arrays = {}
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


def _open_sizes(value: onnx.ValueInfoProto) -> None:
    """Leave all sizes of a picture open but its channels."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) == 4:
        for axis in (2, 3):
            dims[axis].Clear()
            dims[axis].dim_param = f"{value.name}_{axis}"


def made_up_inputs(
    inputs: Sequence[InputSpec], count: int, rng: np.random.Generator, *, sides: tuple[int, int] | None = None
) -> Arrays | None:
    """Make samples for all inputs: pictures in [0, 1] for images, signals with a 1/f spectrum for other floats.

    ``sides`` replaces height and width of the images. None where an input takes something else than floats.
    """
    made: Arrays = {}
    for spec in inputs:
        if not np.issubdtype(spec.dtype, np.floating):
            return None
        shape = spec.batched(int(spec.shape[0] or count) if spec.shape else count)
        if spec.is_image:
            height, width = sides or shape[2:4]
            made[spec.name] = natural_fields(shape[0], shape[1], height, width, rng).astype(spec.dtype)
        elif len(shape) >= 2 and shape[-1] > 1:
            rows = one_over_f((*shape[:-1], 1, shape[-1]), rng)
            made[spec.name] = rows.reshape(shape).astype(spec.dtype)
        else:
            made[spec.name] = rng.standard_normal(shape if spec.shape else ()).astype(spec.dtype)
    return made


def value_ranges(
    model: ir.Model, values: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[float, float]]:
    """Lowest and highest number of values of a model on one feed; the runtime looks for them as it goes.

    Values that hold anything but finite floats are left out.

    Raises:
        RuntimeModelError: the runtime cannot load or run the model.

    """
    copy = model.clone()
    known = {value.name: value for node in copy.graph for value in node.outputs}
    known |= {value.name: value for value in copy.graph.inputs}
    made: dict[str, str] = {}
    for number, name in enumerate(dict.fromkeys(values)):
        if name in known and known[name].dtype in (None, ir.DataType.FLOAT):
            for kind in ("Min", "Max"):
                node = ir.node(f"Reduce{kind}", [known[name]], attributes={"keepdims": 0})
                node.outputs[0].name = made[f"{name}/{kind}"] = f"zsq_{kind}_{number}"
                node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(())
                copy.graph.append(node)
    found = session_up_to(copy, tuple(made.values()), sizes_open=False).run(feeds) if made else {}
    ends = {name: (float(found[made[f"{name}/Min"]]), float(found[made[f"{name}/Max"]])) for name in _names(made)}
    return {name: (low, high) for name, (low, high) in ends.items() if np.isfinite((low, high)).all()}


def _names(made: Mapping[str, str]) -> list[str]:
    return [key.removesuffix("/Min") for key in made if key.endswith("/Min")]
