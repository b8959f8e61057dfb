"""What is believed of an input's preprocessing: several possible ones, each with a probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        """The most probable preprocessing."""
        return self.hypotheses[0].preprocessing

    @property
    def plausible(self) -> tuple[Hypothesis, ...]:
        """The fewest hypotheses that hold ``PLAUSIBLE`` of the probability."""
        held, kept = 0.0, []
        for one in self.hypotheses:
            kept.append(one)
            held += one.probability
            if held >= PLAUSIBLE:
                break
        return tuple(kept)

    @property
    def is_open(self) -> bool:
        """Whether more than one preprocessing is plausible."""
        return len(self.plausible) > 1

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain values: what ``Preprocessing.to_json`` gives of each, with its probability."""
        return [{**one.preprocessing.to_json(), "probability": one.probability} for one in self.hypotheses]


def best_of(posteriors: Mapping[str, Posterior]) -> dict[str, Preprocessing]:
    """Return the most probable preprocessing of every input."""
    return {name: one.best for name, one in posteriors.items()}
