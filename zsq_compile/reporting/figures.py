"""The report's figures: from plain values, as its JSON has them, to charts and bars."""

from collections.abc import Mapping, Sequence
from typing import Any

from zsq_compile.config.units import size_words
from zsq_compile.reporting.charts import Bar, Chart, bar, column_chart, line_chart

NATURAL_DISTANCE = 0.04
"""Squared distance that training data themselves, in sets of a thousand, have from their running statistics."""

_TONES = ("plain", "second", "third", "fourth", "faint")

Told = Mapping[str, Any]


def layer_chart(layers: Sequence[Told], worst: Sequence[Told]) -> Chart | None:
    """Draw the signal to noise ratio of every layer; None where none was measured."""
    if not layers:
        return None
    rank = {one["node"]: str(place + 1) for place, one in enumerate(worst)}
    last = [list(one["sqnr_db"].values())[-1] if one["sqnr_db"] else one["own_sqnr_db"] for one in layers]
    notes = [
        f"{number + 1}. {one['node']} ({one['op_type']}): {ratio:.1f} dB in the network, "
        f"{one['own_sqnr_db']:.1f} dB by itself"
        for number, (one, ratio) in enumerate(zip(layers, last, strict=True))
    ]
    return column_chart(
        "Signal to quantization noise ratio of every layer",
        "dB",
        last,
        notes=notes,
        tones=["bad" if one["node"] in rank else "plain" for one in layers],
        marks=[rank.get(one["node"], "") for one in layers],
        dots=[one["own_sqnr_db"] for one in layers],
    )


def moment_chart(moments: Sequence[Told]) -> Chart | None:
    """Draw how far the calibration data are from remembered statistics; None without statistics."""
    if not moments:
        return None
    return column_chart(
        "Distance of the calibration data from remembered statistics, by layer",
        "distance",
        [one["distance"] or 0.0 for one in moments],
        notes=[
            f"{number + 1}. {one['layer'] or one['node']}: distance {one['distance'] or 0.0:.3g}, means "
            f"{one['mean_gap'] or 0.0:.2f} deviations apart, deviations {one['deviation_ratio'] or 0.0:.2f} of those "
            "remembered"
            for number, one in enumerate(moments)
        ],
        logarithmic=True,
        limit=(NATURAL_DISTANCE, "training data themselves come to 0.04 at most, in sets of a thousand"),
    )


def learning_charts(told: Told) -> tuple[tuple[str, Chart], ...]:
    """Draw everything that was optimised, each with a heading."""
    found: list[tuple[str, Chart]] = []
    losses = (told["synthesis"] or {}).get("loss_curve") or ()
    points = [(float(number), loss) for number, loss in enumerate(losses) if loss is not None]
    if len(points) > 1:
        found.append(
            (
                "Making the data: loss by iteration",
                line_chart("Loss of synthesis", "loss", [("loss", points)], logarithmic=True),
            )
        )
    if len(told["learning"]) > 0:
        found.append(("Learning block by block: squared error, relative", _block_chart(told["learning"])))
    curve = (told["distillation"] or {}).get("curve") or ()
    points = [(float(one["step"]), one["divergence"]) for one in curve if one["divergence"] is not None]
    if len(points) > 1:
        chart = line_chart("Divergence while distilling", "divergence", [("divergence", points)], logarithmic=True)
        found.append(("Distillation: divergence on samples apart", chart))
    return tuple(found)


def _block_chart(blocks: Sequence[Told]) -> Chart:
    return column_chart(
        "Error of every block after learning, a dot for what it was before",
        "error",
        [one["after"] or 0.0 for one in blocks],
        notes=[
            f"{number + 1}. {one['name']}: {one['before'] or 0.0:.3g} before, {one['after'] or 0.0:.3g} after"
            for number, one in enumerate(blocks)
        ],
        tones=["plain" if one["kept"] else "faint" for one in blocks],
        dots=[one["before"] or 0.0 for one in blocks],
        logarithmic=True,
    )


def size_bars(contents: Told) -> tuple[tuple[tuple[str, str], ...], tuple[Bar, ...]]:
    """Draw where the bytes of both files are; first what each tone means."""
    kinds = ("weights", "biases", "scales", "constants", "structure")
    legend = tuple(zip(_TONES, ("weights", "biases", "scales", "other constants", "nodes and names"), strict=True))
    if not contents:
        return (), ()
    amounts = {
        file: [sum(one["weights"].values()), *(one[kind] for kind in kinds[1:])] for file, one in contents.items()
    }
    most = max(sum(amount) for amount in amounts.values())
    bars = tuple(
        bar(
            file,
            size_words(sum(amount)),
            [(one, tone, f"{what}: {size_words(one)}") for one, (tone, what) in zip(amount, legend, strict=True)],
            most,
        )
        for file, amount in amounts.items()
    )
    return legend, bars


def latency_bars(latency: Told) -> tuple[Bar, ...]:
    """Draw the latency of both models."""
    most = max((one["p90_ms"] for one in latency.values()), default=1.0)
    return tuple(
        bar(
            name,
            f"{one['median_ms']:.3g} ms",
            [(one["median_ms"], "plain" if name == "quantized" else "faint", f"median of {one['runs']} runs")],
            most,
            (one["p10_ms"], one["p90_ms"]),
        )
        for name, one in latency.items()
    )


def stage_bars(stages: Told) -> tuple[Bar, ...]:
    """Draw the time of every stage."""
    most = max(stages.values(), default=1.0)
    return tuple(bar(name, f"{spent:.1f} s", [(spent, "plain", name)], most) for name, spent in stages.items())
