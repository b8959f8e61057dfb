"""What does a network make of a real picture that it does not make of drawn ones? Most, under the right preprocessing.

A classifier names what the picture shows, a detector fires where drawn pictures leave it silent, a reader finds
letters. How far its answer to a real picture is from its usual answer to drawn ones is a divergence in nats. Contrast
alone does not raise it, as it raises confidence, because that makes drawn pictures certain, too. On four classifiers
with twelve photographs each, the right convention had the largest divergence or was within half a nat of it, and it is
what tells RGB from BGR. NumPy and ONNX Runtime only.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from passes.analysis.find_uneven_values import find_uneven_values
from zsq_compile.data.posterior import PLAUSIBLE, Posterior
from zsq_compile.data.preprocessing import Preprocessing, Source
from zsq_compile.metrics import are_probabilities, array_outputs, score_output
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

Pixels = NDArray[np.float32]
"""(N, C, H, W) in [0, 1]."""

_MOST = 8.0  # nats that one picture can tell
_LEAST = 1e-6  # probability
_WEIGHT, _MOST_COUNTED = 1.5, 4
"""Logarithm of the odds that one picture gives for a nat; and how many pictures, at most, tell more than one."""

_LEAST_LIKELY, _MOST_LIKELY = 1e-3, 10


def divergences(
    network: TrialNetwork, real: Pixels, drawn: Pixels, candidates: Sequence[Preprocessing]
) -> NDArray[np.float64] | None:
    """Nats by which answers to real pictures differ from those to drawn ones, the mean over pictures, by candidate.

    None where no output has answers: rows of class scores, or probabilities at many places.

    Args:
        network: with the input in question.
        real: pictures of the input's size.
        drawn: others of that size.
        candidates: preprocessings to compare.

    """
    uneven = find_uneven_values(network.model)
    made = (value for value in network.model.graph.outputs if value.producer() is not None)
    names = [str(value.name) for value in made if value.name not in uneven]
    if not names:
        return None
    try:
        session = network.open(names)
        runs = [[_outputs(network, session, one, part, names) for part in (real, drawn)] for one in candidates]
    except RuntimeModelError:
        return None
    first = runs[0][1]
    scores = score_output(array_outputs(first))
    if scores is not None:
        return np.asarray([_of_classes(wanted[scores], usual[scores]) for wanted, usual in runs])
    maps = [name for name in names if all(_holds_probabilities(part[name]) for run in runs for part in run)]
    if not maps:
        return None
    return np.asarray(
        [_of_maps([wanted[name] for name in maps], [usual[name] for name in maps]) for wanted, usual in runs]
    )


def _outputs(
    network: TrialNetwork, session: Session | None, one: Preprocessing, pixels: Pixels, names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    batches = list(network.run(session, one.encode(pixels)))
    return {name: np.concatenate([values[name] for values in batches]).astype(np.float64) for name in names}


def _of_classes(real: NDArray[np.float64], usual: NDArray[np.float64]) -> float:
    """KL(answer to a real picture || mean answer to drawn ones), the mean over real ones."""
    wanted, mean = _shares(real), _shares(usual).mean(0)
    each = (wanted * np.log(np.maximum(wanted, _LEAST) / np.maximum(mean, _LEAST))).sum(1)
    return float(np.minimum(each, _MOST).mean())


def _shares(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = scores.reshape(len(scores), -1)
    if are_probabilities(rows):
        return rows
    exponents: NDArray[np.float64] = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(exponents / exponents.sum(1, keepdims=True))


def _holds_probabilities(values: NDArray[np.float64]) -> bool:
    return values.ndim >= 3 and bool(np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0 + 1e-6)


def _of_maps(real: Sequence[NDArray[np.float64]], usual: Sequence[NDArray[np.float64]]) -> float:
    """Divergence of the highest probability over all places, of each kind of answer, summed over kinds."""
    each = np.zeros(len(real[0]))
    for wanted, drawn in zip(real, usual, strict=True):
        peaks, mean = _peaks(wanted), _peaks(drawn).mean(0)
        risen = np.where(peaks > mean, _bernoulli(peaks, mean), 0.0)  # silence tells nothing
        each += risen.max(1)
    return float(np.minimum(each, _MOST).mean())


def _peaks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, kinds): the highest of all places; kinds are the shorter axis of (N, a, b), the channels of (N, C, H, W)."""
    kinds = 1 if values.ndim != 3 or values.shape[1] <= values.shape[2] else 2
    flat = np.moveaxis(values, kinds, 1).reshape(len(values), values.shape[kinds], -1)
    return np.asarray(flat.max(2))


def _bernoulli(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    p, q = p.clip(_LEAST, 1.0 - _LEAST), q.clip(_LEAST, 1.0 - _LEAST)
    return np.asarray(p * np.log(p / q) + (1.0 - p) * np.log((1.0 - p) / (1.0 - q)))


def refine_by_answers(
    network: TrialNetwork, posterior: Posterior, real: Pixels, drawn: Pixels, count: int
) -> Posterior:
    """Weigh the hypotheses of a posterior by what the network makes of real pictures.

    Args:
        network: with the input in question.
        posterior: what else tells of it.
        real: pictures of the input's size, and mild variants of them.
        drawn: others.
        count: pictures that ``real`` was made from: one after the other tells less.

    """
    likely = [one for one in posterior.hypotheses if one.probability >= _LEAST_LIKELY][:_MOST_LIKELY]
    found = divergences(network, real, drawn, [one.preprocessing for one in likely]) if len(likely) > 1 else None
    if found is None:
        return posterior
    weight = _WEIGHT * np.sqrt(min(count, _MOST_COUNTED))
    odds = np.log([one.probability for one in likely]) + weight * (found - found.max())
    shares = np.exp(odds - odds.max())
    shares /= shares.sum()
    ways, weights = [one.preprocessing for one in likely], [float(one) for one in shares]
    best = Posterior.of(ways, weights).scales[0]  # of all orders of channels together: they are no doubt of the scale
    source: Source = "inferred" if best.probability >= PLAUSIBLE else "assumed"
    words = f"what the network makes of {count} real picture{'s' if count > 1 else ''}; {best.probability:.0%} probable"
    place = ways.index(best.preprocessing)
    if best.probability - weights[place] > 1.0 - PLAUSIBLE:
        words = f"{words}, and {weights[place]:.0%} in this order of channels"
    ways[place] = replace(best.preprocessing, source=source, reason=words, margin=None)
    return Posterior.of(ways, weights)
