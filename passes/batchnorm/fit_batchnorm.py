"""Find the parameters of the BatchNormalization that was folded into a layer among the vectors of a checkpoint.

Folding made    W_folded = r W    and    b_folded = beta + (b - mean) r    with    r = gamma / sqrt(variance + epsilon),

per output channel (Jacob et al. 2018, section 3.2). The ratio r is known from the weights. It is matched with every
pair (gamma, variance), and for those that fit, b_folded with every pair (beta, mean). Names only decide between vectors
that fit equally well: two equations that hold in every channel are proof enough.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 5e-3
"""Largest relative error, root of the mean square over channels: more than half precision leaves in a checkpoint."""

_EPSILONS = (1e-5, 1e-3)
_LARGEST_EPSILON = 0.1
_SMALL = 1e-4  # of the median channel: errors of smaller ones are taken relative to that
_EXACT = 1e-5  # errors below it are the noise of float32
_FEW = 4  # with fewer channels unrelated vectors may fit by chance
_NO_NAME = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """One BatchNormalization that explains a folded layer.

    Attributes:
        scale, shift, mean, variance: (C,) gamma, beta, and the running moments.
        names: of gamma, beta, mean and variance in the checkpoint; empty where there is none, as in one without gamma.
        bias: name of the layer's own bias in the checkpoint; empty where it had none.
        ratio_error: relative error of gamma / sqrt(variance + epsilon) against the ratio of the weights.
        bias_error: relative error of the resulting bias against the folded one.

    """

    scale: Array
    shift: Array
    mean: Array
    variance: Array
    epsilon: float
    names: tuple[str, str, str, str]
    bias: str
    ratio_error: float
    bias_error: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """Names of two of the four vectors, and how well they fit."""

    first: str
    second: str
    error: float
    epsilon: float


def fit_batchnorm(ratio: Array, bias: Array, vectors: Mapping[str, Array]) -> Fit | None:
    """Find the BatchNormalization that explains a folded layer, None where there is none.

    Args:
        ratio: (C,) folded weights over those of the checkpoint; nan where unknown, as in filters of zeros.
        bias: (C,) of the folded layer.
        vectors: those of the checkpoint that have C numbers, by name; a likely bias of the layer first.

    """
    known = np.isfinite(ratio)
    if not known.any() or not np.abs(ratio[known]).max():
        return None
    few = len(ratio) < _FEW
    for pair in _ranked(_ratio_pairs(ratio, known, vectors), few):
        scale = _vector(vectors, pair.first, 1.0, ratio)
        factor = scale / np.sqrt(vectors[pair.second] + pair.epsilon)
        for own in (_NO_NAME, *vectors):
            found = next(iter(_ranked(_bias_pairs(factor, bias, own, vectors), few, pair.second)), None)
            if found is not None:
                return Fit(
                    scale=scale,
                    shift=_vector(vectors, found.first, 0.0, ratio),
                    mean=vectors[found.second],
                    variance=vectors[pair.second],
                    epsilon=pair.epsilon,
                    names=(pair.first, found.first, found.second, pair.second),
                    bias=own,
                    ratio_error=pair.error,
                    bias_error=found.error,
                )
    return None


def _ranked(pairs: Iterable[_Pair], few: bool, beside: str | None = None) -> list[_Pair]:
    """Sort the pairs that fit, the best first; among exact ones, those whose names have the same prefix."""

    def strange(pair: _Pair) -> bool:
        names = [name for name in (pair.first, pair.second, beside) if name]
        return len({name.rpartition(".")[0] for name in names}) > 1

    fitting = [pair for pair in pairs if pair.error <= TOLERANCE and not (few and strange(pair))]
    return sorted(fitting, key=lambda pair: (max(pair.error, _EXACT), strange(pair), pair.error))


def _ratio_pairs(ratio: Array, known: NDArray[np.bool_], vectors: Mapping[str, Array]) -> Iterator[_Pair]:
    """Try every (gamma, variance), each with its best epsilon."""
    names = [name for name, vector in vectors.items() if (vector >= 0.0).all()]
    if not names:
        return
    variances = np.stack([vectors[name][known] for name in names])
    wanted = ratio[known]
    for first in (_NO_NAME, *vectors):
        scale = _vector(vectors, first, 1.0, ratio)[known]
        solved = _solved_epsilon(scale, wanted, variances)
        trials = np.stack([*(np.full(len(names), epsilon) for epsilon in _EPSILONS), solved])
        with np.errstate(divide="ignore", invalid="ignore"):
            made = scale / np.sqrt(variances + trials[..., None])
        errors = _errors(wanted, np.nan_to_num(made, posinf=0.0, neginf=0.0), np.zeros(len(wanted)))
        # prefer a usual epsilon where the solved one is better by no more than the noise of float32
        best = (errors + np.array([*(0.0 for _ in _EPSILONS), _EXACT])[:, None]).argmin(0)
        for index, second in enumerate(names):
            error, epsilon = float(errors[best[index], index]), float(trials[best[index], index])
            if error <= TOLERANCE and first != second:
                yield _Pair(first=first, second=second, error=error, epsilon=epsilon)


def _solved_epsilon(scale: Array, ratio: Array, variances: Array) -> Array:
    """Least squares of (gamma / r)² - variance over the channels, each in units of its variance; (n,)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        excess = (scale / ratio) ** 2 - variances
    weights = 1.0 / (variances + 1e-9) ** 2
    weights[~np.isfinite(excess)] = 0.0
    excess = np.where(np.isfinite(excess), excess, 0.0)
    total = weights.sum(1)
    solved = np.divide((weights * excess).sum(1), total, out=np.zeros_like(total), where=total > 0.0)
    clipped: Array = np.clip(solved, 0.0, _LARGEST_EPSILON)
    return clipped


def _bias_pairs(factor: Array, bias: Array, own: str, vectors: Mapping[str, Array]) -> Iterator[_Pair]:
    """Try every (beta, mean), with ``own`` as the layer's own bias."""
    names = [name for name in vectors if name != own]
    if not names:
        return
    mean = np.stack([vectors[name] for name in names])
    moved = (_vector(vectors, own, 0.0, bias) - mean) * factor
    for first in (_NO_NAME, *names):
        shift = _vector(vectors, first, 0.0, bias)
        errors = _errors(bias, shift + moved, np.abs(shift) + np.abs(moved))
        for index in np.flatnonzero(errors <= TOLERANCE):
            if names[index] != first:
                yield _Pair(first=first, second=names[index], error=float(errors[index]), epsilon=0.0)


def _errors(wanted: Array, made: Array, parts: Array) -> Array:
    """Root mean square over the last axis of relative errors, of small channels relative to the median one."""
    size = np.maximum(np.maximum(np.abs(wanted), np.abs(made)), parts)
    floor = _SMALL * np.median(size, axis=-1, keepdims=True)
    relative = (wanted - made) / np.maximum(np.maximum(size, floor), 1e-30)
    errors: Array = np.sqrt((relative**2).mean(-1))
    return errors


def _vector(vectors: Mapping[str, Array], name: str, default: float, like: Array) -> Array:
    return vectors[name] if name else np.full(len(like), default)
