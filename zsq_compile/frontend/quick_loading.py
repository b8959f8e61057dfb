"""Load a model to look at it: the normal form without the simplifier and without a proof that it computes the same.

A second where ``loading`` takes five or more: the simplifier brings torch with it. Large weights stay out while the
graph goes through ONNX's converter, which copies every byte several times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from passes.checks import Door, IllegalGraphError, check, violations
from passes.normalize.enter_inference import EnterInference
from passes.normalize.normalize import SimplifierError, normalize, simplified
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.dequantize import float_form
from zsq_compile.frontend.half_precision import widen_halves
from zsq_compile.frontend.input_shapes import settle_inputs
from zsq_compile.frontend.opset import MINIMUM_OPSET, OpsetError, raise_opset
from zsq_compile.frontend.read_onnx import has_branches, opset_of, read_model, refuse_branches, require_supported

_LARGE = 1024  # numbers; smaller initializers may be sizes or limits, which the converter looks at
_USUAL_SIDE, _USUAL_LENGTH = 224, 128

Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuickModel:
    """A model as it may be looked at.

    Attributes:
        model: in normal form, BatchNormalization kept.
        inputs: what it takes in, with sizes assumed for those that are open.
        outputs: names of its outputs.
        opset: of the file.
        operators: how often each operator stands in the file, the most frequent first.
        assumed: text of ``--input-shape`` for each input that leaves more than its batch open, by name.
        notes: what became of the graph on the way, in words.
        warnings: what the user should do about it.

    """

    model: ir.Model
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    opset: int
    operators: tuple[tuple[str, int], ...]
    assumed: Mapping[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def load_quickly(path: Path, *, input_shapes: Mapping[str, Shape] | None = None) -> QuickModel:
    """Read a model and bring it into normal form; one that is quantized becomes float.

    Args:
        path: an .onnx file.
        input_shapes: sizes by input name; those that are open and not given are assumed, and told.

    Raises:
        LoadError: the file is not an ONNX model.
        UnsupportedModelError: it is, but the compiler cannot work on it.
        ConfigError: ``input_shapes`` does not fit the model.

    """
    proto = read_model(path)
    notes = list(widen_halves(proto))
    opset = opset_of(proto, path)
    form = float_form(proto, path)
    proto = form.model
    notes += form.notes
    require_supported(proto, path)
    if branches := has_branches(proto):
        proto = _decided(proto, path)
        notes.append(f"branches were decided by constants: {', '.join(branches)}")
    operators = _operators(proto if form.given is None else form.given)
    given = dict(input_shapes or {})
    guessed = {name: shape for name, shape in _usual_shapes(proto).items() if name not in given}
    inputs = settle_inputs(proto, path, {**given, **guessed})
    weights = _taken_out(proto)
    model = _with_weights(_raised(_in_inference(ir.from_proto(proto), path, notes), path, opset), weights)
    if opset < MINIMUM_OPSET:
        notes.append(f"opset {opset} is raised to {MINIMUM_OPSET}, which the quantized file needs")
    model = _normal(model, path, notes)
    return QuickModel(
        model=model,
        inputs=inputs,
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        opset=opset,
        operators=operators,
        assumed={name: "x".join("?" if size is None else str(size) for size in guessed[name]) for name in guessed},
        notes=tuple(notes),
        warnings=() if form.warning is None else (form.warning,),
    )


def _decided(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Let the simplifier decide branches whose condition is constant, though it takes its time; refuse the others."""
    try:
        decided = simplified(proto)
    except SimplifierError:
        decided = proto
    if left := has_branches(decided):
        raise refuse_branches(left, decided, path)
    return decided


def _operators(proto: onnx.ModelProto) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for node in proto.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _usual_shapes(proto: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes, with usual sizes in open places, of inputs that leave more than their batch open."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    found: dict[str, Shape] = {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        if value.name in initializers:
            continue
        if not tensor.HasField("shape"):
            found[value.name] = (None, 3, _USUAL_SIDE, _USUAL_SIDE)
            continue
        sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
        usual = _USUAL_SIDE if len(sizes) == 4 else _USUAL_LENGTH
        if None in sizes[1:]:
            channels = 3 if len(sizes) == 4 else usual
            guesses = [None, channels, *[usual] * max(len(sizes) - 2, 0)]
            found[value.name] = tuple(
                guess if size is None else size for size, guess in zip(sizes, guesses, strict=False)
            )
    return found


def _in_inference(model: ir.Model, path: Path, notes: list[str]) -> ir.Model:
    outcome = EnterInference().call(model)
    if outcome.refusals:
        first = outcome.refusals[0]
        raise UnsupportedModelError(
            f"{path}: {first.op_type} '{first.where}' cannot be used: {first.reason}. "
            "Call model.eval() before the export"
        )
    if outcome.modified:
        notes.append("it was exported in training mode; compiling switches it to inference")
    return model


def _raised(model: ir.Model, path: Path, opset: int) -> ir.Model:
    try:
        return ir.from_proto(raise_opset(ir.to_proto(model), opset))
    except OpsetError as error:
        raise UnsupportedModelError(
            f"{path} cannot be raised from opset {opset} to {MINIMUM_OPSET}: {error}; export the model with opset "
            f"{MINIMUM_OPSET}"
        ) from error


def _normal(raised: ir.Model, path: Path, notes: list[str]) -> ir.Model:
    """Normalise without the simplifier, and with it where that does not do."""
    model = normalize(raised, simplify=False)
    if not violations(model, Door.NORMALIZED):
        return model
    notes.append("the graph needs the simplifier to be understood, which took most of the time")
    try:
        model = normalize(raised)
        check(model, Door.NORMALIZED)
    except (SimplifierError, IllegalGraphError) as error:
        raise UnsupportedModelError(f"{path} cannot be brought into normal form: {error}") from error
    return model


def _taken_out(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Turn large float initializers, in place, into inputs of the graph; returns their numbers."""
    kept, weights = [], {}
    for tensor in proto.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) <= _LARGE:
            kept.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
            continue
        weights[tensor.name] = onnx.numpy_helper.to_array(tensor)
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return weights


def _with_weights(model: ir.Model, weights: Mapping[str, NDArray[np.generic]]) -> ir.Model:
    """Put the weights back, in place."""
    for value in list(model.graph.inputs):
        name = value.name or ""
        if name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.Tensor(weights[name], name=name)
            model.graph.initializers.add(value)
    return model
