"""A plan of widths in a file: to be looked at, changed, and given back to another compilation.

    {"version": 1,
     "model_sha256": "the float file that the names belong to",
     "exclude": ["/head/*", "Softmax", ...],         patterns of what stays float, as of the option
     "layer_bits": {"/backbone/*": 4, ...},          bits, or "float", by pattern, as of the option
     "weights": {"/layer1/conv/Conv": 4, ...},       bits, or "float", by node name; these win over the patterns
     "activations": {"/layer1/Relu_output_0": 8, ...}}   bits, or "float", by value name

All but the version may be left out. What the file does not name keeps the width that the other options say. A file that
was saved names everything: its ``exclude`` holds names, and its ``layer_bits`` nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from passes.plan import QuantizationPlan
from passes.quantize.override_widths import Width, widths_of
from zsq_compile.errors import ConfigError
from zsq_compile.files import written_whole

_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """What a plan file holds, as above; ``model_sha256`` is empty when the plan was written by hand."""

    version: int = _VERSION
    model_sha256: str = ""
    exclude: tuple[str, ...] = ()
    layer_bits: Mapping[str, Width] = field(default_factory=dict)
    weights: Mapping[str, Width] = field(default_factory=dict)
    activations: Mapping[str, Width] = field(default_factory=dict)


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
    known = [one.name for one in fields(PlanFile)]
    if unknown := sorted(plain.keys() - set(known)):
        raise ConfigError(f"plan file {path}: unknown key {unknown[0]!r}; it has {', '.join(known)}")
    if plain.get("version") != _VERSION:
        raise ConfigError(
            f"plan file {path}: this zsq-compile reads version {_VERSION}, got {plain.get('version')!r}; "
            "make the plan again with --save-plan"
        )
    sha256 = plain.get("model_sha256", "")
    if not isinstance(sha256, str):
        raise ConfigError(f"plan file {path}: model_sha256 must be a text, got {sha256!r}")
    exclude = plain.get("exclude", [])
    if not isinstance(exclude, list) or not all(isinstance(pattern, str) and pattern for pattern in exclude):
        raise ConfigError(f"plan file {path}: exclude must be a list of patterns, got {exclude!r:.40}")
    return PlanFile(
        model_sha256=sha256,
        exclude=tuple(exclude),
        layer_bits=_widths(plain, "layer_bits", path),
        weights=_widths(plain, "weights", path),
        activations=_widths(plain, "activations", path),
    )


def make_plan_file(plan: QuantizationPlan, model_sha256: str) -> PlanFile:
    """Widths of every layer and value of a plan; what was left in float on request is marked as such."""
    widths = widths_of(plan)
    return PlanFile(
        model_sha256=model_sha256, exclude=plan.excluded, weights=widths.weights, activations=widths.activations
    )


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan file. ConfigError when that fails."""
    with written_whole(path) as part:
        part.write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")


def _widths(plain: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    given = plain.get(key, {})
    if not isinstance(given, dict):
        raise ConfigError(f"plan file {path}: {key} must be an object of names and widths, got {given!r:.40}")
    for name, width in given.items():
        number = isinstance(width, int) and not isinstance(width, bool)
        if not number and width != "float":
            raise ConfigError(f'plan file {path}: {key}.{name} must be a number of bits or "float", got {width!r}')
    return given
