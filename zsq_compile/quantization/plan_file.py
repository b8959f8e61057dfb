"""A plan of widths in a file: to be looked at, changed, and given back to another compilation.

    {"version": 1,
     "model_sha256": "the float file that the names belong to",
     "weights": {"/layer1/conv/Conv": 4, ...},       bits by node name
     "activations": {"/layer1/Relu_output_0": 8, ...}}   bits, or "float", by value name

What the file does not name keeps the width that the other options say.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passes.plan import QuantizationPlan
from passes.quantize.override_widths import Width, Widths, widths_of
from zsq_compile.errors import ConfigError
from zsq_compile.files import written_whole

_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """What a plan file holds, as above; ``model_sha256`` is empty when the plan was written by hand."""

    version: int = _VERSION
    model_sha256: str = ""
    weights: Mapping[str, int]
    activations: Mapping[str, Width]

    @property
    def widths(self) -> Widths:
        """What ``override_widths`` takes."""
        return Widths(weights=self.weights, activations=self.activations)


def read_plan(path: Path) -> PlanFile:
    """Read a plan file. ConfigError when it is none; names are checked when it meets a model."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"plan file {path} cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"plan file {path} is not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"plan file {path} must hold an object with weights and activations, got {plain!r:.40}")
    unknown = sorted(plain.keys() - {"version", "model_sha256", "weights", "activations"})
    if unknown:
        raise ConfigError(
            f"plan file {path}: unknown key {unknown[0]!r}; it has version, model_sha256, weights and activations"
        )
    if plain.get("version") != _VERSION:
        raise ConfigError(
            f"plan file {path}: this zsq-compile reads version {_VERSION}, got {plain.get('version')!r}; "
            "make the plan again with --save-plan"
        )
    sha256 = plain.get("model_sha256", "")
    if not isinstance(sha256, str):
        raise ConfigError(f"plan file {path}: model_sha256 must be a text, got {sha256!r}")
    return PlanFile(
        model_sha256=sha256,
        weights=_widths(plain, "weights", path, floats=False),
        activations=_widths(plain, "activations", path, floats=True),
    )


def make_plan_file(plan: QuantizationPlan, model_sha256: str) -> PlanFile:
    """Widths of every layer and value of a plan; values that other widths left in float are marked as such."""
    widths = widths_of(plan)
    return PlanFile(model_sha256=model_sha256, weights=widths.weights, activations=widths.activations)


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan file. ConfigError when that fails."""
    with written_whole(path) as part:
        part.write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")


def _widths(plain: Mapping[str, Any], key: str, path: Path, *, floats: bool) -> dict[str, Any]:
    given = plain.get(key, {})
    if not isinstance(given, dict):
        raise ConfigError(f"plan file {path}: {key} must be an object of names and widths, got {given!r:.40}")
    for name, width in given.items():
        number = isinstance(width, int) and not isinstance(width, bool)
        if not number and not (floats and width == "float"):
            wanted = 'a number of bits or "float"' if floats else "a number of bits"
            raise ConfigError(f"plan file {path}: {key}.{name} must be {wanted}, got {width!r}")
    return given
