"""What came of a compilation, on stdout: the closing table and the lines below it."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.quantization.layer_metrics.layer_quality import worst_layers
from zsq_compile.reporting.summary import comparison_rows

if TYPE_CHECKING:
    from zsq_compile.compiler import CompileResult
    from zsq_compile.reporting.report import Report


def print_result(console: Console, result: "CompileResult") -> None:
    """Print the closing table: float against quantized, and where the file is."""
    report = result.report
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "float", "quantized"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in comparison_rows(report.validation):
        table.add_row(*row)
    console.print(table)
    for line in _sentences(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {result.path}", markup=False, highlight=False, soft_wrap=True)


def _sentences(report: "Report") -> list[str]:
    lines = []
    if report.agreement_estimate is not None:
        told = report.agreement_estimate
        lines.append(f"estimated agreement on real data: {told.describe()}, {told.calibration}")
    lines.append(f"data: {report.data}")
    if report.statistics is not None:
        lines.append(f"statistics: {report.statistics['source']}")
    if report.contract is not None:
        lines.append(f"input: {Preprocessing.from_json(report.contract).describe()}")
    lines += [f"widths: {line}" for line in (report.mixed or {}).get("summary", ())]
    lines += [f"distilled: {report.distillation['summary']}"] if report.distillation else []
    shown = [f"left in float: {one.where} ({one.op_type}): {one.reason}" for one in report.refusals[:5]]
    lines += shown
    if len(report.refusals) > len(shown):
        lines.append(f"left in float: {len(report.refusals) - len(shown)} more, see --json")
    lines += [f"worst layer: {layer.words()}" for layer in worst_layers(report.layers)]
    lines += [f"warning: {text}" for text in report.validation.warnings]
    return lines
