"""An inspection on a terminal: the facts as a table, what stays float with reasons, and what to do about it."""

import math
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from zsq_compile.config.units import size_words
from zsq_compile.data.input_spec import InputKind
from zsq_compile.data.posterior import Posterior
from zsq_compile.inspection.findings import Inspection
from zsq_compile.tasks.task import Task

KIND_WORDS: Mapping[InputKind, str] = {
    "picture": "pictures",
    "waveform": "waveforms",
    "spectrogram": "spectrograms",
    "features": "vectors in sequence, or maps",
    "table": "rows of a table",
    "tokens": "token ids",
    "types": "ids of token types",
    "positions": "ids of positions",
    "mask": "a mask",
    "length": "a length",
    "state": "a state that runs hand on",
    "rate": "a sampling rate",
    "size": "the size of a picture",
    "scale": "the factor that a picture was resized by",
    "unknown": "what nothing tells",
}
_MOST_REASONS = 8


def print_inspection(console: Console, found: Inspection) -> None:
    """Print everything about a model that fits a screen; ``--json`` has the rest."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts(found):
        table.add_row(label, _plain_text(text))
    console.print(table)
    _print_estimates(console, found)
    _say(console, f"looked at in {found.seconds:.1f} s")


def facts(found: Inspection) -> list[tuple[str, str]]:
    """Rows of the table: what, and the finding in words."""
    work = found.work
    rows = [
        ("model", f"{found.model} ({size_words(found.bytes)}, opset {found.opset})"),
        ("work", f"{_large(work.multiplications)} multiplications a sample, {_large(work.parameters)} parameters"),
        ("nodes", ", ".join(f"{count} {name}" for name, count in found.operators[:8])),
    ]
    for one in found.inputs:
        assumed = f", read as {one.assumed}" if one.assumed is not None else ""
        rows.append(("input", f"{one.name} {one.dtype} {'x'.join(map(str, one.shape))}{assumed}"))
        rows.append(("takes", f"{KIND_WORDS[one.kind]}: {one.reason}"))
    rows.append(("task", f"{found.task.kind}: {found.task.reason}" if found.task.heads else found.task.kind))
    rows += _output_facts(found.task)
    rows.append(("statistics", f"{found.statistics.source}; {found.statistics.coverage}"))
    rows += [row for posterior in found.posteriors.values() for row in _scale_facts(posterior)]
    rows += _placement_facts(found)
    rows.append(("ranges", found.ranges))
    rows += [("note", text) for text in found.notes]
    rows += [("look at", text) for text in found.warnings]
    return rows


def _output_facts(task: Task) -> list[tuple[str, str]]:
    """Rows of the outputs, those that hold the same for the same reason in one."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in task.outputs:
        alike.setdefault((one.role, one.reason), []).append(one.name)
    rows = [("output", f"{', '.join(names)}: {role}, as {reason}") for (role, reason), names in alike.items()]
    left = len(rows) - _MOST_REASONS
    return rows if left <= 0 else [*rows[:_MOST_REASONS], ("output", f"{left} more, see --json")]


def _scale_facts(posterior: Posterior) -> list[tuple[str, str]]:
    """Rows of one input: the most probable preprocessing, and what is plausible beside it."""
    best, *others = [(one.preprocessing, one.probability) for one in posterior.plausible]
    rows = [("pixels" if best[0].layout is not None else "signal", best[0].describe())]
    return rows + [("may be", f"{one.words()} ({probability:.0%})") for one, probability in others]


def _placement_facts(found: Inspection) -> list[tuple[str, str]]:
    placement = found.placement
    rows = [
        (
            "target",
            f"{placement.target}: {placement.integer} of {placement.layers} layers in integers, "
            f"{placement.quantized_values} quantized values",
        )
    ]
    for one in placement.float_nodes[:_MOST_REASONS]:
        names = ", ".join(one.nodes[:3]) + (" ..." if len(one.nodes) > 3 else "")
        rows.append(("stays float", f"{len(one.nodes)} {one.op_type} ({names}): {one.reason}"))
    if len(placement.float_nodes) > _MOST_REASONS:
        left = len(placement.float_nodes) - _MOST_REASONS
        rows.append(("stays float", f"{left} more reason{'' if left == 1 else 's'}, see --json"))
    return rows


def _print_estimates(console: Console, found: Inspection) -> None:
    if not found.estimates:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    usual = any(one.usual for one in found.estimates)
    agreement = ("same class",) if usual else ()
    for heading in ("estimate", "file", "of the float file", "time to compile", *agreement):
        table.add_column(heading, justify="right" if heading != "estimate" else "left")
    for one in found.estimates:
        low, high = time_words(one.seconds / 2), time_words(one.seconds * 2)
        row = (f"{one.bits} bits", size_words(one.bytes), f"{one.share:.0%}", f"{low} to {high}")
        kept = one.usual
        shown = "" if kept is None else f"{100 * kept.low:.0f} to {100 * kept.high:.1f}%"
        table.add_row(*row, *((shown,) if usual else ()))
    console.print(table)
    if usual:
        _say(console, "same class: as the float network; what classifiers of this kind kept, this one was not run")


def time_words(seconds: float) -> str:
    """Say a time without false precision."""
    if seconds < 90:
        return f"{max(5, math.ceil(seconds / 5) * 5)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _large(count: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _plain_text(text: str) -> str:
    """Keep brackets in names of the model from being read as rich's markup."""
    return text.replace("[", r"\[")
