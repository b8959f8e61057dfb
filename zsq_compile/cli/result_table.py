"""Result of a compilation on the terminal: the closing table and the lines below it."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from zsq_compile.reporting.alarms import headline
from zsq_compile.reporting.facts import calibration_facts, comparison_rows, remarks

if TYPE_CHECKING:
    from zsq_compile.compiler import CompileResult

_COLOURS = {"doubt": "yellow", "alarm": "red"}
"""By degree of an alarm, the gravest last."""


def print_result(console: Console, result: "CompileResult") -> None:
    """Print alarms, float against quantized, how the file was made, what to look at, and its path."""
    report = result.report
    if report.alarms:
        colour = _COLOURS[max((one.degree for one in report.alarms), key=list(_COLOURS).index)]
        console.print(f"{headline(report.alarms)}:", style=f"bold {colour}", markup=False, highlight=False)
    for alarm in report.alarms:
        text = f"{alarm.degree.upper()} {alarm.describe()}"
        console.print(text, style=_COLOURS[alarm.degree], markup=False, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "float", "quantized"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in comparison_rows(report.validation):
        table.add_row(*row)
    console.print(table)
    lines = [f"{what}: {text}" for what, text in (*calibration_facts(report), *remarks(report))]
    for line in (*lines, f"written to {result.path}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
