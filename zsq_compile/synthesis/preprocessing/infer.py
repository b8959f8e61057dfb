"""Which preprocessing does a network expect of an image? Candidates, evidence, choice.

The candidates are those in common use. The evidence, from the strongest on:

1. Statistics of the first BatchNormalizations: the candidate under which the same images come nearest to them.
2. What the first layer sees, where the graph itself scales its input in front of it.
3. Biases of the first layer: where they dominate what small inputs give, inputs are raw pixels.
4. Decisions of a classifier: far more telling under small inputs than under raw pixels. The reverse proves nothing, as
   a network of any kind gives more information on images that are blown up.
5. The toolkit that wrote the file.

Only the first keeps the small candidates (unit, symmetric, imagenet) apart. Where nothing decides, mean and std of
ImageNet are assumed: most published classifiers and backbones expect them, and they span the widest range of the small
ones. A range too wide costs some resolution, one too narrow clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.constants import constant_value
from passes.operators import WEIGHTED
from zsq_compile.data.preprocessing import Preprocessing, byte_preprocessing, usual_preprocessings
from zsq_compile.synthesis.preprocessing.fit import Fit
from zsq_compile.synthesis.preprocessing.trials import Trial, TrialNetwork, pooled_moments

NEAR, MUCH_NEARER, EXPLAINED = 0.18, 4.0, 0.55
"""Up to which distance a usual preprocessing is right; how many times nearer a fitted one is, if that is right; and up
to which distance either is what the network was trained with. See benchmarks/results/preprocessing.md."""

LAYERS = 4
_STATISTICS = "batch normalisation statistics"
_RAW = ("byte", "byte_bgr")
_SAME, _CLEARLY = 0.02, 3.0
_MOST_MISFIT, _BY_FAR = 2.0, 10.0
_DOMINANT = 10.0
_FEWEST_VALUES = 128
_TELLING, _LEAST_INFORMATION = 1.5, 1e-3
_RAW_PRODUCERS = ("CNTK",)  # their image readers pass on raw pixels; users of other exporters scale as they like
_SCALING = ("Add", "Sub", "Mul", "Div")
_FIRST_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


def infer_preprocessing(
    network: TrialNetwork, statistics: BatchNormStatistics, *, thorough: bool = True
) -> Preprocessing:
    """Infer what the image input of a network expects; without decisive statistics it is assumed, with the reason.

    Args:
        network: with the image input in question, and what it is tried on.
        statistics: of the network.
        thorough: gather evidence that can only confirm the choice, too, which runs a classifier on dozens of images.

    """
    if np.issubdtype(network.spec.dtype, np.integer):
        return byte_preprocessing(network.spec)
    candidates = usual_preprocessings(network.spec.channels, network.spec.layout or "NCHW")
    layers = statistics.usable[:LAYERS]
    trial = network.watch(layers) if layers else None
    distances = [] if trial is None else [trial.distance(candidate) for candidate in candidates]
    if trial is None or not np.isfinite(distances).any():
        return _assume(network, candidates, thorough)
    nearest, second = sorted(range(len(candidates)), key=distances.__getitem__)[:2]
    if distances[nearest] > NEAR:
        make = partial(replace, candidates[0], name="fitted")
        found = fit_to_statistics(trial, make, network.spec.channels, distances[nearest])
        if found is not None:
            return found
    if distances[nearest] > EXPLAINED:
        return replace(candidates[nearest], source="unexplained", reason=_far(distances[nearest]))
    margin = distances[second] / max(distances[nearest], 1e-12)
    return replace(candidates[nearest], source="inferred", margin=margin, reason=_STATISTICS)


def find_contradiction(
    network: TrialNetwork, statistics: BatchNormStatistics, given: Preprocessing
) -> Preprocessing | None:
    """Return what the statistics point to where that is not the given preprocessing; None where they allow that."""
    layers = statistics.usable[:LAYERS]
    trial = network.watch(layers) if layers and not np.issubdtype(network.spec.dtype, np.integer) else None
    distance = 0.0 if trial is None else trial.distance(given)
    if trial is None or distance <= NEAR:
        return None
    other = infer_preprocessing(network, statistics, thorough=False)
    return other if other.source == "inferred" and trial.distance(other) * MUCH_NEARER <= distance else None


def fit_to_statistics(
    trial: Trial, make: Callable[..., Preprocessing], channels: int, nearest: float
) -> Preprocessing | None:
    """Fit mean and std of ``channels`` channels, where what is usual is ``nearest`` to the statistics, and not near.

    None where the first BatchNormalization is too far behind the input, or where nothing much nearer is found; or where
    a channel of it has few numbers on all samples, whose moments are too noisy to be fitted.
    """
    if count_layers(trial.network.model, trial.layers[0].input) > 1:
        return None
    fit = Fit(trial.of_first_layer(), lambda mean, std: make(mean=mean, std=std), channels)
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


def _assume(network: TrialNetwork, candidates: Sequence[Preprocessing], thorough: bool) -> Preprocessing:
    named = {candidate.name: candidate for candidate in candidates}
    producer = network.model.producer_name
    scales, first_input, first_layer = _find_opening(network.model, network.spec.name)
    if scales and first_input is not None:
        found = _by_what_is_seen(network, candidates, first_input)
        if found is not None:
            return found
    if first_layer is not None and network.bias_dominance(first_layer, named["imagenet"]) > _DOMINANT:
        return replace(named["byte"], reason="biases of the first layer dominate what smaller inputs would give")
    ratio = _decision_ratio(network, candidates) if thorough or producer in _RAW_PRODUCERS else 1.0
    if ratio >= _TELLING:
        reason = f"its decisions are {min(ratio, 99):.1f} times more telling for small inputs than for raw pixels"
        return replace(named["imagenet"], reason=f"{reason}; of the small ones the most common")
    if producer in _RAW_PRODUCERS:
        return replace(named["byte"], reason=f"raw pixels are usual with {producer}")
    return replace(named["imagenet"], reason="the most common, as nothing in the model tells")


def _decision_ratio(network: TrialNetwork, candidates: Sequence[Preprocessing]) -> float:
    """Information of decisions under the best small candidate over that under the best raw one; 1 if not known."""
    found = network.decisiveness(candidates)
    if found is None:
        return 1.0
    best = {True: 0.0, False: 0.0}
    for candidate, information in zip(candidates, found, strict=True):
        is_raw = candidate.name in _RAW
        best[is_raw] = max(best[is_raw], information)
    return best[False] / max(best[True], _LEAST_INFORMATION)


def _by_what_is_seen(network: TrialNetwork, candidates: Sequence[Preprocessing], value: str) -> Preprocessing | None:
    """Choose the candidate under which the first layer sees what first layers usually see; None where not one does.

    Arithmetic in front of that layer that brings one usual preprocessing into another tells which one it starts from.
    That it leaves one as it is tells nothing. Weights of the layer may hold a factor of any size, so that what is seen
    may be no usual one, and then raw pixels only can be told from the others.
    """
    images = network.draw()
    seen = network.seen_moments(value, candidates, images)
    if seen is None:
        return None
    named = {candidate.name: candidate for candidate in candidates}
    centred = [replace(named[name], mean=named["symmetric"].mean) for name in ("unit", "byte")]
    pixels = [replace(one, layout="NCHW").encode(images) for one in (*candidates, *centred)]
    usual = [*map(pooled_moments, pixels), (0.0, 1.0)]
    misfits = [min(_misfit(one, wanted) for wanted in usual) for one in seen]
    for number, one in enumerate(seen):
        if _misfit(one, usual[number]) <= _CLEARLY * _SAME:
            misfits[number] = float("inf")
    nearest = min(range(len(candidates)), key=misfits.__getitem__)
    exact = misfits[nearest] <= _CLEARLY * _SAME
    clear = (_CLEARLY if exact else _BY_FAR) * max(misfits[nearest], _SAME)
    alike = [one for one, misfit in enumerate(misfits) if misfit <= clear]
    if misfits[nearest] > _MOST_MISFIT or len({candidates[one].std for one in alike}) > 1:
        return None
    nearest = alike[0]  # of raw pixels, those without a mean
    mean, deviation = seen[nearest]
    reason = (
        f"the graph scales its input itself, and its first layer then sees mean {mean:.2g}, deviation {deviation:.2g}"
    )
    return replace(candidates[nearest], reason=reason)


def _misfit(seen: tuple[float, float], wanted: tuple[float, float]) -> float:
    """Squares of the distance of means in deviations, and of the logarithm of the deviations' ratio."""
    ratio = np.log(max(seen[1], 1e-12) / wanted[1])
    return float(((seen[0] - wanted[0]) / wanted[1]) ** 2 + ratio**2)


def _find_opening(model: ir.Model, name: str) -> tuple[bool, str | None, str | None]:
    """Look at what the graph does with an input before its first layer.

    Returns:
        Whether it scales or shifts it by constants, and what that layer reads and writes; None where it is not there.

    """
    follows: set[str | None] = {name}
    scales = False
    for node in model.graph:
        reads = [value.name for value in node.inputs if value is not None and value.name in follows]
        if not reads:
            continue
        if node.op_type in _FIRST_LAYERS:
            return scales, reads[0], node.outputs[0].name
        follows.update(value.name for value in node.outputs if value.name)
        for array in (constant_value(value) for value in node.inputs) if node.op_type in _SCALING else ():
            scales |= array is not None and array.size > 0 and np.issubdtype(array.dtype, np.floating)
    return scales, None, None
