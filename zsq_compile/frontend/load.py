"""From a file to a graph that the compiler can work on; what cannot be used is refused in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from backends.session import RuntimeModelError
from passes.checks import Door, IllegalGraphError, check
from passes.normalize.enter_inference import EnterInference
from passes.normalize.normalize import SimplifierError, normalize, simplified
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import LoadError, UnsupportedModelError
from zsq_compile.frontend.dequantize import FloatForm, float_form, require_alike
from zsq_compile.frontend.equivalence import TOLERANCE, Reference
from zsq_compile.frontend.half_precision import widen_halves
from zsq_compile.frontend.input_shapes import fix_batch, settle_inputs
from zsq_compile.frontend.opset import MINIMUM_OPSET, OpsetError, raise_opset
from zsq_compile.frontend.read_onnx import has_branches, opset_of, read_model, refuse_branches, require_supported


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedModel:
    """A model as the compiler sees it.

    Attributes:
        path: the user's file.
        original: the user's graph with settled inputs, raised to opset 21 or later: the float reference.
        model: the same in normal form, BatchNormalization kept.
        inputs: what it takes in.
        outputs: names of its outputs.
        opset: of the user's file.
        notes: what the user should know about the loading.
        warnings: what the user should do about it.
        restored_bytes: size of the float reference, where the file itself is quantized; else None.

    """

    path: Path
    original: onnx.ModelProto
    model: ir.Model
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    opset: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    restored_bytes: int | None = None


def load_model(path: Path, *, input_shapes: Mapping[str, tuple[int | None, ...]] | None = None) -> LoadedModel:
    """Read a model, raise it to opset 21, and bring it into normal form; one that is quantized becomes float.

    Each step's result is run in ONNX Runtime on random inputs and compared with the file's own outputs: they must agree
    within ``agreement.TOLERANCE`` of the output's scale. The float form of a quantized file must do what the file does
    but for its roundings, see ``float_form``.

    Args:
        path: an .onnx file; weights in external files are read too.
        input_shapes: sizes by input name for those that the file leaves open, batch first, None for an open batch.

    Raises:
        LoadError: the file is not an ONNX model that a runtime accepts.
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
    proto = _without_branches(proto, path)
    inputs = settle_inputs(proto, path, input_shapes or {})
    proto = _in_inference(proto, path, notes)
    inputs, reference = _reference(proto, path, inputs, notes)
    if form.given is not None:
        notes.append(_alike(reference, form, path))
    original = _raised(proto, path, opset, reference, notes)
    model = _normal(original, path, reference, notes)
    return LoadedModel(
        path=path,
        original=original,
        model=model,
        inputs=inputs,
        outputs=tuple(value.name for value in original.graph.output),
        opset=opset,
        notes=tuple(notes),
        warnings=() if form.warning is None else (form.warning,),
        restored_bytes=None if form.given is None else _bytes(original),
    )


def _alike(reference: Reference, form: FloatForm, path: Path) -> str:
    try:
        return require_alike(reference, form, path)
    except RuntimeModelError as error:
        raise LoadError(f"{path} cannot be run: {error}") from error


def _bytes(proto: onnx.ModelProto) -> int:
    """Size that a model has as a file, nearly for one that is too large to be written as one."""
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    return int(proto.ByteSize()) if weights < onnx.checker.MAXIMUM_PROTOBUF else weights


def _without_branches(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Let the simplifier decide branches whose condition is constant; refuse the others."""
    branches = has_branches(proto)
    if not branches:
        return proto
    try:
        decided = simplified(proto)
    except SimplifierError:
        decided = proto
    if left := has_branches(decided):
        raise refuse_branches(left, decided, path)
    return decided


def _in_inference(proto: onnx.ModelProto, path: Path, notes: list[str]) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    outcome = EnterInference().call(model)
    if outcome.refusals:
        first = outcome.refusals[0]
        raise UnsupportedModelError(
            f"{path}: {first.op_type} '{first.where}' cannot be used: {first.reason}. "
            "Call model.eval() before the export"
        )
    if not outcome.modified:
        return proto
    notes.append(
        "the file was exported in training mode: its BatchNormalization and Dropout nodes were switched to inference, "
        "where they use the statistics that the file holds"
    )
    return ir.to_proto(outcome.model)


def _reference(
    proto: onnx.ModelProto, path: Path, inputs: tuple[InputSpec, ...], notes: list[str]
) -> tuple[tuple[InputSpec, ...], Reference]:
    """Run the user's graph; a batch that is declared open and is not becomes fixed."""
    try:
        return inputs, Reference(proto, inputs)
    except RuntimeModelError as error:
        if all(None not in spec.shape for spec in inputs):
            raise LoadError(f"{path} cannot be run: {error}") from error
    fixed = fix_batch(proto, inputs)
    try:
        reference = Reference(proto, fixed)
    except RuntimeModelError as error:
        raise LoadError(f"{path} cannot be run: {error}") from error
    notes.append("the file declares an open batch, but runs with a batch of 1 only: the batch was fixed to 1")
    return fixed, reference


def _raised(proto: onnx.ModelProto, path: Path, opset: int, reference: Reference, notes: list[str]) -> onnx.ModelProto:
    advice = f"export the model with opset {MINIMUM_OPSET}"
    try:
        raised = raise_opset(proto, opset)
        difference = reference.difference(raised)
    except (OpsetError, RuntimeModelError) as error:
        raise UnsupportedModelError(
            f"{path} cannot be raised from opset {opset} to {MINIMUM_OPSET}: {error}; {advice}"
        ) from error
    if difference > TOLERANCE:
        raise UnsupportedModelError(
            f"{path} computes something else once it is raised from opset {opset} to {MINIMUM_OPSET} (outputs differ "
            f"by {difference:.1e} of their scale, at most {TOLERANCE:.0e} is allowed): {advice}"
        )
    if opset < MINIMUM_OPSET:
        notes.append(f"opset {opset} was raised to {MINIMUM_OPSET}, which the quantized file needs too")
    return raised


def _normal(original: onnx.ModelProto, path: Path, reference: Reference, notes: list[str]) -> ir.Model:
    """Normalise with the simplifier, and without it if what comes out is not right."""
    for simplify in (True, False):
        try:
            model = normalize(ir.from_proto(original), simplify=simplify)
            check(model, Door.NORMALIZED)
            difference = reference.difference(ir.to_proto(model))
        except (SimplifierError, IllegalGraphError, RuntimeModelError) as error:
            reason = str(error)
        else:
            if difference <= TOLERANCE:
                return model
            reason = f"its outputs differ by {difference:.1e} of their scale from the file's"
        if simplify:
            notes.append(f"the simplified graph was not used: {reason}")
    raise UnsupportedModelError(f"{path} cannot be brought into normal form: {reason}")
