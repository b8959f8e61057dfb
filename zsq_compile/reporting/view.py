"""From a report's plain values to what its page shows: words, tables and charts. Decides nothing about looks."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsq_compile.config.units import size_words
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.quantization.layer_metrics.layer_quality import worst_layers
from zsq_compile.reporting.charts import Bar, Chart
from zsq_compile.reporting.figures import (
    latency_bars,
    layer_chart,
    learning_charts,
    moment_chart,
    size_bars,
    stage_bars,
)
from zsq_compile.reporting.report import Report
from zsq_compile.reporting.summary import comparison_rows

_MOST_LAYERS = 8

Told = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A synthetic image: its PNG as text, and the caption below it."""

    source: str
    caption: str
    confidence: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One layer in the map of what runs how: its tone, and what is known of it."""

    tone: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Everything that the page shows.

    Attributes:
        title: name of the model's file.
        verdict: the outcome in one sentence.
        tiles: (figure, what it is) of the most important figures.
        alerts: warnings in words.
        notes: other remarks in words.
        comparison: rows of (what, float, quantized).
        layers: signal to noise by layer; None where nothing was measured.
        worst: the worst layers in words, the worst first.
        cells: the map of layers.
        float_nodes: (operator, name, reason) of what stays float.
        moments: distance from remembered statistics by layer; None without statistics.
        moment_words: the chart in words.
        facts: (what, words) about the data.
        gallery: synthetic images.
        curves: (what, chart) of everything that was learned.
        blocks: (block, before, after, kept) of reconstruction.
        sizes: bars of the two files.
        size_legend: (tone, what) of their parts.
        heavy: (layer, float bytes, quantized bytes) of the largest layers.
        latency: bars of the two models.
        speed: (what, words): whether the file is faster, and other forms of it that were tried.
        stages: bars of the time that was spent.
        details: (heading, rows of (what, value)).

    """

    title: str
    verdict: str
    tiles: tuple[tuple[str, str], ...]
    alerts: tuple[str, ...]
    notes: tuple[str, ...]
    comparison: tuple[tuple[str, str, str], ...]
    layers: Chart | None
    worst: tuple[str, ...]
    cells: tuple[Cell, ...]
    float_nodes: tuple[tuple[str, str, str], ...]
    moments: Chart | None
    moment_words: str
    facts: tuple[tuple[str, str], ...]
    gallery: tuple[Shown, ...]
    curves: tuple[tuple[str, Chart], ...]
    blocks: tuple[tuple[str, str, str, str], ...]
    sizes: tuple[Bar, ...]
    size_legend: tuple[tuple[str, str], ...]
    heavy: tuple[tuple[str, str, str], ...]
    latency: tuple[Bar, ...]
    speed: tuple[tuple[str, str], ...]
    stages: tuple[Bar, ...]
    details: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def view_of(report: Report) -> View:
    """Lay a report out for its page, from the values that its JSON has; only pixels come from beside them."""
    told = report.to_json()
    validation = told["validation"]
    legend, sizes = size_bars(told["contents"])
    return View(
        title=report.model.name,
        verdict=_verdict(told),
        tiles=_tiles(told),
        alerts=(*validation["failures"], *validation["warnings"]),
        notes=tuple(told["notes"]),
        comparison=tuple(comparison_rows(report.validation)),
        layers=layer_chart(told["layers"], told["worst_layers"]),
        worst=tuple(layer.words() for layer in worst_layers(report.layers)),
        cells=_cells(told["layers"], validation["fusion"]),
        float_nodes=_left_float(told),
        moments=moment_chart(told["moments"]),
        moment_words=_moment_words(told["moments"]),
        facts=_facts(told, report),
        gallery=_gallery(report),
        curves=learning_charts(told),
        blocks=_blocks(told["learning"]),
        sizes=sizes,
        size_legend=legend,
        heavy=_heavy(told["contents"]),
        latency=latency_bars(validation["latency"]),
        speed=_speed(report),
        stages=stage_bars(told["stages"]),
        details=_details(told),
    )


