"""The statements of a report, worded once for the terminal, the plain summary and the HTML page."""

from typing import TYPE_CHECKING

from zsq_compile.config.units import size_words
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.metrics import decibel_words
from zsq_compile.quantization.layer_metrics.layer_quality import worst_layers
from zsq_compile.reporting.task_rows import NOTHING, Row, labelled_rows, task_details, task_label, task_rows, task_value

if TYPE_CHECKING:
    from zsq_compile.reporting.report import Report
    from zsq_compile.verification.labelled_quality import LabelledQuality
    from zsq_compile.verification.task_figures import TaskFigures
    from zsq_compile.verification.validate import Validation

MISSING = NOTHING
_MOST_REFUSALS = 5

Facts = list[tuple[str, str]]
"""Name and text."""


def comparison_rows(validation: "Validation") -> list[Row]:
    """Rows of the table that closes a compilation: name, float, quantized."""
    shrunk = validation.quantized_bytes / max(validation.float_bytes, 1)
    rows = [("size", size_words(validation.float_bytes), f"{size_words(validation.quantized_bytes)} ({shrunk:.0%})")]
    rows += _labelled_rows(validation.labelled, validation.task)
    if validation.task is not None:
        rows += task_rows(validation.task, validation.samples)
    elif validation.agreement is not None:
        rows.append(
            (f"top-1 agreement on {validation.samples} held-out samples", MISSING, f"{validation.agreement:.2%}")
        )
    if validation.sqnr_db is not None:
        rows.append(("signal to quantization noise", MISSING, decibel_words(validation.sqnr_db)))
    for output in validation.outputs:
        if output.rows is not None:
            known = [] if output.sqnr_db is None else [f"{decibel_words(output.sqnr_db)} there"]
            known = [f"as many in {output.rows.alike} of {output.rows.runs} runs", *known]
            rows.append(
                (f"rows of {output.name}", f"{output.rows.wanted:.1f}", f"{output.rows.got:.1f} ({', '.join(known)})")
            )
    if validation.latency:
        before, after = (validation.latency[name].median_ms for name in ("float", "quantized"))
        rows.append(("latency", f"{before:.3g} ms", f"{after:.3g} ms ({before / after:.1f}x)"))
    fusion = validation.fusion
    rows.append(("layers run in integers", MISSING, f"{fusion.fused} of {fusion.layers}"))
    if fusion.blockwise:
        rows.append(("on 4-bit weights in blocks", MISSING, f"{len(fusion.blockwise)} of {fusion.layers}"))
    return rows


def _labelled_rows(real: "LabelledQuality | None", figures: "TaskFigures | None") -> list[Row]:
    """Rows of both models on the user's data."""
    if real is None:
        return []
    rows = []
    if real.top1_float is not None and real.top1_quantized is not None:
        rows.append((f"top-1 on {real.samples} samples", f"{real.top1_float:.2%}", f"{real.top1_quantized:.2%}"))
    if real.float_figure is not None and real.quantized_figure is not None:
        rows += labelled_rows(real.float_figure, real.quantized_figure)
    if real.agreement is not None:
        rows.append((f"top-1 agreement on {real.samples} samples", MISSING, f"{real.agreement:.2%}"))
    if real.quality is not None and figures is not None:
        label, value = task_label(figures.kind, figures.threshold), (figures.kind, figures.threshold, real.quality)
        rows.append((f"{label} on {real.samples} samples", MISSING, task_value(*value)))
    return rows


def calibration_facts(report: "Report") -> Facts:
    """Describe the estimate for real data, and the data that the file was made with."""
    facts = []
    if report.agreement_estimate is not None:
        estimate = report.agreement_estimate
        facts.append(("estimated agreement on real data", f"{estimate.describe()}, {estimate.calibration_source}"))
        facts += [("if the input is", one.describe()) for one in estimate.hypotheses]
    if report.metric is not None:
        said, runs = report.metric, len(report.metric["runs"]) - 1
        text = f"{said['float']:g} -> {said['quantized']:g} ({said['kept']:.2%} kept) by {said['command']}"
        facts.append(("metric", f"{text}, which was asked of {runs} trials" if runs else text))
    facts.append(("data", report.data))
    if report.statistics is not None:
        facts.append(("statistics", f"{report.statistics['source']}; {report.coverage}"))
    facts += [
        (f"input {one['name']}", f"{one['kind']}: {one['reason']}") for one in report.inputs if one["kind"] != "picture"
    ]
    if report.contract is not None:
        facts.append(("input", Preprocessing.from_json(report.contract).describe()))
    facts += [("bits", line) for line in (report.mixed or {}).get("summary", ())]
    return facts + ([("distilled", report.distillation["summary"])] if report.distillation else [])


def validation_facts(validation: "Validation") -> Facts:
    """Figures of every output, and of the simulation."""
    facts = []
    if validation.task is not None and (text := task_details(validation.task)) is not None:
        facts.append((f"kept of the {validation.task.kind}", text))
    for output in validation.outputs:
        parts = [] if output.rows is None else [output.rows.describe()]
        parts += [] if output.sqnr_db is None else [f"SQNR {decibel_words(output.sqnr_db)}"]
        parts += [] if output.agreement is None else [f"{output.agreement:.2%} of the decisions unchanged"]
        parts += [] if parts else ["nothing but zeros" if output.silent else "no figure"]
        facts.append((f"output {output.name}", f"{', '.join(parts)} on {validation.samples} held-out samples"))
    if validation.simulation is not None:
        match = validation.simulation
        text = f"{match.share_beyond_step:.2%} of the elements differ by more than a step"
        equal = f", {match.agreement:.2%} of the decisions are equal"
        facts.append(("simulation", text if validation.agreement is None else f"{text}{equal}"))
    return facts


def _placement_facts(report: "Report") -> Facts:
    """Say what placement left in float or in a wider format, where, and what that costs and brings."""
    placed = report.placement
    if placed is None:
        return []
    names = placed["layers"] or placed["values"]
    where = ", ".join(names[:_MOST_REFUSALS]) + (" ..." if len(names) > _MOST_REFUSALS else "")
    return [("placement", f"{placed['summary']}; {'layers' if placed['layers'] else 'values'}: {where}")]


def remarks(report: "Report") -> Facts:
    """List nodes left in float, the worst layers, and warnings."""
    facts = _placement_facts(report)
    placed = () if report.placement is None else report.placement["values"]
    known = [one for one in report.refusals if one.where not in placed]
    refusals = known[:_MOST_REFUSALS]
    facts += [("left in float", f"{one.where} ({one.op_type}): {one.reason}") for one in refusals]
    if len(known) > len(refusals):
        facts.append(("left in float", f"{len(known) - len(refusals)} more, see --json"))
    facts += [("worst layer", layer.describe()) for layer in worst_layers(report.layers)]
    return facts + [("warning", text) for text in report.validation.warnings]
