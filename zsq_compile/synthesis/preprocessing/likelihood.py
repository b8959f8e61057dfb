"""How likely a preprocessing is by what the inside of a network looks like under it, fitted on networks of known truth.

A conditional logit: the probability of a candidate is the softmax over all of a weighted sum of its features. The
weights in ``likelihood.toml`` are written by ``benchmarks/conventions.py``.
"""

import tomllib
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from zsq_compile.synthesis.preprocessing.interior import FEATURES


@cache
def feature_weights() -> tuple[float, ...]:
    """Weight of each of the ``FEATURES``."""
    text = files(__package__).joinpath("likelihood.toml").read_text(encoding="utf-8")
    weights = tomllib.loads(text)["weights"]
    return tuple(float(weights[name]) for name in FEATURES)


def log_likelihood(features: NDArray[np.float64]) -> float:
    """Logarithm of how likely features are, but for a constant that is the same for all candidates."""
    return float(features @ np.array(feature_weights()))
