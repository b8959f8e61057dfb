"""Charts and bars of the report, from the values of its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from zsq_compile.config.units import size_words
from zsq_compile.metrics import decibel_words
from zsq_compile.reporting.charts import Bar, Chart, Point, bar, column_chart, line_chart

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
    points = []
    for number, one in enumerate(layers):
        ratio = [one["own_sqnr_db"], *one["sqnr_db"].values()][-1]
        name = f"{number + 1}. {one['node']} ({one['op_type']})"
        note = f"{name}: {decibel_words(ratio)} in the network, {decibel_words(one['own_sqnr_db'])} by itself"
        tone = "bad" if one["node"] in rank else "plain"
        points.append(Point(ratio, note, tone, rank.get(one["node"], ""), dot=one["own_sqnr_db"]))
    return column_chart("Signal to quantization noise ratio of every layer", "dB", points)


def moment_chart(moments: Sequence[Values]) -> Chart | None:
    """Distance of the calibration data from batch normalisation statistics; None without statistics."""
    if not moments:
        return None
    points = []
    for number, one in enumerate(moments):
        distance, gap, ratio = (one[name] or 0.0 for name in ("distance", "mean_gap", "deviation_ratio"))
        note = f"distance {distance:.3g}, means {gap:.2f} deviations apart, ratio of deviations {ratio:.2f}"
        points.append(Point(distance, f"{number + 1}. {one['layer'] or one['node']}: {note}"))
    return column_chart(
        "Distance of the calibration data from batch normalisation statistics, by layer",
        "distance",
        points,
        logarithmic=True,
        limit=(NATURAL_DISTANCE, f"training data have at most {NATURAL_DISTANCE}, in sets of a thousand"),
    )


def learning_charts(values: Values) -> list[tuple[str, Chart]]:
    """Curves and columns of everything that was optimised, each with a heading."""
    found: list[tuple[str, Chart]] = []
    losses = (values["synthesis"] or {}).get("loss_curve") or ()
    points = [(float(number), loss) for number, loss in enumerate(losses) if loss is not None]
    if len(points) > 1:
        found.append(("Synthesis: loss by iteration", line_chart("Loss of synthesis", "loss", points)))
    if values["learning"]:
        found.append(("Reconstruction: relative squared error of every block", _block_chart(values["learning"])))
    curve = (values["distillation"] or {}).get("curve") or ()
    points = [(float(one["step"]), one["divergence"]) for one in curve if one["divergence"] is not None]
    if len(points) > 1:
        chart = line_chart("Divergence while distilling", "divergence", points)
        found.append(("Distillation: divergence on held-out samples", chart))
    return found


def _block_chart(blocks: Sequence[Values]) -> Chart:
    points = []
    for number, one in enumerate(blocks):
        before, after = one["before"] or 0.0, one["after"] or 0.0
        note = f"{number + 1}. {one['name']}: {before:.3g} before, {after:.3g} after"
        points.append(Point(after, note, "plain" if one["kept"] else "faint", dot=before))
    return column_chart(
        "Error of every block after learning, a dot for what it was before", "error", points, logarithmic=True
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
