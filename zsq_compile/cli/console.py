"""What a person at a terminal sees: how the work goes on, and what came of it.

Progress goes to stderr, as bars with an estimate on a terminal and as plain lines anywhere else; the closing table goes
to stdout.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from zsq_compile.config.units import size_words
from zsq_compile.data.contract_words import contract_words
from zsq_compile.quantization.layer_metrics.layer_quality import worst_layers

if TYPE_CHECKING:
    from zsq_compile.compiler import CompileResult
    from zsq_compile.reporting.report import Report
    from zsq_compile.verification.validate import Validation

_PLAIN_EVERY = 10.0
"""Seconds between two plain lines about the same stage."""

MISSING = "-"


class ConsoleProgress:
    """A Progress on a console: bars where it is a terminal, plain lines where it is not.

    Args:
        console: where to; the command line gives it stderr.
        verbose: also show details, and how long each stage took.

    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._open = 0
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            _Done(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """See Progress.stage."""
        started = time.monotonic()
        with self._bar(name, total) if self._console.is_terminal else self._lines(name, total) as advance:
            yield advance
        if self._verbose:
            self._print(f"{name}: {time.monotonic() - started:.1f} s")

    def note(self, text: str) -> None:
        """See Progress.note."""
        self._print(text)

    def detail(self, text: str) -> None:
        """See Progress.detail."""
        if self._verbose:
            self._print(text)

    def warn(self, text: str) -> None:
        """See Progress.warn."""
        self._print(f"warning: {text}", style="yellow")

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        # Stages may stand inside each other; the drawing starts with the outermost and ends with it.
        if self._open == 0:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(name, total=total)
        try:
            yield lambda steps: self._bars.advance(task, steps)
        finally:
            self._bars.remove_task(task)
            self._open -= 1
            if self._open == 0:
                self._bars.stop()

    @contextmanager
    def _lines(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        self._print(f"{name} ...")
        started = told = time.monotonic()
        done = 0

        def advance(steps: int) -> None:
            nonlocal done, told
            done += steps
            now = time.monotonic()
            # The first steps are slower than the rest, and an estimate from them alone frightens.
            if now - told >= _PLAIN_EVERY and total and 10 * done >= total:
                told = now
                left = (now - started) / done * (total - done)
                self._print(f"{name}: {done} of {total}, about {math.ceil(left)} s left")

        yield advance

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Done(ProgressColumn):
    """Steps done of all; nothing for a stage that does not count."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


def print_result(console: Console, result: "CompileResult") -> None:
    """Print the closing table: float against quantized, and where the file is."""
    report = result.report
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "float", "quantized"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in comparison(report.validation):
        table.add_row(*row)
    console.print(table)
    for line in _sentences(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {result.path}", markup=False, highlight=False, soft_wrap=True)


def comparison(validation: "Validation") -> list[tuple[str, str, str]]:
    """Rows of the closing table: what, float, quantized."""
    shrunk = validation.quantized_bytes / max(validation.float_bytes, 1)
    rows = [("size", size_words(validation.float_bytes), f"{size_words(validation.quantized_bytes)} ({shrunk:.0%})")]
    real = validation.labelled
    if real is not None:
        if real.top1_float is not None and real.top1_quantized is not None:
            rows.append((f"top-1 on {real.samples} samples", f"{real.top1_float:.2%}", f"{real.top1_quantized:.2%}"))
        rows.append(("same class on these", MISSING, f"{real.agreement:.2%}"))
    if validation.agreement is not None:
        label = f"same class on {validation.samples} held-out samples"
        rows.append((label, MISSING, f"{validation.agreement:.2%}"))
    if validation.sqnr_db is not None:
        rows.append(("signal to quantization noise", MISSING, f"{validation.sqnr_db:.1f} dB"))
    if validation.latency:
        before, after = (validation.latency[name].median_ms for name in ("float", "quantized"))
        rows.append(("latency", f"{before:.3g} ms", f"{after:.3g} ms ({before / after:.1f}x)"))
    fusion = validation.fusion
    rows.append(("layers run in integers", MISSING, f"{fusion.fused} of {fusion.layers}"))
    if fusion.blockwise:
        rows.append(("on 4-bit weights in blocks", MISSING, f"{len(fusion.blockwise)} of {fusion.layers}"))
    return rows


def _sentences(report: "Report") -> list[str]:
    lines = []
    if report.confidence is not None:
        told = report.confidence
        lines.append(f"estimated agreement on real data: {told.words()}, {told.tier}")
    lines.append(f"data: {report.data}")
    if report.statistics is not None:
        lines.append(f"statistics: {report.statistics['source']}")
    if report.contract is not None:
        lines.append(f"input: {contract_words(report.contract)}")
    lines += [f"widths: {line}" for line in (report.mixed or {}).get("summary", ())]
    lines += [f"distilled: {report.distillation['summary']}"] if report.distillation else []
    shown = [f"left in float: {one.where} ({one.op_type}): {one.reason}" for one in report.refusals[:5]]
    lines += shown
    if len(report.refusals) > len(shown):
        lines.append(f"left in float: {len(report.refusals) - len(shown)} more, see --json")
    lines += [f"worst layer: {layer.words()}" for layer in worst_layers(report.layers)]
    lines += [f"warning: {text}" for text in report.validation.warnings]
    return lines
