"""A comparison on the terminal: one table, grouped by calibration data, and notes below it."""

import math
from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from zsq_compile.comparison.result import ComparedModel, Comparison
from zsq_compile.config.units import size_words
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.metrics import decibel_words, wilson_interval
from zsq_compile.reporting.facts import MISSING

_WIDTH = 128  # of the whole table; anything that is no terminal gets it, so that a file holds no folded cells
_HEADINGS = ("", "top-1", "same class", "SQNR", "size", "fused", "latency", "made in")
_CLIPPED = "clipped"
_EXPECTED = "expected"  # in place of top-1, where no real data were given


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table and the lines below it."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (_HEADINGS[0], _EXPECTED, *_HEADINGS[2:]) if _unjudged(comparison) else _HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for (kind, source), rows in groupby(comparison.rows, key=_group):
        if kind == "onnxruntime":
            table.add_section()
            table.add_row(f"onnxruntime on {source} data")
        elif kind == "given":
            table.add_section()
        for row in rows:
            table.add_row(*row_cells(comparison, row))
    console.print(table)
    for line in sentences(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def row_cells(comparison: Comparison, row: ComparedModel) -> tuple[str, ...]:
    """Cells of one row, under the headings of the table."""
    name = f"  {row.name}" if row.kind == "onnxruntime" else row.name
    if row.failure is not None:
        return name, "failed"
    ratio, speedup = comparison.size_ratio(row), comparison.speedup(row)
    reference = row.kind == "float"
    size = MISSING if row.bytes is None else size_words(row.bytes)
    latency = MISSING if row.latency is None else f"{row.latency.median_ms:.3g} ms"
    return (
        name,
        _expected(row) if _unjudged(comparison) else _percent(row.top1),
        MISSING if reference else _percent(row.agreement),
        MISSING if reference or row.sqnr_db is None else _decibels(row.sqnr_db),
        size if reference or ratio is None else f"{size} ({ratio:.0%})",
        MISSING if reference or row.fused is None else f"{row.fused}/{row.layers}",
        latency if reference or speedup is None else f"{latency} ({speedup:.2f}x)",
        MISSING if row.seconds is None else f"{row.seconds:.1f} s",
    )


def sentences(comparison: Comparison) -> Iterator[str]:
    """Lines below the table: data, estimates, failures and notes."""
    yield f"judged on: {comparison.samples} {comparison.judged_on}"
    for kind, words in comparison.calibration.items():
        yield f"{kind} data: {words}"
    if comparison.contract is not None:
        yield f"input: {Preprocessing.from_json(comparison.contract).describe()}"
    if comparison.held_out_agreement is not None:
        yield f"ours on held-out synthetic samples: {comparison.held_out_agreement:.2%} same class"
    if comparison.agreement_estimate is not None:
        yield f"ours, estimated agreement on real data: {comparison.agreement_estimate.describe()}"
    yield from _estimate_words(comparison)
    yield (
        "defaults: quantize_static as it comes; best: graph of quant_pre_process, uint8 activations, scales per channel"
    )
    yield "latency: medians, all files in turns in one run; made in: by itself, synthetic data included"
    for row in comparison.rows:
        if row.failure is not None:
            data = "" if row.kind == "given" else f" on {row.calibrated_on} data"
            yield f"failed: {row.title}{data}: {row.failure}"
    for note in comparison.notes:
        yield f"note: {note}"


def _unjudged(comparison: Comparison) -> bool:
    """Whether no real data were given, and an estimate is shown instead."""
    return not comparison.judged_on_real and any(_interval(row) for row in comparison.rows)


def _interval(row: ComparedModel) -> tuple[float, float] | None:
    found = row.agreement_estimate
    return None if found is None or found.low is None or found.high is None else (found.low, found.high)


def _expected(row: ComparedModel) -> str:
    interval = _interval(row)
    if interval is None:
        return _CLIPPED if _is_clipped(row) else MISSING
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}%"


def _is_clipped(row: ComparedModel) -> bool:
    return (
        row.agreement_estimate is not None
        and row.agreement_estimate.high_confidence is not None
        and _interval(row) is None
    )


def _estimate_words(comparison: Comparison) -> Iterator[str]:
    """Explain the column of estimates, or compare the estimates with the agreement on real data."""
    if _unjudged(comparison):
        yield f"{_EXPECTED}: 90 % interval of the agreement with the float model on real data"
        if any(_is_clipped(row) for row in comparison.rows):
            yield f"{_CLIPPED}: high-confidence decisions are lost, because activation ranges clip too much"
        return
    known = [
        (interval, wilson_interval(row.agreement, comparison.samples))
        for row in comparison.rows
        if (interval := _interval(row)) and row.agreement is not None
    ]
    if comparison.judged_on_real and known:
        inside = sum(low <= most and least <= high for (low, high), (least, most) in known)
        cut = sum(_is_clipped(row) for row in comparison.rows)
        more = f"; none for {cut} that lose high-confidence decisions" if cut else ""
        yield (
            f"estimates without these samples agree with the count on them for {inside} of {len(known)} files{more} "
            "(--json)"
        )


def _group(row: ComparedModel) -> tuple[str, str]:
    """Section of a row: float and ours share the first."""
    if row.kind == "onnxruntime":
        return row.kind, row.calibrated_on
    return ("given" if row.kind == "given" else "float"), ""


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share:.2%}"


def _decibels(ratio: float) -> str:
    return decibel_words(ratio) if math.isfinite(ratio) else "none" if ratio == math.inf else MISSING
