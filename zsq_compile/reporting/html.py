"""The report as one self-contained HTML page, without scripts or external files."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from zsq_compile.config.checks import require_folder
from zsq_compile.config.units import size_words
from zsq_compile.errors import ConfigError
from zsq_compile.files import written_whole
from zsq_compile.quantization.layer_metrics.layer_quality import worst_layers
from zsq_compile.reporting import figures
from zsq_compile.reporting.alarms import headline
from zsq_compile.reporting.facts import calibration_facts, comparison_rows, validation_facts
from zsq_compile.reporting.report import Report

_TEMPLATE = "report.html.j2"
_NOT_FUSED = "quantized but not fused: executed in float"

Values = Mapping[str, Any]


def page_of(report: Report) -> str:
    """Return a report as one HTML page, with its charts as SVG and its pictures inside.

    Names from the model are escaped. The template gets the values of the report's JSON, and the charts.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size_words, "base64": lambda data: base64.b64encode(data).decode("ascii")}
    values = report.to_json()
    return environment.get_template(_TEMPLATE).render(
        report=values,
        title=report.model.name,
        headline=headline(report.alarms),
        rows=comparison_rows(report.validation),
        outputs=validation_facts(report.validation),
        calibration=calibration_facts(report),
        layer_chart=figures.layer_chart(values["layers"], values["worst_layers"]),
        worst_layers=[layer.describe() for layer in worst_layers(report.layers)],
        layer_map=layer_map(values),
        float_nodes=float_nodes(values),
        moment_chart=figures.moment_chart(values["moments"]),
        pictures=report.pictures,
        learning_charts=figures.learning_charts(values),
        size_bars=figures.size_bars(values["contents"]),
        size_legend=figures.SIZE_LEGEND,
        latency_bars=figures.latency_bars(values["validation"]["latency"]),
        speed=speed_facts(report),
        stage_bars=figures.stage_bars(values["stages"]),
        settings=_flat(values["settings"]),
    )


def write_page(path: Path, report: Report) -> None:
    """Write the page. ConfigError when that fails."""
    with written_whole(path) as part:
        part.write_text(page_of(report), encoding="utf-8", errors="replace")


def require_page(path: Path) -> None:
    """Raise ConfigError unless a page can be put at ``path``."""
    require_folder(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a report is an HTML page: wanted a name that ends in .html, got {path}")


def layer_map(values: Values) -> list[tuple[str, str]]:
    """Tone and description of every quantized node and every layer in float: how the runtime executes it."""
    fusion = values["validation"]["fusion"]
    unfused, blockwise, left_float = (set(fusion[kind]) for kind in ("unfused", "blockwise", "left_float"))
    cells = []
    for one in values["layers"]:
        node = f"{one['node']} ({one['op_type']})"
        if one["node"] in left_float:
            continue
        if one["weight_bits"] is None and not fusion["fused_others"]:  # an Add, say, of which none has a kernel
            cells.append(("bad", f"{node}: left in float"))
            continue
        runs = _NOT_FUSED if one["node"] in unfused else "in integers"
        runs = "on 4-bit weights in blocks" if one["node"] in blockwise else runs
        bits = "" if one["weight_bits"] is None else f"{one['weight_bits']}-bit weights, "
        tone = "warn" if one["node"] in unfused else "good"
        cells.append((tone, f"{node}: {bits}{one['activation_bits']}-bit inputs, {runs}"))
    known = {one["node"] for one in values["layers"]}
    cells += [("warn", f"{name}: {_NOT_FUSED}") for name in fusion["unfused"] if name not in known]
    return cells + [("bad", f"{name}: left in float") for name in fusion["left_float"]]


def float_nodes(values: Values) -> list[tuple[str, str, str]]:
    """Operator, name and reason of what stays in float: refused by the target, or slower in integers."""
    refused = [(one["op_type"], one["where"], one["reason"]) for one in values["refusals"]]
    if any(one["chosen"] for one in values["speed_trials"]):
        known = {where for _, where, _ in refused}
        reason = "its weights are stored in integers; in float the file is faster here, see the forms under Time"
        kinds = {one["node"]: one["op_type"] for one in values["layers"]}
        names = [name for name in values["validation"]["fusion"]["left_float"] if name not in known]
        refused += [(kinds.get(name, "layer"), name, reason) for name in names]
    return refused


def speed_facts(report: Report) -> list[tuple[str, str]]:
    """Whether the file is faster, and the other forms of it that were timed."""
    speed = report.validation.speed
    facts = [("verdict", speed.describe())] if speed is not None else []
    for one in report.speed_trials:
        time = f"{one['median_ms']:.3g} ms, {one['of_float']:.2f} times" if one["of_float"] is not None else ""
        text = f"{time} the float file's time" if time else one["reason"]
        facts.append((f"form of the file{', kept' if one['chosen'] else ''}", f"{one['form']}: {text}"))
    return facts


def _flat(settings: Values, prefix: str = "") -> list[tuple[str, Any]]:
    """Rows of nested settings, their names joined by dots; without those that are not set."""
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            rows.append((f"{prefix}{name}", value))
    return rows
