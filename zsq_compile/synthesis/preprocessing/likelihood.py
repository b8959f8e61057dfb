"""How likely a preprocessing is by what the inside of a network looks like under it, fitted on networks of known truth.

A conditional logit: the probability of a candidate is the softmax over all of a weighted sum of its features. Two
things limit what it may say:

1. it is about trained networks, and the layers of one that was not trained are not centred under any candidate. There
   are so many candidates that one of them looks best by far, and still worse than the right one of a trained network.
   So no likelihood counts for less than that of a network that training says nothing of (``Trust.floor``);
2. features are means over layers, so few layers tell less than many: below ``Trust.layers`` layers with biases the
   likelihood is raised to a power below 1.

The numbers in ``likelihood.toml`` are written by ``benchmarks/conventions.py``.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from zsq_compile.synthesis.preprocessing.interior import FEATURES, Layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """How far the likelihood is trusted: fully from so many layers with biases on, and nowhere below the floor."""

    layers: float
    floor: float

    def temper(self, logs: NDArray[np.float64], layers: int) -> NDArray[np.float64]:
        """Return the logarithms of likelihoods that so many layers with biases have told, as far as they count."""
        return np.asarray(min(1.0, layers / self.layers) * np.logaddexp(logs, self.floor))


@cache
def feature_weights() -> tuple[float, ...]:
    """Weight of each of the ``FEATURES``."""
    weights = _numbers()["weights"]
    return tuple(float(weights[name]) for name in FEATURES)


@cache
def trust() -> Trust:
    """Return the trust in use."""
    found = _numbers()["trust"]
    return Trust(layers=float(found["layers"]), floor=float(found["floor"]))


def log_likelihood(features: NDArray[np.float64], layers: int) -> float:
    """Logarithm of how likely features are, but for a constant that is the same for all candidates.

    Args:
        features: the ``FEATURES`` under a candidate.
        layers: see ``count_telling``.

    """
    return float(trust().temper(features @ np.array(feature_weights()), layers))


def count_telling(layers: Sequence[Layer]) -> int:
    """Count the layers that have a bias that can cancel what their weights make."""
    return sum(layer.bias is not None and bool(layer.bias.any()) for layer in layers)


def _numbers() -> dict[str, dict[str, float]]:
    text = files(__package__).joinpath("likelihood.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, float]] = tomllib.loads(text)
    return found
