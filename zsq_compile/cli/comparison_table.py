"""A comparison as a person reads it: one table, grouped by what files were calibrated on, and what is to be known."""

import math
from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from zsq_compile.comparison.result import ComparedModel, Comparison
from zsq_compile.config.units import size_words
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.metrics import wilson_interval
from zsq_compile.reporting.summary import MISSING

_WIDTH = 128  # of the whole table; anything that is no terminal gets it, so that a file holds no folded cells
_HEADINGS = ("", "top-1", "same class", "SQNR", "size", "fused", "latency", "made in")
_CUT_OFF = "cut off"
_EXPECTED = "expected"  # in place of top-1, where nothing real was judged


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table and the sentences below it."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (_HEADINGS[0], _EXPECTED, *_HEADINGS[2:]) if _unjudged(comparison) else _HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for kind, rows in groupby(comparison.rows, key=_group):
        if kind:
            table.add_section()
            table.add_row(f"onnxruntime on {kind} data")
        elif kind is None:
            table.add_section()
        for row in rows:
            table.add_row(*row_cells(comparison, row, indented=bool(kind)))
    console.print(table)
    for line in sentences(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def row_cells(comparison: Comparison, row: ComparedModel, *, indented: bool = False) -> tuple[str, ...]:
    """Cells of one row, under the headings of the table."""
    name = f"  {row.name.removeprefix('onnxruntime ')}" if indented else row.name
    if row.failure is not None:
        return name, "failed"
    ratio, speedup = comparison.size_ratio(row), comparison.speedup(row)
    reference = row is comparison.float_row
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
    """Lines below the table: what the figures rest on, and what went wrong."""
    yield f"judged on: {comparison.samples} {comparison.judged_on}"
    for kind, words in comparison.calibration.items():
        yield f"{kind} data: {words}"
    if comparison.contract is not None:
        yield f"input: {Preprocessing.from_json(comparison.contract).describe()}"
    if comparison.held_out_agreement is not None:
        yield f"ours on synthetic samples held out: {comparison.held_out_agreement:.2%} same class"
    if comparison.agreement_estimate is not None:
        yield f"ours, estimated agreement on real data: {comparison.agreement_estimate.describe()}"
    yield from _estimate_words(comparison)
    yield (
        "defaults: quantize_static as it comes; best: graph of quant_pre_process, uint8 activations, scales per channel"
    )
    yield "latency: medians, all files in turns in one run; made in: by itself, synthetic data included"
    for row in comparison.rows:
        if row.failure is not None:
            data = "" if row.calibrated_on == "unknown" else f" on {row.calibrated_on} data"
            yield f"failed: {row.name}{data}: {row.failure}"
    for note in comparison.notes:
        yield f"note: {note}"


def _unjudged(comparison: Comparison) -> bool:
    """Tell whether nothing real was at hand, but an estimate stands for it."""
    return not comparison.judged_on_real and any(_interval(row) for row in comparison.rows)


def _interval(row: ComparedModel) -> tuple[float, float] | None:
    told = row.agreement_estimate
    return None if told is None or told.low is None or told.high is None else (told.low, told.high)


def _expected(row: ComparedModel) -> str:
    interval = _interval(row)
    if interval is None:
        return _CUT_OFF if _cut_off(row) else MISSING
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}%"


def _cut_off(row: ComparedModel) -> bool:
    return (
        row.agreement_estimate is not None
        and row.agreement_estimate.high_confidence is not None
        and _interval(row) is None
    )


def _estimate_words(comparison: Comparison) -> Iterator[str]:
    """Say what the column of estimates is, or how good the estimates were where the truth is known."""
    if _unjudged(comparison):
        yield f"{_EXPECTED}: share of common decisions on real data, which should lie there in nine of ten cases"
        if any(_cut_off(row) for row in comparison.rows):
            yield f"{_CUT_OFF}: loses decisions that the float network is surest of, as its ranges end too early"
        return
    known = [
        (interval, wilson_interval(row.agreement, comparison.samples))
        for row in comparison.rows
        if (interval := _interval(row)) and row.agreement is not None
    ]
    if comparison.judged_on_real and known:
        inside = sum(low <= most and least <= high for (low, high), (least, most) in known)
        cut = sum(_cut_off(row) for row in comparison.rows)
        more = f"; none for {cut} that lose what the float network is surest of" if cut else ""
        yield (
            f"estimates made without these samples fit what was counted on them for {inside} of {len(known)} files"
            f"{more} (--json)"
        )


def _group(row: ComparedModel) -> str | None:
    """Tell what a row stands below: the data of onnxruntime's rows, "" for float and ours, None for files given."""
    if row.calibrated_on == "unknown":
        return None
    return row.calibrated_on if row.name.startswith("onnxruntime ") else ""


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share:.2%}"


def _decibels(ratio: float) -> str:
    return f"{ratio:.1f} dB" if math.isfinite(ratio) else "none" if ratio == math.inf else MISSING
