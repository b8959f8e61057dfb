"""Fit how likely a convention is by the inside of a network, and how far that is to be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from known_networks import Known
from numpy.typing import NDArray
from untrained import Seen, fit_trust

from zsq_compile.synthesis.preprocessing.interior import FEATURES
from zsq_compile.synthesis.preprocessing.likelihood import Trust

Matrix = NDArray[np.float64]

_RIDGE = 0.1
_OWN = 0.5  # weight of a network as it is; the rest is shared by what it would be under other conventions
_ROUNDS, _STEPS, _LARGEST_STEP = 4, 60, 2.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """Candidates on each kind of pictures (kinds, candidates, features), and the number of the right candidate.

    NaN where one cannot be run.
    """

    features: Matrix
    right: int

    def likeliest(self, weights: Matrix) -> Matrix:
        """(candidates, features) on the kind of pictures on which the right candidate is the likeliest."""
        likely = np.nan_to_num(self.features[:, self.right] @ weights, nan=-np.inf)
        return np.asarray(self.features[int(likely.argmax())])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looked:
    """What was seen of a network.

    Attributes:
        known: the network.
        names: of the candidates.
        own: the network as it is.
        others: as if it had been trained under each of the other conventions.
        prior: logarithms of the odds by everything but the inside.
        bgr: probability of BGR, given the right convention.
        layers: that have a bias.
        untrained: what was seen of it with its numbers in random order.

    """

    known: Known
    names: Sequence[str]
    own: Choice
    others: Sequence[Choice]
    prior: Matrix
    bgr: float
    layers: int
    untrained: Sequence[Seen]

    @property
    def seen(self) -> Seen:
        """The network as it is."""
        return Seen(features=self.own.features, layers=self.layers, prior=self.prior, right=self.own.right)


def fit(networks: Sequence[Looked]) -> Matrix:
    """Weights of the features that make the right candidates most likely.

    Every group of files counts the same. Which pictures a network knows is taken from the weights of the round before.
    """
    weights = np.zeros(len(FEATURES))
    for _ in range(_ROUNDS):
        weights = _fit_round(networks, weights)
    return weights


def _fit_round(networks: Sequence[Looked], before: Matrix) -> Matrix:
    """Fit by Newton's method, with a ridge."""
    groups = [one.known.group for one in networks]
    scale = _scale(networks)
    terms: list[tuple[Matrix, Matrix, float]] = []
    for one in networks:
        share = 1.0 / groups.count(one.known.group)
        for choice in (one.own, *one.others):
            weight = share * (_OWN if choice is one.own else (1.0 - _OWN) / len(one.others))
            seen = choice.likeliest(before)
            terms.append((seen[np.isfinite(seen).all(1)] / scale, seen[choice.right] / scale, weight))
    weights = np.zeros(len(FEATURES))
    for _ in range(_STEPS):
        slope, curve = -_RIDGE * weights, _RIDGE * np.eye(len(weights))
        for rows, chosen, weight in terms:
            shares = _shares(rows @ weights)
            mean = shares @ rows
            slope = slope + weight * (chosen - mean)
            curve = curve + weight * ((rows * shares[:, None]).T @ rows - np.outer(mean, mean))
        step = np.linalg.solve(curve, slope)
        largest = float(np.abs(step).max())
        weights = weights + step * min(1.0, _LARGEST_STEP / max(largest, 1e-12))
        if largest < 1e-8:
            break
    return weights / scale


def _scale(networks: Sequence[Looked]) -> Matrix:
    """Root mean square of the differences to the right candidate, by feature."""
    choices = [choice for one in networks for choice in (one.own, *one.others)]
    apart = np.concatenate(
        [(one.features - one.features[:, [one.right]]).reshape(-1, len(FEATURES)) for one in choices]
    )
    return np.asarray(np.sqrt(np.nanmean(apart**2, 0)))


def _shares(log_odds: Matrix) -> Matrix:
    odds = np.exp(log_odds - log_odds.max())
    return np.asarray(odds / odds.sum())


def trusted(networks: Sequence[Looked], weights: Matrix) -> Trust:
    """How far weights are to be trusted, by all of these networks; every group counts the same."""
    groups = [one.known.group for one in networks]
    trained = [(one.seen, 1.0 / groups.count(one.known.group)) for one in networks]
    return fit_trust(trained, [seen for one in networks for seen in one.untrained], weights)
