"""Which preprocessing does a network expect of an image? Candidates, evidence, choice.

The candidates are those in common use. The evidence, from the strongest on:

1. Statistics of the first BatchNormalizations: the candidate under which the same images come nearest to them.
2. A constant by which the graph itself scales its input.
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
from zsq_compile.synthesis.preprocessing.trials import Trial, TrialNetwork

NEAR, MUCH_NEARER, EXPLAINED = 0.4, 6.0, 0.6
"""Up to which distance a usual preprocessing is right; how many times nearer a fitted one is, if that is right; and up
to which distance either is what the network was trained with. See benchmarks/results/preprocessing.md."""

LAYERS = 4
_STATISTICS = "batch normalisation statistics"
_RAW = ("byte", "byte_bgr")
_RAW_FROM = 16.0
_DOMINANT = 10.0
_TELLING, _LEAST_INFORMATION = 1.5, 1e-3
_RAW_PRODUCERS = ("CNTK",)  # their image readers pass on raw pixels; users of other exporters scale as they like
_SCALING = ("Add", "Sub", "Mul", "Div")
_FIRSTLAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


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


def fit_to_statistics(
    trial: Trial, make: Callable[..., Preprocessing], channels: int, nearest: float
) -> Preprocessing | None:
    """Fit mean and std of ``channels`` channels, where what is usual is ``nearest`` to the statistics, and not near.

    None where the first BatchNormalization is too far behind the input, or where nothing much nearer is found.
    """
    first = trial.of_first_layer()
    if count_layers(trial.network.model, first.layers[0].input) > 1:
        return None
    fitted = Fit(first, lambda mean, std: make(mean=mean, std=std), channels).run()
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
    scale, first_layer = _find_opening(network.model, network.spec.name)
    if scale is not None:
        name = "byte" if scale >= _RAW_FROM else "unit"
        return replace(named[name], reason=f"the graph itself scales its input by {scale:.4g}")
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


def _find_opening(model: ir.Model, name: str) -> tuple[float | None, str | None]:
    """Largest constant by which the graph shifts or divides an input before its first layer, and that layer's output.

    None for what is not there.
    """
    follows: set[str | None] = {name}
    found: list[float] = []
    for node in model.graph:
        if not follows.intersection(value.name for value in node.inputs if value is not None):
            continue
        if node.op_type in _FIRSTLAYERS:
            return max(found, default=None), node.outputs[0].name
        follows.update(value.name for value in node.outputs if value.name)
        for array in (constant_value(value) for value in node.inputs) if node.op_type in _SCALING else ():
            if array is not None and array.size and np.issubdtype(array.dtype, np.floating):
                size = float(np.abs(array).max())
                found.append(1.0 / max(size, 1e-9) if node.op_type == "Mul" else size)
    return max(found, default=None), None