def _verdict(told: Told) -> str:
    validation = told["validation"]
    widths = told["settings"].get("quantization", {})
    bits = "mixed widths" if told["mixed"] else f"{widths.get('bits', 8)}-bit weights"
    parts = [f"is {validation['quantized_bytes'] / max(validation['float_bytes'], 1):.0%} of the float file's size"]
    if validation["speedup"] is not None:
        speedup = validation["speedup"]
        faster = f"runs {speedup:.1f} times as fast" if speedup >= 1.0 else f"takes {1 / speedup:.1f} times as long"
        parts.append("runs as fast as it" if 0.95 < speedup < 1.05 else faster)
    real = validation["labelled"]
    if real is not None:
        parts.append(
            f"decides as the float model does on {_percent(real['agreement'])} of your {real['samples']} samples"
        )
    elif validation["agreement"] is not None:
        held_out = f"{validation['samples']} held-out samples"
        parts.append(f"decides as the float model does on {_percent(validation['agreement'])} of {held_out}")
    elif validation["sqnr_db"] is not None:
        parts.append(f"keeps {validation['sqnr_db']:.1f} dB between signal and quantization noise")
    listed = f"{', '.join(parts[:-1])}, and {parts[-1]}" if len(parts) > 1 else parts[0]
    data = "without any data" if told["synthesis"] is not None else "on the data that was given"
    return f"Quantized {data}: with {bits} and {widths.get('act_bits', 8)}-bit activations the file {listed}."


def _tiles(told: Told) -> tuple[tuple[str, str], ...]:
    validation, fusion = told["validation"], told["validation"]["fusion"]
    tiles = [(f"{validation['quantized_bytes'] / max(validation['float_bytes'], 1):.0%}", "of the float file's size")]
    if validation["speedup"] is not None:
        tiles.append((f"{validation['speedup']:.2f}x", "as fast as the float model"))
    real = validation["labelled"]
    if real is not None and real["top1_quantized"] is not None:
        change = 100.0 * (real["top1_quantized"] - real["top1_float"])
        tiles.append((_percent(real["top1_quantized"]), f"top-1 on your samples ({change:+.2f} points)"))
    if validation["agreement"] is not None:
        tiles.append((_percent(validation["agreement"]), "same decision, held-out samples"))
    if validation["sqnr_db"] is not None:
        tiles.append((f"{validation['sqnr_db']:.1f} dB", "signal to quantization noise"))
    layers = fusion["fused"] + sum(len(fusion[kind]) for kind in ("blockwise", "unfused", "left_float"))
    tiles.append((f"{fusion['fused']} of {layers}", "layers run in integers"))
    if fusion["blockwise"]:
        tiles.append((f"{len(fusion['blockwise'])} of {layers}", "layers run on 4-bit weights in blocks"))
    return tuple(tiles)


def _cells(layers: Sequence[Told], fusion: Told) -> tuple[Cell, ...]:
    unfused, blockwise = set(fusion["unfused"]), set(fusion["blockwise"])
    cells = []
    for one in layers:
        if one["node"] in fusion["left_float"]:
            continue
        if one["weight_bits"] is None and not fusion["fused_others"]:  # an Add, say, of which none has a kernel
            cells.append(Cell(tone="bad", note=f"{one['node']} ({one['op_type']}): left in float"))
            continue
        runs = "written for integers, run in float" if one["node"] in unfused else "in integers"
        runs = "on weights in blocks, as they are stored" if one["node"] in blockwise else runs
        bits = "" if one["weight_bits"] is None else f"{one['weight_bits']}-bit weights, "
        note = f"{one['node']} ({one['op_type']}): {bits}{one['activation_bits']}-bit inputs, {runs}"
        cells.append(Cell(tone="warn" if one["node"] in unfused else "good", note=note))
    known = {one["node"] for one in layers}
    cells += [Cell(tone="warn", note=f"{name}: written for integers, run in float") for name in unfused - known]
    return (*cells, *(Cell(tone="bad", note=f"{name}: left in float") for name in fusion["left_float"]))


