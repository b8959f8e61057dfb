"""Find the axis of each input that samples are stacked on."""

from collections.abc import Sequence
from dataclasses import replace

import onnx

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.size_clues import UNNAMED, names_batch, recurrent_batch_axis


def find_batch_axes(proto: onnx.ModelProto, inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Set ``batch_axis`` of every input, whose shapes are those that the file declares.

    The first input that has an axis is the leading one: its batch is the open axis that is named like a batch, else
    the one that a recurrent operator takes for its batch, else axis 0. Of the other inputs it is

    1. the axis with the name of the leading one's batch;
    2. the one that a recurrent operator takes for its batch, where its size fits;
    3. axis 0, where it fits: both open, or both of one size;
    4. the only axis whose size fits; none, where there is no such axis.
    """
    declared = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    lead = next((spec for spec in inputs if spec.shape), None)
    if lead is None:
        return tuple(replace(spec, batch_axis=None) for spec in inputs)
    names = [dim.dim_param for dim in declared[lead.name]]
    lead_wired = recurrent_batch_axis(proto, lead.name, len(lead.shape))
    axis = next((axis for axis, name in enumerate(names) if names_batch(name)), lead_wired or 0)
    found = []
    for spec in inputs:
        own = [dim.dim_param for dim in declared[spec.name]]
        wired = recurrent_batch_axis(proto, spec.name, len(spec.shape))
        chosen = axis if spec is lead else _follow(spec, own, lead.shape[axis], names[axis], wired)
        found.append(replace(spec, batch_axis=chosen))
    return tuple(found)


def _follow(spec: InputSpec, names: list[str], size: int | None, name: str, wired: int | None) -> int | None:
    """Batch axis of an input beside the leading one, whose batch has this size, and this name where it is open."""
    if size is None and name not in UNNAMED and name in names:
        return names.index(name)
    fitting = [axis for axis, own in enumerate(spec.shape) if own == size]
    if wired in fitting:
        return wired
    if 0 in fitting:
        return 0
    return fitting[0] if len(fitting) == 1 else None
