"""What numbers a network expects of a pixel, found with the runtime alone: no torch, and a fraction of a second.

The same question as ``synthesis.contract`` asks of torch: each convention is applied to the same pictures, and the
moments that the first layers show are compared with those that their BatchNormalizations remember. The pictures are
plainer here, so a near tie may fall out otherwise than when the model is compiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics
from passes.constants import constant_value
from passes.operators import WEIGHTED
from zsq_compile.data.conventions import RAW_PRODUCERS, Convention, usual_conventions
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.inspection.runtime_probe import Arrays, made_up_inputs, session_up_to

_PICTURES, _LARGEST_SIDE, _LAYERS = 8, 96, 4
_FAR = 1.5  # of the weighted divergence: beyond it none of the conventions is what the network was trained with
_DWARFED = 10.0
_SCALING = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickContract:
    """The convention of the first image input.

    Attributes:
        input: name of that input.
        convention: what compiling is expected to take.
        inferred: True if BatchNormalization statistics decided, False if it is only the likeliest guess.
        margin: divergence of the runner-up / divergence of the best (>= 1); None for a guess.
        reason: what decided, in words.

    """

    input: str
    convention: Convention
    inferred: bool
    margin: float | None
    reason: str


def quick_contract(
    model: ir.Model, statistics: BatchNormStatistics, inputs: Sequence[InputSpec], rng: np.random.Generator
) -> QuickContract | None:
    """Infer the convention of the first image input, or guess it where statistics do not tell.

    Args:
        model: normalised, BatchNormalization kept.
        statistics: harvested from it.
        inputs: of the network.
        rng: start of all randomness.

    Returns:
        None where the network takes no image.

    """
    spec = next((one for one in inputs if one.is_image), None)
    if spec is None:
        return None
    candidates = usual_conventions(int(spec.shape[1] or 1))
    layers = statistics.usable[:_LAYERS]
    if not layers:
        return _guessed(model, spec, inputs, candidates, rng, "no batch normalisation tells")
    losses = _divergences(model, layers, spec, inputs, candidates, rng)
    if losses is None:
        return _guessed(model, spec, inputs, candidates, rng, "the first layers could not be run on made up pictures")
    best, second = np.argsort(losses)[:2]
    if losses[best] > _FAR:
        return _guessed(model, spec, inputs, candidates, rng, "no usual convention comes near the statistics")
    margin = float(losses[second] / max(losses[best], 1e-12))
    return QuickContract(
        input=spec.name,
        convention=candidates[best],
        inferred=True,
        margin=margin,
        reason=f"the first {len(layers)} batch normalisations expect it",
    )


def _divergences(
    model: ir.Model,
    layers: Sequence[BatchNorm],
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    candidates: Sequence[Convention],
    rng: np.random.Generator,
) -> list[float] | None:
    """One number per candidate: 0 where all moments come out as remembered; None where nothing could be run."""
    names = [layer.input for layer in layers]
    height, width = (int(size or 1) for size in spec.shape[2:4])
    for sides in dict.fromkeys((_smaller(height, width), (height, width))):
        pictures = made_up_inputs(inputs, _PICTURES, rng, sides=sides)
        if pictures is None:
            return None
        try:
            session = session_up_to(model, names)
            return [
                _divergence(
                    layers, session.run(_needed(session, {**pictures, spec.name: one.encode(pictures[spec.name])}))
                )
                for one in candidates
            ]
        except RuntimeModelError:
            continue
    return None


def _needed(session: Session, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name: feeds[name] for name in session.input_names}


def _divergence(layers: Sequence[BatchNorm], values: Mapping[str, NDArray[Any]]) -> float:
    """Mean over layers of the median over channels of KL(N(measured) ‖ N(remembered)), half as much per layer."""
    terms = []
    for layer in layers:
        value, alive = values[layer.input].astype(np.float64), ~layer.dead
        axes = tuple(axis for axis in range(value.ndim) if axis != 1)
        wanted = np.maximum(layer.variance[alive].astype(np.float64), 1e-12)
        ratio = np.maximum(value.var(axes)[alive] / wanted, 1e-4)
        shift = (value.mean(axes)[alive] - layer.mean[alive]) ** 2 / wanted
        terms.append(float(np.median(0.5 * (shift + ratio - np.log(ratio) - 1.0))))
    weights = [0.5**depth for depth in range(len(terms))]
    return sum(weight * term for weight, term in zip(weights, terms, strict=True)) / sum(weights)


def _smaller(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, _LARGEST_SIDE / max(height, width))
    if scale == 1.0:
        return height, width
    return max(16, round(height * scale / 16) * 16), max(16, round(width * scale / 16) * 16)


def _guessed(
    model: ir.Model,
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    candidates: Sequence[Convention],
    rng: np.random.Generator,
    why: str,
) -> QuickContract:
    """Take what the opening of the graph lets expect, else the commonest convention."""
    named = {one.name: one for one in candidates}
    divisor, first = _opening(model, spec.name)
    chosen, because = named["imagenet"], "it is the commonest"
    if divisor is not None:
        chosen = named["byte" if divisor >= 16.0 else "unit"]
        because = f"the graph itself scales its input by {divisor:.3g}"
    elif first is not None and _dwarfs(model, first, spec, inputs, chosen, rng):
        chosen, because = named["byte"], f"small pictures would not count beside the biases of '{first}'"
    elif model.producer_name in RAW_PRODUCERS:
        chosen, because = named["byte"], f"raw pixels are usual with {model.producer_name}"
    return QuickContract(
        input=spec.name, convention=chosen, inferred=False, margin=None, reason=f"{why}; assumed, as {because}"
    )


def _opening(model: ir.Model, name: str) -> tuple[float | None, str | None]:
    """Largest constant by which the graph shifts or divides an input before its first layer, and what that makes."""
    follows: set[str | None] = {name}
    found: list[float] = []
    for node in model.graph:
        names = [value.name for value in node.inputs if value is not None]
        if not follows.intersection(names):
            continue
        if node.op_type in (*WEIGHTED, "BatchNormalization"):
            return (max(found) if found else None), node.outputs[0].name
        follows.update(value.name for value in node.outputs if value.name)
        for array in (constant_value(value) for value in node.inputs) if node.op_type in _SCALING else ():
            if array is not None and array.size and np.issubdtype(array.dtype, np.floating):
                size = float(np.abs(array).max())
                found.append(1.0 / max(size, 1e-9) if node.op_type == "Mul" else size)
    return (max(found) if found else None), None


def _dwarfs(
    model: ir.Model,
    value: str,
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    usual: Convention,
    rng: np.random.Generator,
) -> bool:
    """Whether the means of a layer's channels leave what pictures contribute far behind."""
    pictures = made_up_inputs(inputs, 1, rng)
    if pictures is None:
        return False
    try:
        session = session_up_to(model, (value,))
        made = session.run(_needed(session, {**pictures, spec.name: usual.encode(pictures[spec.name])}))[value]
    except RuntimeModelError:
        return False
    if made.ndim != 4:
        return False
    deviation = np.maximum(made.std((0, 2, 3)), 1e-12)
    return bool(np.median(np.abs(made.mean((0, 2, 3))) / deviation) > _DWARFED)
