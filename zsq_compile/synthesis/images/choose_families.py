"""Which families of pictures suit a network, measured on itself: a mixture, with the reason in words.

Constants are those that ``benchmarks/picture_families.py`` fits on networks whose domain is known, and prints above the
table of what it chooses for each network when that one is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm
from passes.operators import WEIGHTED
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ExecutionError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.channel_moments import ActivationMoments
from zsq_compile.synthesis.images.excitation import Excitation, measure_excitation, trial_count
from zsq_compile.synthesis.images.pictures import FAMILIES, PHOTOGRAPHS, PictureFamily, Shares, draw_family
from zsq_compile.synthesis.images.procedural import as_input, draw_feed
from zsq_compile.synthesis.probe import layer_targets, measure_moments

ACTIVITY, DECISIONS, OTHER = 7.6, 7.18, -4.45
"""Log-odds of a family against photographs: per unit of activity, per unit of decisions, and of any other family."""

_LEAST_PHOTOGRAPHS = 0.25
_LEAST = 0.05  # of a family that takes part

# BatchNormalization statistics decide where most layers have them. Real samples lie 0.01 to 0.04 from them and
# photographs often up to 0.1, from where the optimisation of pixels reaches them.
_NEAR, _NEARER = 0.15, 2.0
_COVERED = 0.5  # share of the weighted layers that have statistics
_DISTANCE_WEIGHT = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyChoice:
    """The mixture of families that an input gets.

    Attributes:
        shares: of each family.
        reason: what decided, in words.

    """

    shares: Shares
    reason: str

    @property
    def is_usual(self) -> bool:
        """Whether it is photographs alone."""
        return self.shares == PHOTOGRAPHS

    def describe(self) -> str:
        """Say it, such as "25 % photographs, 75 % text lines (...)"."""
        parts = [f"{100 * share:.0f} % {family}" for family, share in self.shares.items()]
        return f"{', '.join(parts)} ({self.reason})"


def choose_families(
    teacher: TorchGraph,
    inputs: Sequence[InputSpec],
    preprocessing: Mapping[str, Preprocessing],
    layers: Sequence[BatchNorm],
    seed: int,
    progress: Progress,
) -> dict[str, FamilyChoice]:
    """Choose the mixture of every input that takes pictures, by name.

    Args:
        teacher: the float network.
        inputs: of the network.
        preprocessing: by name of the input, of those that take pictures at least.
        layers: BatchNormalizations with usable statistics.
        seed: of the trials, which have randomness of their own.
        progress: receives what was chosen.

    """
    found: dict[str, FamilyChoice] = {}
    for spec in (one for one in inputs if one.is_image):
        rng = torch.Generator().manual_seed(seed)
        try:
            found[spec.name] = _choose(teacher, inputs, spec, preprocessing, layers, rng)
        except ExecutionError as error:
            found[spec.name] = FamilyChoice(shares=PHOTOGRAPHS, reason="the network cannot be run for trials")
            progress.warn(f"input {spec.name!r}: no other pictures than photographs were tried: {error}")
            continue
        report = progress.detail if found[spec.name].is_usual else progress.note
        report(f"input {spec.name!r}: the pictures are {found[spec.name].describe()}")
    return found


def _choose(
    teacher: TorchGraph,
    inputs: Sequence[InputSpec],
    spec: InputSpec,
    preprocessing: Mapping[str, Preprocessing],
    layers: Sequence[BatchNorm],
    rng: torch.Generator,
) -> FamilyChoice:
    weighted = sum(node.op_type in WEIGHTED for node in teacher.model.graph)
    if layers and len(layers) >= _COVERED * weighted:
        near = _distance(teacher, inputs, spec, preprocessing, layers, "photographs", rng)
        if near <= _NEAR:
            reason = f"{near:.3f} from the statistics of batch normalisation, which is near"
            return FamilyChoice(shares=PHOTOGRAPHS, reason=reason)
        distances = {
            family: near
            if family == "photographs"
            else _distance(teacher, inputs, spec, preprocessing, layers, family, rng)
            for family in FAMILIES
        }
        return choice_by_distance(distances)
    return choice_by_excitation(measure_excitation(teacher, inputs, spec, preprocessing, rng))


def choice_by_distance(distances: Mapping[PictureFamily, float]) -> FamilyChoice:
    """Choose by the distance of each family from the statistics of batch normalisation."""
    best, photographs = min(FAMILIES, key=lambda one: distances[one]), distances["photographs"]
    if photographs <= _NEARER * distances[best]:
        reason = f"{photographs:.3f} from the statistics of batch normalisation, and no other family is much nearer"
        return FamilyChoice(shares=PHOTOGRAPHS, reason=reason)
    odds = {family: (distances[best] / max(one, 1e-9)) ** _DISTANCE_WEIGHT for family, one in distances.items()}
    reason = (
        f"{best} are {distances[best]:.3f} from the statistics of batch normalisation, photographs {photographs:.3f}"
    )
    return FamilyChoice(shares=_mixture(odds), reason=reason)


def choice_by_excitation(excitations: Mapping[PictureFamily, Excitation]) -> FamilyChoice:
    """Choose by what the families do to the network; photographs alone where nothing could be measured."""
    if not excitations:
        return FamilyChoice(shares=PHOTOGRAPHS, reason="the network has no layer that tells families apart")
    odds = family_odds(excitations)
    total = sum(odds.values())
    best = max(FAMILIES, key=lambda one: odds[one])
    if odds["photographs"] >= 0.5 * total:
        reason = f"what excites the network most, {100 * odds['photographs'] / total:.0f} % by the evidence"
        return FamilyChoice(shares=PHOTOGRAPHS, reason=reason)
    usual, found = excitations["photographs"], excitations[best]
    firmer = f", and decisions {exp(found.decisions - usual.decisions):.1f} times" if found.decisions else ""
    reason = (
        f"{best} drive the layers of the network {exp(found.activity - usual.activity):.2f} times as far apart as "
        f"photographs do{firmer}"
    )
    return FamilyChoice(shares=_mixture(odds), reason=reason)


def family_odds(excitations: Mapping[PictureFamily, Excitation]) -> dict[PictureFamily, float]:
    """Odds of each family against photographs, whose own are 1."""
    usual = excitations["photographs"]
    logarithms = {
        family: ACTIVITY * (one.activity - usual.activity)
        + DECISIONS * (one.decisions - usual.decisions)
        + (0.0 if family == "photographs" else OTHER)
        for family, one in excitations.items()
    }
    return {family: exp(min(logarithm, 50.0)) for family, logarithm in logarithms.items()}


def _mixture(odds: Mapping[PictureFamily, float]) -> Shares:
    """Shares in proportion to the odds: of families that take part, and photographs have a quarter at least."""
    total = sum(odds.values())
    usual = max(odds["photographs"] / total, _LEAST_PHOTOGRAPHS)
    others = [family for family in FAMILIES if family != "photographs" and odds[family] >= _LEAST * total]
    rest = sum(odds[family] for family in others)
    shares: dict[PictureFamily, float] = {"photographs": usual}
    return shares | {family: (1.0 - usual) * odds[family] / rest for family in others}


def _distance(
    teacher: TorchGraph,
    inputs: Sequence[InputSpec],
    spec: InputSpec,
    preprocessing: Mapping[str, Preprocessing],
    layers: Sequence[BatchNorm],
    family: PictureFamily,
    rng: torch.Generator,
) -> float:
    """Mean over layers of the median over channels of KL(N(measured) || N(remembered)), on pictures of a family."""
    count = trial_count(spec)
    feeds = {one.name: draw_feed(one, count, rng).to(teacher.device) for one in inputs if one.name != spec.name}
    pictures = draw_family(family, *spec.pictures(count), rng)
    feeds[spec.name] = as_input(spec, preprocessing[spec.name].encode(pictures)).to(teacher.device)
    measured = measure_moments(teacher, layers, feeds, spec.shape[0] or 8)
    targets = layer_targets(layers, teacher.device)
    return sum(_divergence(*pair) for pair in zip(measured, targets, strict=True)) / len(layers)


def _divergence(measured: ActivationMoments, target: ActivationMoments) -> float:
    """Median over channels of KL(N(measured) || N(target))."""
    variance = target.variance.double().clamp_min(1e-12)
    ratio = (measured.variance.double() / variance).clamp_min(1e-4)
    shift = (measured.mean.double() - target.mean.double()).square() / variance
    return float((0.5 * (shift + ratio - ratio.log() - 1.0)).median())
