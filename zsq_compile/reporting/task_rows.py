"""How much is kept of what a network is for, in words: rows of the closing table, and details."""

from collections.abc import Callable, Mapping
from typing import Any

from zsq_compile.tasks.task import TaskKind, TaskQuality
from zsq_compile.tasks.truths import LabelledFigure
from zsq_compile.verification.task_figures import TaskFigures, words_of_silence

NOTHING = "-"

Row = tuple[str, str, str]
"""Name, float, quantized."""

_LABELS: Mapping[TaskKind, str] = {
    "classification": "top-1 agreement",
    "detection": "boxes kept (IoU > 0.9)",
    "segmentation": "IoU with the float masks",
    "heatmaps": "peaks within a pixel",
    "text": "equal texts",
    "decisions": "equal decisions",
    "embedding": "cosine with the float vectors",
    "regression": "mean error in spreads",
    "image": "PSNR to the float pictures",
    "indices": "equal numbers",
}
_COUNTED: Mapping[TaskKind, str] = {
    "detection": "boxes",
    "heatmaps": "peaks",
    "text": "texts",
    "decisions": "decisions",
    "regression": "numbers",
    "indices": "numbers",
}
"""What ``count`` counts, where it is not samples."""


def task_label(kind: TaskKind, threshold: float) -> str:
    """Name of the figure that a kind of task is judged by."""
    return f"{_LABELS[kind]} at {threshold:g}" if kind == "decisions" else _LABELS[kind]


def task_value(kind: TaskKind, threshold: float, quality: TaskQuality) -> str:
    """Return the figure itself, and of how many answers it is."""
    details = quality.details
    if quality.kept is None:
        return f"none: float {words_of_silence(kind, threshold)}"
    if kind == "regression":
        return f"{details['mean error in spreads']:.3f}"
    if kind == "image":
        return f"{details['PSNR']:.1f} dB"
    if kind == "embedding":
        return f"{quality.kept:.4f}"
    return f"{quality.kept:.2%} of {quality.count}" if kind in _COUNTED else f"{quality.kept:.2%}"


def task_rows(figures: TaskFigures, samples: int) -> list[Row]:
    """Rows of the table: all held-out samples, and the population of which least is kept."""
    label = task_label(figures.kind, figures.threshold)
    if figures.quality is None:
        return [(label, NOTHING, "cannot be counted")]
    rows = [
        (
            f"{label} on {samples} held-out samples",
            NOTHING,
            task_value(figures.kind, figures.threshold, figures.quality),
        )
    ]
    if figures.worst is not None:
        value = task_value(figures.kind, figures.threshold, figures.worst)
        rows.append(("the same under the worst plausible input", NOTHING, value))
    return rows


def labelled_rows(before: LabelledFigure, after: LabelledFigure) -> list[Row]:
    """Rows of how well both models do on labelled samples, details behind the figure itself."""
    names = dict.fromkeys([*before.details, *after.details])
    pairs = [
        (before.measure, before.value, after.value),
        *((name, before.details.get(name), after.details.get(name)) for name in names),
    ]
    return [(f"{name} on {before.count} samples", _share(one), _share(other)) for name, one, other in pairs]


def task_details(figures: TaskFigures) -> str | None:
    """Say everything else that is known of what is kept; None where there is nothing."""
    quality = figures.quality
    if quality is None:
        return figures.obstacle
    counted = _COUNTED.get(figures.kind, "samples")
    parts = [f"{name} {_DETAILS.get(name, _share)(value)}" for name, value in quality.details.items()]
    if figures.kind in ("regression", "image"):
        parts.insert(0, f"{quality.measure} {_share(quality.kept)}")
    return ", ".join([f"{quality.count} {counted}", *parts])


def explain_task(figures: TaskFigures) -> dict[str, Any]:
    """Tell what is kept in plain values, for JSON."""
    return {
        "kind": figures.kind,
        "label": task_label(figures.kind, figures.threshold),
        "threshold": figures.threshold,
        **(explain_quality(figures.quality) or {}),
        "share": figures.share,
        "worst": explain_quality(figures.worst),
        "populations": [explain_quality(one) for one in figures.populations],
        "obstacle": figures.obstacle,
    }


def explain_quality(quality: TaskQuality | None) -> dict[str, Any] | None:
    """Tell a quality in plain values, without the weights of a join."""
    if quality is None:
        return None
    return {
        "measure": quality.measure,
        "kept": quality.kept,
        "count": quality.count,
        "harm": quality.harm,
        "details": dict(quality.details),
    }


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2%}"


def _number(value: float) -> str:
    return f"{value:.3g}"


_DETAILS: Mapping[str, Callable[[float], str]] = dict.fromkeys(
    (
        "median margin",
        "margin error",
        "mean absolute error",
        "mean error in spreads",
        "least cosine",
        "peak distance in pixels",
        "score error",
        "PSNR",
        "least",
    ),
    _number,
)
"""Details that are no shares."""
