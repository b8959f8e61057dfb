"""Which preprocessing do the statistics of a network tell of? What the first BatchNormalizations remember decides.

The candidates are those in common use: the one under which the same images come nearest. Where not one is near, a mean
and a deviation of each channel are fitted. What comes near nothing is an alarm.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.operators import WEIGHTED
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.synthesis.preprocessing.fit import Fit
from zsq_compile.synthesis.preprocessing.trials import Trial, TrialNetwork

NEAR, MUCH_NEARER, EXPLAINED = 0.18, 4.0, 0.55
"""Up to which distance a usual preprocessing is right; how many times nearer a fitted one is, if that is right; and up
to which distance either is what the network was trained with. See benchmarks/results/preprocessing.md."""

LAYERS = 4
_SHARPNESS = 10.0  # what is 1.5 times farther than the nearest has 2 per cent of its probability
_LEAST_ODDS = -200.0
_FEWEST_VALUES = 128
_STATISTICS = "batch normalisation statistics"


def infer_from_statistics(network: TrialNetwork, statistics: BatchNormStatistics) -> Posterior | None:
    """Infer what the image input of a network expects.

    None where there are no statistics, or they cannot be tried; or where they are far behind the input and nothing is
    near: then they are evidence among others (see ``odds_of_statistics``).
    """
    candidates = usual_preprocessings(network.spec.channels, network.spec.layout or "NCHW")
    trial = watch_statistics(network, statistics)
    distances = [] if trial is None else [trial.distance(candidate) for candidate in candidates]
    if trial is None or not np.isfinite(distances).any():
        return None
    nearest, second = sorted(range(len(candidates)), key=distances.__getitem__)[:2]
    if distances[nearest] > NEAR:
        if is_deep(trial):
            return None
        make = partial(replace, candidates[0], name="fitted")
        found = fit_to_statistics(trial, make, network.spec.channels, distances[nearest])
        if found is not None:
            return Posterior.certain(found)
    if distances[nearest] > EXPLAINED:
        return Posterior.certain(replace(candidates[nearest], source="unexplained", reason=_far(distances[nearest])))
    margin = distances[second] / max(distances[nearest], 1e-12)
    best = replace(candidates[nearest], source="inferred", margin=margin, reason=_STATISTICS)
    ranked = [best if one is candidates[nearest] else one for one in candidates]
    return Posterior.of(ranked, [float(np.exp(odds)) for odds in _log_odds(distances)])


def odds_of_statistics(
    network: TrialNetwork, statistics: BatchNormStatistics, candidates: Sequence[Preprocessing]
) -> NDArray[np.float64] | None:
    """Return the logarithms of the odds that statistics give to candidates; None where they cannot be tried."""
    trial = watch_statistics(network, statistics)
    distances = [] if trial is None else [trial.distance(candidate) for candidate in candidates]
    return _log_odds(distances) if np.isfinite(distances).any() else None


def watch_statistics(network: TrialNetwork, statistics: BatchNormStatistics) -> Trial | None:
    """Watch the first layers that have statistics; None where there are none, or they cannot be run."""
    layers = statistics.usable[:LAYERS]
    return network.watch(layers) if layers else None


def is_deep(trial: Trial) -> bool:
    """Whether there is more than one layer in front of the first with statistics."""
    return count_layers(trial.network.model, trial.layers[0].input) > 1


def _log_odds(distances: Sequence[float]) -> NDArray[np.float64]:
    """Logarithms of odds by distance, 0 for the nearest."""
    logs = np.log(np.maximum(distances, 1e-12))
    odds: NDArray[np.float64] = np.maximum(-_SHARPNESS * (logs - logs.min()), _LEAST_ODDS)
    return odds


def contradict_by_statistics(
    network: TrialNetwork, statistics: BatchNormStatistics, given: Preprocessing
) -> Preprocessing | None:
    """Return what the statistics point to where that is not the given preprocessing; None where they allow that."""
    trial = watch_statistics(network, statistics)
    distance = 0.0 if trial is None else trial.distance(given)
    if trial is None or distance <= NEAR:
        return None
    found = infer_from_statistics(network, statistics)
    other = given if found is None else found.best
    return other if other.source == "inferred" and trial.distance(other) * MUCH_NEARER <= distance else None


def fit_to_statistics(
    trial: Trial, make: Callable[..., Preprocessing], channels: int, nearest: float, *, hurried: bool = False
) -> Preprocessing | None:
    """Fit mean and std of ``channels`` channels, where what is usual is ``nearest`` to the statistics, and not near.

    None where the first BatchNormalization is too far behind the input, or where nothing much nearer is found; or where
    a channel of it has few numbers on all samples, whose moments are too noisy to be fitted.
    """
    if is_deep(trial):
        return None
    fit = Fit(trial.of_first_layer(), lambda mean, std: make(mean=mean, std=std), channels, hurried)
    if fit.count_values() < _FEWEST_VALUES:
        return None
    fitted = fit.run()
    distance = trial.distance(fitted)
    if distance * MUCH_NEARER > nearest:
        return None
    if distance > EXPLAINED:
        return replace(fitted, source="unexplained", reason=_far(distance))
    return replace(fitted, source="inferred", margin=nearest / max(distance, 1e-12), reason=_STATISTICS)


def count_layers(model: ir.Model, name: str) -> int:
    """Count the layers with weights that a value is computed by."""
    makers = {value.name: node for node in model.graph for value in node.outputs}
    waiting, seen = [name], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(str(value.name) for value in node.inputs if value is not None)
    return sum(node.op_type in WEIGHTED for node in seen)


def _far(distance: float) -> str:
    return f"the nearest to the batch normalisation statistics, but far from them: a distance of {distance:.2g}"
