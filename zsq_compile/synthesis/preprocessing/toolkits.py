"""What the toolkit that wrote a file tells of its pictures: prior odds from ``toolkits.toml``."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolkit:
    """A row of ``toolkits.toml``."""

    name: str
    where: str
    pattern: str
    odds: Mapping[str, float]
    bgr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorOdds:
    """Factors by the name of a convention, that of BGR against RGB, and the toolkits that gave them."""

    by_convention: Mapping[str, float]
    bgr: float
    toolkits: tuple[str, ...]


@cache
def toolkits() -> tuple[Toolkit, ...]:
    """Read the rows."""
    text = files(__package__).joinpath("toolkits.toml").read_text(encoding="utf-8")
    return tuple(
        Toolkit(
            name=row["name"],
            where=row["where"],
            pattern=row["pattern"],
            odds=row.get("odds", {}),
            bgr=row.get("bgr", 1.0),
        )
        for row in tomllib.loads(text)["toolkit"]
    )


def find_prior_odds(model: ir.Model) -> PriorOdds:
    """Look for what toolkits write; of several that did, the factors are multiplied."""
    texts = _texts(model)
    found = [one for one in toolkits() if re.search(one.pattern, texts[one.where], re.IGNORECASE | re.MULTILINE)]
    by_convention: dict[str, float] = {}
    bgr = 1.0
    for one in found:
        bgr *= one.bgr
        for name, factor in one.odds.items():
            by_convention[name] = by_convention.get(name, 1.0) * factor
    return PriorOdds(by_convention=by_convention, bgr=bgr, toolkits=tuple(one.name for one in found))


def _texts(model: ir.Model) -> dict[str, str]:
    graph = model.graph
    values = [value.name for value in (*graph.inputs, *graph.outputs)]
    nodes = [node.name for node in graph]
    metadata = {**graph.metadata_props, **model.metadata_props}
    return {
        "producer": model.producer_name or "",
        "metadata": "\n".join(f"{key}={value}" for key, value in metadata.items()),
        "graph": "\n".join(text for text in (graph.name, graph.doc_string, model.doc_string) if text),
        "names": "\n".join(name for name in (*values, *nodes) if name),
    }