def _moment_words(moments: Sequence[Told]) -> str:
    if not moments:
        return "The model holds no batch normalisation statistics, so there is nothing to compare the data with."
    far = max(moments, key=lambda one: one["distance"] or 0.0)
    median = sorted(one["distance"] or 0.0 for one in moments)[len(moments) // 2]
    return (
        f"Harvested mean and variance against those of the calibration data, for {len(moments)} layers: median "
        f"distance {median:.3g}; the farthest is {far['layer'] or far['node']} with {far['distance'] or 0.0:.3g}."
    )


def _facts(told: Told, report: Report) -> tuple[tuple[str, str], ...]:
    facts = [("data", told["data"]), ("statistics", (told["statistics"] or {}).get("source", told["coverage"]))]
    facts.append(("coverage", told["coverage"]))
    contract = told["contract"]
    if contract is not None:
        facts.append(("pixels", Preprocessing.from_json(contract).describe()))
    facts += [("widths", line) for line in (told["mixed"] or {}).get("summary", ())]
    facts += [("distilled", told["distillation"]["summary"])] if told["distillation"] else []
    if report.agreement_estimate is not None:
        facts.append(
            (
                "agreement on real data, estimated",
                f"{report.agreement_estimate.describe()}, {report.agreement_estimate.calibration}",
            )
        )
    return tuple(facts)


def _speed(report: Report) -> tuple[tuple[str, str], ...]:
    """Say whether the file is faster, and what else was tried."""
    speed = report.validation.speed
    said = [("verdict", speed.words())] if speed is not None else []
    return (*said, *((_trial_heading(one), _trial_words(one)) for one in report.speed_trials))


def _left_float(told: Told) -> tuple[tuple[str, str, str], ...]:
    """Return what was refused, and layers that the clock put back into float."""
    refused = [(one["op_type"], one["where"], one["reason"]) for one in told["refusals"]]
    known = {where for _, where, _ in refused}
    if any(one["chosen"] for one in told["speed_trials"]):
        reason = "its weights are stored in integers; in float the file is faster here, see the forms under Time"
        kinds = {one["node"]: one["op_type"] for one in told["layers"]}
        names = [name for name in told["validation"]["fusion"]["left_float"] if name not in known]
        refused += [(kinds.get(name, "layer"), name, reason) for name in names]
    return tuple(refused)


def _trial_heading(trial: Told) -> str:
    return f"form of the file{', kept' if trial['chosen'] else ''}"


def _trial_words(trial: Told) -> str:
    if trial["of_float"] is None:
        return f"{trial['form']}: {trial['reason']}"
    return f"{trial['form']}: {trial['median_ms']:.3g} ms, {trial['of_float']:.2f} times the float file's time"


def _gallery(report: Report) -> tuple[Shown, ...]:
    shown = []
    for one in report.pictures:
        asked = "" if one.asked is None else f"{one.asked} as "
        sure = "" if one.confidence is None else f", {one.confidence:.0%}"
        caption = "" if one.label is None else f"{asked}class {one.label}{sure}"
        shown.append(
            Shown(source=base64.b64encode(one.png).decode("ascii"), caption=caption, confidence=one.confidence)
        )
    return tuple(shown)


def _blocks(blocks: Sequence[Told]) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(
        (
            one["name"],
            "-" if one["before"] is None else f"{one['before']:.3g}",
            "-" if one["after"] is None else f"{one['after']:.3g}",
            f"{one['steps']} steps" if one["kept"] else "closed form kept",
        )
        for one in blocks
    )


def _heavy(contents: Told) -> tuple[tuple[str, str, str], ...]:
    if not contents:
        return ()
    before, after = contents["float"]["weights"], contents["quantized"]["weights"]
    names = sorted(after, key=lambda name: -after[name])[:_MOST_LAYERS]
    return tuple((name, size_words(before[name]) if name in before else "-", size_words(after[name])) for name in names)


def _details(told: Told) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    files = (
        ("float model", str(told["model"])),
        ("quantized model", str(told["emitted"])),
        ("seed", str(told["seed"])),
    )
    hashes = tuple((f"SHA-256 of {name}", digest) for name, digest in told["sha256"].items())
    settings = tuple(_flat(told["settings"]))
    statistics = told["statistics"] or {}
    matched = tuple(("found", line) for line in statistics.get("matched", ()))
    unmatched = tuple(("not found", line) for line in statistics.get("unmatched", ()))
    tables = [("Files", (*files, *hashes)), ("Settings", settings), ("Versions", tuple(told["versions"].items()))]
    tables += [("Statistics from a file", (*matched, *unmatched))] if matched or unmatched else []
    return tuple(tables)


def _flat(settings: Told, prefix: str = "") -> list[tuple[str, str]]:
    """Rows of nested settings, their names joined by dots; what is not set is left out."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def _percent(share: float) -> str:
    return "100%" if share == 1.0 else f"{share:.1%}"
