"""What is believed of an input's preprocessing: several possible ones, each with a probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zsq_compile.data.preprocessing import Preprocessing

PLAUSIBLE = 0.98
"""Probability that the plausible preprocessings hold together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """A preprocessing and its probability, 0 to 1."""

    preprocessing: Preprocessing
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """Preprocessings that an input may have, the most probable first; their probabilities add up to 1."""

    hypotheses: tuple[Hypothesis, ...]

    @classmethod
    def certain(cls, preprocessing: Preprocessing) -> "Posterior":
        """Return the posterior that leaves no doubt."""
        return cls(hypotheses=(Hypothesis(preprocessing=preprocessing, probability=1.0),))

    @classmethod
    def of(cls, preprocessings: Sequence[Preprocessing], weights: Sequence[float]) -> "Posterior":
        """Return the posterior of preprocessings with these weights, which need not add up to 1."""
        total = sum(weights)
        pairs = sorted(zip(preprocessings, weights, strict=True), key=lambda pair: -pair[1])
        return cls(hypotheses=tuple(Hypothesis(preprocessing=one, probability=w / total) for one, w in pairs))

    @property
    def best(self) -> Preprocessing:
        """The most probable preprocessing, the order of channels apart."""
        return self.scales[0].preprocessing

    @property
    def scales(self) -> tuple[Hypothesis, ...]:
        """Hypotheses without those that differ in the order of channels only, which add to the most probable order.

        Pictures in the wrong order have nearly the ranges of those in the right one, so it is no doubt that calibration
        has to be hedged against.
        """
        held: dict[object, list[Hypothesis]] = {}
        for one in self.hypotheses:
            scale = replace(one.preprocessing, channel_order="none", reason="", source="assumed", margin=None)
            held.setdefault(scale, []).append(one)
        merged = [replace(group[0], probability=sum(one.probability for one in group)) for group in held.values()]
        return tuple(sorted(merged, key=lambda one: -one.probability))

    @property
    def plausible(self) -> tuple[Hypothesis, ...]:
        """The fewest of ``scales`` that hold ``PLAUSIBLE`` of the probability."""
        held, kept = 0.0, []
        for one in self.scales:
            kept.append(one)
            held += one.probability
            if held >= PLAUSIBLE:
                break
        return tuple(kept)

    @property
    def is_open(self) -> bool:
        """Whether more than one preprocessing is plausible."""
        return len(self.plausible) > 1

    def describe(self) -> str:
        """Say what is plausible: the names and probabilities of pictures', the families and scales of signals'."""
        plausible = self.plausible
        if self.best.layout is not None:
            return _either([f"{one.preprocessing.name} ({one.probability:.0%})" for one in plausible])
        scales: dict[str, list[float]] = {}
        for one in plausible:
            way = one.preprocessing
            scales.setdefault((way.family or way.name).replace("_", " "), []).extend(1.0 / std for std in way.std)
        ranges = [f"{family}, times {_span(gains)}" for family, gains in scales.items()]
        return _either(ranges) + (f" ({len(plausible)} most probable)" if len(plausible) > 1 else "")

    def share(self, *, bgr: bool) -> float:
        """Return the probability of one order of channels."""
        return sum(one.probability for one in self.hypotheses if (one.preprocessing.channel_order == "bgr") is bgr)

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain values: what ``Preprocessing.to_json`` gives of each, with its probability."""
        return [{**one.preprocessing.to_json(), "probability": one.probability} for one in self.hypotheses]


def _either(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _span(numbers: Sequence[float]) -> str:
    low, high = f"{min(numbers):.2g}", f"{max(numbers):.2g}"
    return low if low == high else f"{low} to {high}"


def best_of(posteriors: Mapping[str, Posterior]) -> dict[str, Preprocessing]:
    """Return the most probable preprocessing of every input."""
    return {name: one.best for name, one in posteriors.items()}
