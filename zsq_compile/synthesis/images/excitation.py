"""How much pictures of each family excite a network: a sign of what it was trained on, without any data.

Training shapes filters to what the training set shows: an input like it drives the outputs of the layers apart, and one
unlike it leaves them near their means. So the deviation of what each channel of each layer makes, over places and
pictures, is compared between families. Where outputs are probabilities, so is theirs: it is large where decisions are
firm and differ, be they classes, characters, masks or the presence of an object. How often the two name the family of a
network's domain stands in ``benchmarks/results/picture_families.md``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from torch import Tensor

from passes.operators import WEIGHTED
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.images.pictures import FAMILIES, PictureFamily, draw_family
from zsq_compile.synthesis.images.procedural import as_input, draw_feed

_PIXELS = 12 * 224 * 224
_MOST, _FEWEST = 24, 6
_BATCH = 4
_FLOOR = 1e-3
"""Of a deviation, relative to that over all families: nothing is endlessly quiet."""
_STILL = 1e-4  # of the widest channel of a layer: what moves less says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Excitation:
    """What a family does to a network, beside all families together.

    Attributes:
        activity: mean over layers and channels of the logarithm of the deviation, over that of all families.
        decisions: the same of outputs that are probabilities, their channels taken together; 0 where there are none.

    """

    activity: float
    decisions: float


@dataclass(kw_only=True, slots=True, eq=False)
class _Watched:
    """Mean and variance of each channel, by value, and the least and largest number of it."""

    parts: dict[str, list[tuple[int, Tensor, Tensor]]] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, axis: int) -> None:
        rows = value.movedim(axis, 0).flatten(1)
        variance, mean = torch.var_mean(rows, 1, correction=0)
        self.parts.setdefault(name, []).append((rows.shape[1], mean.double().cpu(), variance.double().cpu()))
        self.lowest[name] = min(self.lowest.get(name, torch.inf), float(rows.min()))
        self.highest[name] = max(self.highest.get(name, -torch.inf), float(rows.max()))

    def variance(self, name: str) -> Tensor | None:
        """(channels,) variance over all that was added; None where the number of channels changed on the way."""
        parts = self.parts.get(name, [])
        if len({len(mean) for _, mean, _ in parts}) != 1:
            return None
        counts = torch.tensor([float(count) for count, _, _ in parts], dtype=torch.float64)[:, None]
        means, variances = torch.stack([part[1] for part in parts]), torch.stack([part[2] for part in parts])
        weights = counts / counts.sum()
        mean = (weights * means).sum(0)
        return (weights * (variances + (means - mean).square())).sum(0)


def trial_count(spec: InputSpec) -> int:
    """Count the pictures of each family that a network is tried on: 24 small ones to 6 large ones, whole batches."""
    count = min(max(_PIXELS // (spec.height * spec.width), _FEWEST), _MOST)
    batch = spec.shape[0] or 1
    return -(-count // batch) * batch


def measure_excitation(
    teacher: TorchGraph,
    inputs: Sequence[InputSpec],
    spec: InputSpec,
    preprocessing: Mapping[str, Preprocessing],
    rng: torch.Generator,
) -> dict[PictureFamily, Excitation]:
    """Run some pictures of every family through the network; empty where it has no weighted layer.

    Args:
        teacher: the float network.
        inputs: all of the network; those besides ``spec`` get what ``draw_feed`` makes.
        spec: the input that takes the pictures.
        preprocessing: by name of the input; ``spec`` has one.
        rng: randomness of the trial's own.

    """
    count = trial_count(spec)
    others = {one.name: draw_feed(one, count, rng).to(teacher.device) for one in inputs if one.name != spec.name}
    watched = {}
    for family in FAMILIES:
        pictures = draw_family(family, *spec.pictures(count), rng)
        encoded = as_input(spec, preprocessing[spec.name].encode(pictures)).to(teacher.device)
        watched[family] = _watch(teacher, {**others, spec.name: encoded}, count, spec.shape[0] or _BATCH)
    layers = [name for name in watched[FAMILIES[0]].parts if name not in teacher.output_names]
    table = [row for row in (_compare_layer(name, watched) for name in layers) if row is not None]
    if not table:
        return {}
    heads = [row for row in (_compare_decisions(name, watched) for name in teacher.output_names) if row is not None]
    return {
        family: Excitation(
            activity=sum(row[family] for row in table) / len(table),
            decisions=sum(row[family] for row in heads) / len(heads) if heads else 0.0,
        )
        for family in FAMILIES
    }


def _watch(teacher: TorchGraph, feeds: Mapping[str, Tensor], count: int, batch: int) -> _Watched:
    """Run feeds of ``count`` samples in batches, and gather what the weighted layers and the outputs make of them."""
    watched = _Watched()

    def gather(node: ir.Node, results: tuple[Tensor, ...]) -> None:
        name, value = str(node.outputs[0].name), results[0]
        inner = node.op_type in WEIGHTED and name not in teacher.output_names
        if inner and value.is_floating_point() and value.ndim > 1 and value.numel():
            watched.add(name, value, 1 if "Conv" in node.op_type else value.ndim - 1)

    with torch.no_grad():
        for start in range(0, count, batch):
            part = {name: value[start : start + batch] if value.ndim else value for name, value in feeds.items()}
            for name, value in teacher.run(part, teacher.output_names, visit=gather).items():
                if value.is_floating_point() and value.ndim > 1 and value.numel():
                    watched.add(name, value, 2 if value.ndim == 3 else 1)
    return watched


def _compare_layer(name: str, watched: Mapping[PictureFamily, _Watched]) -> dict[PictureFamily, float] | None:
    """Mean over channels of the logarithm of the relative deviation; None where there is nothing to compare."""
    variances = _variances(name, watched)
    if variances is None:
        return None
    pooled = torch.stack(list(variances.values())).mean(0)
    moving = pooled > _STILL**2 * pooled.max()
    if not moving.any():
        return None
    return {
        family: float(((one[moving] / pooled[moving]).sqrt() + _FLOOR).log().mean())
        for family, one in variances.items()
    }


def _compare_decisions(name: str, watched: Mapping[PictureFamily, _Watched]) -> dict[PictureFamily, float] | None:
    """Logarithm of the relative deviation of probabilities, channels taken together; None where they are none."""
    variances = _variances(name, watched)
    inside = all(one.lowest.get(name, -1.0) >= -1e-4 and one.highest[name] <= 1.0 + 1e-4 for one in watched.values())
    if variances is None or not inside:
        return None
    pooled = torch.stack(list(variances.values())).mean(0).sum()
    if pooled <= 0.0:
        return None
    return {family: 0.5 * float((one.sum() / pooled + _FLOOR**2).log()) for family, one in variances.items()}


def _variances(name: str, watched: Mapping[PictureFamily, _Watched]) -> dict[PictureFamily, Tensor] | None:
    """Variance of each channel of a value by family; None where a family has none, or another number of channels."""
    if not all(name in one.parts for one in watched.values()):
        return None
    found = {family: one.variance(name) for family, one in watched.items()}
    kept = {family: one for family, one in found.items() if one is not None and torch.isfinite(one).all()}
    if len(kept) < len(found) or len({one.shape for one in kept.values()}) != 1:
        return None
    return kept
