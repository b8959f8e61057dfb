"""Load an ONNX file as a graph that the compiler can work on, or say why that is not possible."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from backends.session import RuntimeModelError
from passes.analysis.find_joint_decisions import decides_jointly
from passes.analysis.find_uneven_values import find_uneven_values
from passes.checks import GraphInvariant, IllegalGraphError, check
from passes.graph_pass import PASS_ERRORS
from passes.normalize.enter_inference import EnterInference
from passes.normalize.infer_shapes import Trial
from passes.normalize.normalize import SimplifierError, normalize, run_onnxsim
from passes.operators import BODY_DOMAIN, WEIGHTED
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import LoadError, UnsupportedModelError
from zsq_compile.frontend.choose_sizes import ChosenSizes
from zsq_compile.frontend.dequantize import dequantize, require_equivalent
from zsq_compile.frontend.equivalence import TOLERANCE, Reference
from zsq_compile.frontend.executable import require_executable
from zsq_compile.frontend.face import Face, as_trials, with_sizes
from zsq_compile.frontend.find_faults import blamed_on_file, graph_fault
from zsq_compile.frontend.find_kinds import find_kinds
from zsq_compile.frontend.find_layouts import find_layouts
from zsq_compile.frontend.half_precision import widen_halves
from zsq_compile.frontend.input_shapes import (
    Shape,
    describe_shape,
    find_sizes,
    fix_sizes,
    has_open_sizes,
    settle_inputs,
)
from zsq_compile.frontend.open_batch import InnerForm, as_inner_form, batch_first
from zsq_compile.frontend.read_onnx import (
    has_branches,
    opset_of,
    read_model,
    refuse_branches,
    refuse_random,
    require_supported,
    separate_names,
)
from zsq_compile.frontend.run_reference import run_reference
from zsq_compile.frontend.settle_opset import lower_to_runnable, settle_opset
from zsq_compile.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedModel:
    """A model as the compiler sees it.

    Attributes:
        path: the user's file.
        original: the user's graph, at an opset that fits: the float reference.
        model: the same in normal form, BatchNormalization kept, with the sizes that are worked with in open places, and
            with its batch on axis 0, open where that was proven right.
        inputs: of ``model``.
        face: inputs and outputs of ``original``, which the written file gets back.
        other_inputs: other sizes of the inputs at which the float model was seen to run, where it leaves some open.
        outputs: names of its outputs.
        opset: of the user's file.
        operators: number of nodes in the file by operator, the most frequent first.
        assumed: ``--input-shape`` text by name of each input with open sizes that were chosen here.
        notes: what the user should know about the loading.
        warnings: what the user should do about it.
        restored_bytes: size of the float reference, where the file itself is quantized; else None.

    """

    path: Path
    original: onnx.ModelProto
    model: ir.Model
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    face: Face
    opset: int
    other_inputs: tuple[tuple[InputSpec, ...], ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    restored_bytes: int | None = None

    @property
    def uneven_outputs(self) -> frozenset[str]:
        """Names of the outputs whose size depends on the data (see ``find_uneven_values``)."""
        return find_uneven_values(self.model) & set(self.outputs)


def load_model(
    path: Path,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    fix_shapes: bool = False,
    simplify: bool = True,
    verify: bool = True,
    newest_opset: int = 0,
) -> LoadedModel:
    """Read a model, give it a fitting opset and normalise it; a quantized model is taken as the float one behind it.

    Args:
        path: an .onnx file; weights in external files are read too.
        input_shapes: sizes by input name to work with where the file leaves them open, axis by axis; None leaves an
            axis to be chosen here, and so does an input that is not named.
        fix_shapes: write ``input_shapes`` into the graph, which has no other sizes then.
        simplify: run onnxsim first, which imports torch; else only where the graph has no normal form without it.
        verify: compare every rewritten graph with the file in ONNX Runtime, on random inputs. Outputs must agree to
            ``equivalence.TOLERANCE`` of their scale; for a file that is quantized, see ``require_equivalent``.
        newest_opset: of the target; a model of a later one is lowered to it. 0 for any.

    Raises:
        LoadError: the file is not an ONNX model, or (with ``verify``) does not run.
        UnsupportedModelError: it is a model, but the compiler cannot work on it.
        ConfigError: ``input_shapes`` does not fit the model.

    """
    with blamed_on_file(path):
        return _load(path, dict(input_shapes or {}), fix_shapes, simplify, verify, newest_opset)


def _load(
    path: Path, shapes: Mapping[str, Shape], fix_shapes: bool, simplify: bool, verify: bool, newest_opset: int
) -> LoadedModel:
    proto = read_model(path)
    operators = Counter(node.op_type for node in proto.graph.node)
    notes = [*separate_names(proto), *widen_halves(proto)]
    opset = opset_of(proto, path)
    form = dequantize(proto, path)
    proto = form.model
    notes += form.notes
    require_supported(proto, path)
    proto = _decide_branches(proto, path, notes)
    declared = settle_inputs(proto, path, shapes, fix=fix_shapes)
    proto = _enter_inference(proto, path, notes)
    refuse_random(proto, path)
    proto, running = lower_to_runnable(proto, opset, notes)
    if not verify and (fault := graph_fault(proto)):
        raise LoadError(f"{path} cannot be run: {fault}")
    sizes, reference = _find_sizes(proto, path, declared, shapes, notes), None
    if verify:
        proto, sizes, reference = run_reference(proto, path, sizes, notes)
        if form.given is not None:
            notes.append(require_equivalent(reference, form, path))
    original = settle_opset(proto, path, running, newest_opset, reference, notes)
    warnings, restored = () if form.warning is None else (form.warning,), form.given is not None
    del proto, form  # which may be gigabytes
    model, others = _normalize_open(original, path, sizes, reference, notes, simplify=simplify)
    require_executable(model, path)
    _tell_of_bodies(model, path, notes)
    inputs = find_layouts(original, sizes.inputs)
    inner = as_inner_form(model, original, inputs, others) if verify else InnerForm(model=model, inputs=inputs)
    inner = inner.one_by_one() if decides_jointly(model) else inner
    return LoadedModel(
        path=path,
        original=original,
        model=inner.model,
        inputs=find_kinds(inner.model, inner.inputs, inside=verify),
        other_inputs=tuple(tuple(map(batch_first, one)) for one in others[:2]),
        face=Face.of(original, inner.axes, inner.added, kept=inner.model is model and not others),
        outputs=tuple(value.name for value in original.graph.output),
        opset=opset,
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        assumed=_describe_chosen(declared, sizes.inputs, shapes),
        notes=tuple(notes),
        warnings=warnings,
        restored_bytes=_count_bytes(original) if restored else None,
    )


def report_loading(loaded: LoadedModel, progress: Progress) -> None:
    """Pass the notes and warnings of a loaded model on."""
    for text in loaded.notes:
        progress.note(text)
    for text in loaded.warnings:
        progress.warn(text)


def _count_bytes(proto: onnx.ModelProto) -> int:
    """Size that a model has as a file, nearly for one that is too large to be written as one."""
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    return int(proto.ByteSize()) if weights < onnx.checker.MAXIMUM_PROTOBUF else weights


def _decide_branches(proto: onnx.ModelProto, path: Path, notes: list[str]) -> onnx.ModelProto:
    """Let the simplifier decide branches whose condition is constant; refuse a graph that is nothing but the others."""
    branches = has_branches(proto)
    if not branches:
        return proto
    try:
        decided = run_onnxsim(proto)
    except SimplifierError:
        return proto  # it fails on bodies in bodies, which normalization decides by itself
    left = has_branches(decided)
    if left and not any(node.op_type in WEIGHTED for node in decided.graph.node):
        raise refuse_branches(left, path)
    if left == branches:
        return proto
    notes.append(f"branches with constant conditions were decided: {', '.join(branches - left)}")
    return decided


def _tell_of_bodies(model: ir.Model, path: Path, notes: list[str]) -> None:
    """Say what stays in float because it is inside control flow; refuse a graph that is nothing else."""
    left = Counter(node.op_type for node in model.graph if node.domain == BODY_DOMAIN)
    if left and not any(is_standard(node, *WEIGHTED) for node in model.graph):
        raise refuse_branches(left, path)
    if left:
        words = ", ".join(f"{count} x {name}" for name, count in left.items())
        notes.append(f"control flow stays in float, with all that it holds: {words}")


def _enter_inference(proto: onnx.ModelProto, path: Path, notes: list[str]) -> onnx.ModelProto:
    outcome = EnterInference().call(ir.from_proto(proto))
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


def _find_sizes(
    proto: onnx.ModelProto,
    path: Path,
    declared: tuple[InputSpec, ...],
    given: Mapping[str, Shape],
    notes: list[str],
) -> ChosenSizes:
    """Find the sizes to work with; where the graph runs at these alone, write them into it."""
    try:
        sizes = find_sizes(proto, path, declared, given)
    except RuntimeModelError as error:
        raise LoadError(f"{path} cannot be run: {error}") from error
    for name, text in _describe_chosen(declared, sizes.inputs, given).items():
        notes.append(
            f"'{name}' leaves sizes open: worked with at {text} ({sizes.reason}); --input-shape chooses other ones"
        )
    if sizes.movable and not sizes.others:
        fix_sizes(proto, sizes.inputs)
        notes.append("the graph runs at no other sizes that were tried, so the file is written with these alone")
    return sizes


def _describe_chosen(
    declared: tuple[InputSpec, ...], inputs: tuple[InputSpec, ...], given: Mapping[str, Shape]
) -> dict[str, str]:
    """Shapes, as ``--input-shape`` takes them, of inputs with open sizes that the user did not give."""
    return {
        spec.name: describe_shape(spec.shape)
        for own, spec in zip(declared, inputs, strict=True)
        if has_open_sizes(own) and spec.name not in given
    }


def _normalize_open(
    original: onnx.ModelProto,
    path: Path,
    sizes: ChosenSizes,
    reference: Reference | None,
    notes: list[str],
    *,
    simplify: bool,
) -> tuple[ir.Model, tuple[tuple[InputSpec, ...], ...]]:
    """Normalise the graph with its sizes open; where that is not possible, write the sizes into it, in place.

    Returns the model with its sizes set, and the other sizes that it was seen to run at.
    """
    if not sizes.others:
        return with_sizes(_normalize(original, path, reference, notes, simplify=simplify), sizes.inputs), ()
    tried: list[str] = []
    try:
        model = _normalize(original, path, reference, tried, simplify=simplify, trials=as_trials(sizes))
    except UnsupportedModelError as error:
        fix_sizes(original, sizes.inputs)
        notes.append(f"the sizes of the inputs cannot stay open, so the file is written with these alone: {error}")
        reference = None if reference is None else Reference(original, sizes.inputs)
        return _normalize(original, path, reference, notes, simplify=simplify), ()
    notes += tried
    return with_sizes(model, sizes.inputs), sizes.others


def _normalize(
    original: onnx.ModelProto,
    path: Path,
    reference: Reference | None,
    notes: list[str],
    *,
    simplify: bool,
    trials: Sequence[Trial] = (),
) -> ir.Model:
    """Normalise with the simplifier as asked, and the other way round if what comes out is not right."""
    for simplifying in (simplify, not simplify):
        try:
            model = normalize(ir.from_proto(original), simplify=simplifying, trials=trials)
            check(model, GraphInvariant.NORMALIZED)
            difference = 0.0 if reference is None else reference.difference(ir.to_proto(model))
        except (SimplifierError, IllegalGraphError, RuntimeModelError, *PASS_ERRORS) as error:
            reason = str(error)
        else:
            if difference <= TOLERANCE:
                return model
            reason = f"its outputs differ by {difference:.1e} of their scale from the file's"
        if simplifying is simplify:
            used = "the simplified graph was not used" if simplify else "the graph had to be simplified, which is slow"
            notes.append(f"{used}: {reason}")
    require_executable(ir.from_proto(original), path)  # what has no kernel often has no shape either
    raise UnsupportedModelError(f"{path} cannot be brought into normal form: {reason}")
