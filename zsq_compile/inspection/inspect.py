"""inspect_model: what compiling a float model will meet, found in seconds without torch and without the simplifier."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from backends.catalog import AUTO, TargetError, load_target
from backends.session import RuntimeModelError
from backends.target import Target
from passes.analysis.count_work import Work, count_work
from passes.analysis.find_dead_channels import find_dead_channels
from passes.analysis.find_range_risks import Ranges, find_bias_risks, find_scale_conflicts
from passes.operators import WEIGHTED
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from passes.quantize.prepare_float import prepare_float
from zsq_compile.batchnorm.find_statistics import KnownStatistics, find_statistics
from zsq_compile.data.posterior import best_of
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ConfigError
from zsq_compile.failures import told_in_words
from zsq_compile.files import file_bytes
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.inspection.advice import advise
from zsq_compile.inspection.estimates import (
    Estimate,
    estimate_bytes,
    estimate_seconds,
    has_depthwise,
    usual_agreement,
)
from zsq_compile.inspection.find_posteriors import find_posteriors
from zsq_compile.inspection.findings import FloatNodes, InputFacts, Inspection, PlacementFacts, StatisticsFacts
from zsq_compile.inspection.runtime_probe import Arrays, draw_inputs, find_outputs, find_ranges
from zsq_compile.progress import Silent
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import TaskKind

_ESTIMATED_BITS = (8, 4)
_MOST_WORK = 6_000_000_000  # multiplications of the one sample that ranges are taken from: a third of a second
_MOST_ELEMENTS = 300_000_000

Shape = tuple[int | None, ...]


@told_in_words()
def inspect_model(
    model: str | Path,
    *,
    target: str = AUTO,
    input_shapes: Mapping[str, Shape] | None = None,
    checkpoint: Path | None = None,
    bn_stats: Path | None = None,
) -> Inspection:
    """Find out what compiling a float model will meet.

    Args:
        model: path of the float model.
        target: name of a target, or path of a target file.
        input_shapes: see ``load_model``.
        checkpoint: trained tensors of a model whose batch normalisation was folded away; reading one imports torch.
        bn_stats: file of ``harvest`` from the same network with batch normalisation.

    Raises:
        LoadError: the file is not an ONNX model.
        UnsupportedModelError: it is, but the compiler cannot work on it.
        ConfigError: the target, ``input_shapes`` or the file of statistics cannot be used.

    """
    started, path = time.perf_counter(), Path(model)
    try:
        goal = load_target(target)
    except TargetError as error:
        raise ConfigError(str(error)) from error
    loaded = load_model(path, input_shapes=input_shapes, simplify=False, verify=False, newest_opset=goal.newest_opset)
    rng = np.random.default_rng(0)
    known = find_statistics(loaded, checkpoint=checkpoint, bn_stats=bn_stats, progress=Silent())
    statistics, work = known.statistics, count_work(loaded.model)
    posteriors = find_posteriors(loaded, statistics, rng)
    preprocessing = best_of(posteriors)
    network = prepare_float(loaded.model, statistics, equalize=False, target=goal)
    plans = {bits: place_quantizers(network, goal, bits=bits) for bits in _ESTIMATED_BITS}
    feeds, why = _draw_feeds(loaded, preprocessing, work, rng)
    ranges, how = ({}, why) if feeds is None else _find_ranges(network, plans[8], feeds)
    task = find_task(loaded.model, None if feeds is None else _find_outputs(loaded, feeds))
    whole = path.stat().st_size
    if whole < 4 * work.parameters:  # there may be weights beside it; finding out reads the file once more
        whole = file_bytes(path)
    found = Inspection(
        model=path,
        bytes=whole,
        opset=loaded.opset,
        operators=tuple(loaded.operators.items()),
        inputs=_inputs(loaded),
        outputs=loaded.outputs,
        task=task,
        work=work,
        statistics=_statistics(known),
        preprocessing=preprocessing,
        posteriors=posteriors,
        placement=_placement(network, plans[8], goal),
        ranges=how,
        dead_channels=find_dead_channels(network),
        bias_risks=find_bias_risks(network, plans[8], ranges),
        scale_conflicts=find_scale_conflicts(plans[8], ranges),
        estimates=_estimates(network, plans, goal, loaded, work, whole, task.kind, synthesized=bool(statistics.usable)),
        notes=loaded.notes,
        warnings=loaded.warnings,
        seconds=time.perf_counter() - started,
    )
    return replace(found, warnings=(*found.warnings, *advise(found)))


def _draw_feeds(
    loaded: LoadedModel, preprocessing: Mapping[str, Preprocessing], work: Work, rng: np.random.Generator
) -> tuple[Arrays | None, str]:
    """One synthetic sample for all inputs; None, and why, where there is none, or a run takes too long."""
    if work.multiplications > _MOST_WORK or work.elements > _MOST_ELEMENTS:
        return None, "not measured: the network is too large to be run in a moment"
    feeds = draw_inputs(loaded.inputs, 1, rng, preprocessing)
    if feeds is None:
        return None, "not measured: there is an input that takes neither floats nor pixels, and cannot be synthesized"
    return feeds, ""


def _find_ranges(network: ir.Model, plan: QuantizationPlan, feeds: Arrays) -> tuple[Ranges, str]:
    """Range of every value that would be quantized, on one sample; and how they were measured or why not."""
    names = [site.value for site in plan.activations]
    try:
        return find_ranges(network, names, feeds), "measured on one synthetic sample"
    except RuntimeModelError as error:
        first = str(error).splitlines()[0]
        return {}, f"not measured: the network does not run on a synthetic sample ({first})"


def _find_outputs(loaded: LoadedModel, feeds: Arrays) -> Arrays | None:
    """Run one sample; without outputs whose size depends on the data, and None where the network does not run."""
    try:
        found = find_outputs(loaded.model, feeds)
    except RuntimeModelError:
        return None
    return {name: array for name, array in found.items() if name not in loaded.uneven_outputs}


def _inputs(loaded: LoadedModel) -> tuple[InputFacts, ...]:
    return tuple(
        InputFacts(
            name=spec.name,
            shape=tuple(size if isinstance(size, int) else "?" for size in loaded.face.inputs[spec.name]),
            dtype=spec.dtype.name,
            kind=spec.kind,
            reason=spec.reason,
            assumed=loaded.assumed.get(spec.name),
        )
        for spec in loaded.inputs
    )


def _statistics(known: KnownStatistics) -> StatisticsFacts:
    statistics, advice = known.statistics, None
    if not statistics.usable:
        advice = (
            "Give the trained tensors (--checkpoint model.pth), or the statistics of the network before its export "
            "(zsq-compile harvest, --bn-stats stats.npz)"
        )
    return StatisticsFacts(
        source=known.origin,
        coverage=statistics.coverage(),
        layers=statistics.layers_total,
        covered=statistics.layers_covered,
        advice=advice,
    )


def _placement(network: ir.Model, plan: QuantizationPlan, target: Target) -> PlacementFacts:
    refused = {refusal.where for refusal in plan.refusals}
    planned = {site.node for site in plan.weights}
    layers = [
        node
        for node in network.graph
        if node.op_type in WEIGHTED and node.inputs[1] is not None and node.inputs[1].const_value is not None
    ]
    integer, without_kernel, left_float = [], [], []
    for node in layers:
        rule, name = target.rule(node.op_type), str(node.name)
        if name not in planned:
            left_float.append(name)
        elif rule is None or not rule.fused_as or name in refused:
            without_kernel.append(name)
        else:
            integer.append(name)
    reasons: dict[tuple[str, str], list[str]] = {}
    for refusal in plan.refusals:
        reasons.setdefault((refusal.op_type, refusal.reason), []).append(refusal.where)
    return PlacementFacts(
        target=target.name,
        layers=len(layers),
        integer=len(integer),
        without_kernel=tuple(without_kernel),
        left_float=tuple(left_float),
        quantized_values=len(plan.activations),
        float_nodes=tuple(
            FloatNodes(op_type=op_type, reason=reason, nodes=tuple(names))
            for (op_type, reason), names in reasons.items()
        ),
    )


def _estimates(
    network: ir.Model,
    plans: Mapping[int, QuantizationPlan],
    target: Target,
    loaded: LoadedModel,
    work: Work,
    whole: int,
    kind: TaskKind,
    *,
    synthesized: bool,
) -> tuple[Estimate, ...]:
    if not plans[8].weights:
        return ()
    before = max(whole, 4 * work.parameters)  # a file may make its weights as it is loaded
    return tuple(
        Estimate(
            bits=bits,
            bytes=size,
            share=size / before,
            seconds=estimate_seconds(work, loaded.inputs, bits=bits, synthesized=synthesized),
            usual=usual_agreement(bits, depthwise=has_depthwise(network)) if kind == "classification" else None,
        )
        for bits, size in estimate_bytes(network, plans, target).items()
    )
