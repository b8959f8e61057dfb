"""Charts and bars of the report, from the values of its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from zsq_compile.config.units import size_words
from zsq_compile.reporting.charts import Bar, Chart, bar, column_chart, line_chart

NATURAL_DISTANCE = 0.04
"""Squared distance of training data, in sets of a thousand, from their own running statistics."""

SIZE_LEGEND = (
    ("plain", "weights"),
    ("second", "biases"),
    ("third", "scales"),
    ("fourth", "other constants"),
    ("faint", "nodes and names"),
)
"""Tone and name of the parts of a file."""

Values = Mapping[str, Any]


def layer_chart(layers: Sequence[Values], worst: Sequence[Values]) -> Chart | None:
    """SQNR of every layer; None where none was measured."""
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


def moment_chart(moments: Sequence[Values]) -> Chart | None:
    """Distance of the calibration data from batch normalisation statistics; None without statistics."""
    if not moments:
        return None
    return column_chart(
        "Distance of the calibration data from batch normalisation statistics, by layer",
        "distance",
        [one["distance"] or 0.0 for one in moments],
        notes=[
            f"{number + 1}. {one['layer'] or one['node']}: distance {one['distance'] or 0.0:.3g}, means "
            f"{one['mean_gap'] or 0.0:.2f} deviations apart, ratio of deviations {one['deviation_ratio'] or 0.0:.2f}"
            for number, one in enumerate(moments)
        ],
        logarithmic=True,
        limit=(NATURAL_DISTANCE, "training data have at most 0.04, in sets of a thousand"),
    )


def learning_charts(values: Values) -> list[tuple[str, Chart]]:
    """Curves and columns of everything that was optimised, each with a heading."""
    found: list[tuple[str, Chart]] = []
    losses = (values["synthesis"] or {}).get("loss_curve") or ()
    points = [(float(number), loss) for number, loss in enumerate(losses) if loss is not None]
    if len(points) > 1:
        found.append(
            (
                "Synthesis: loss by iteration",
                line_chart("Loss of synthesis", "loss", [("loss", points)], logarithmic=True),
            )
        )
    if values["learning"]:
        found.append(("Reconstruction: relative squared error of every block", _block_chart(values["learning"])))
    curve = (values["distillation"] or {}).get("curve") or ()
    points = [(float(one["step"]), one["divergence"]) for one in curve if one["divergence"] is not None]
    if len(points) > 1:
        chart = line_chart("Divergence while distilling", "divergence", [("divergence", points)], logarithmic=True)
        found.append(("Distillation: divergence on held-out samples", chart))
    return found


def _block_chart(blocks: Sequence[Values]) -> Chart:
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


def size_bars(contents: Values) -> list[Bar]:
    """Bytes of both files, by part."""
    amounts = {
        file: [sum(one["weights"].values()), *(one[kind] for kind in ("biases", "scales", "constants", "structure"))]
        for file, one in contents.items()
    }
    most = max((sum(amount) for amount in amounts.values()), default=1)
    return [
        bar(
            file,
            size_words(sum(amount)),
            [(one, tone, f"{what}: {size_words(one)}") for one, (tone, what) in zip(amount, SIZE_LEGEND, strict=True)],
            most,
        )
        for file, amount in amounts.items()
    ]


def latency_bars(latency: Values) -> list[Bar]:
    """Median latency of both models, and the span of 10 % to 90 % of the runs."""
    most = max((one["p90_ms"] for one in latency.values()), default=1.0)
    return [
        bar(
            name,
            f"{one['median_ms']:.3g} ms",
            [(one["median_ms"], "plain" if name == "quantized" else "faint", f"median of {one['runs']} runs")],
            most,
            (one["p10_ms"], one["p90_ms"]),
        )
        for name, one in latency.items()
    ]


def stage_bars(stages: Values) -> list[Bar]:
    """Seconds of every stage."""
    most = max(stages.values(), default=1.0)
    return [bar(name, f"{seconds:.1f} s", [(seconds, "plain", name)], most) for name, seconds in stages.items()]
