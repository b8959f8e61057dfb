"""Recover BatchNormalizations that were folded away at export from a checkpoint with the trained tensors.

A folded weight is r W, with one ratio r per output channel and the weight W of the checkpoint. So each layer is
compared with every tensor of its shape: r is the least-squares ratio of each filter, and the residual decides whether
the tensor is the right one. ``fit_batchnorm`` then finds the parameters behind r and the bias. Neither names nor order
need match.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.batchnorm.fit_batchnorm import TOLERANCE, Fit, fit_batchnorm
from passes.batchnorm.harvest_batchnorm import BatchNorm, dead_channels
from passes.batchnorm.recovered import Recovered, Recovery
from passes.batchnorm.weighted_layers import WeightedLayer, folded_layers
from passes.plan import Refusal

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.floating]]

_UNCHANGED = 1e-6  # of the ratio: noise of float32
_NOTHING = 1e-6  # of the median filter's norm: filters of zeros but for noise


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Candidate:
    """A tensor that may be a layer's weight: ``ratio`` (C,), nan in filters of zeros, and the relative residual."""

    name: str
    ratio: Array
    error: float


def match_checkpoint(model: ir.Model, tensors: Tensors) -> Recovered:
    """Find the BatchNormalizations that were folded into the layers of a model.

    Args:
        model: layers with a BatchNormalization node behind them are left out.
        tensors: floating-point tensors of the checkpoint by name, at least one-dimensional.

    Returns:
        Recoveries, whose folded weight and bias agree with the layer's to within ``fit_batchnorm.TOLERANCE``, and a
        refusal for each other layer.

    """
    found: list[Recovery] = []
    refusals: list[Refusal] = []
    for layer in folded_layers(model):
        outcome = _match(layer, tensors)
        if isinstance(outcome, str):
            refusals.append(Refusal.of(layer.node, outcome))
        else:
            found.append(outcome)
    return Recovered(found=tuple(found), refusals=tuple(refusals))


def _match(layer: WeightedLayer, tensors: Tensors) -> Recovery | str:
    """Return the recovery, or why there is none."""
    candidates = sorted(_candidates(layer, tensors), key=lambda one: one.error)
    if not candidates:
        return f"the checkpoint has no tensor of its shape {layer.shape}"
    fitting = [one for one in candidates if one.error <= TOLERANCE]
    if not fitting:
        nearest = candidates[0]
        return (
            f"no tensor of the checkpoint is its weight up to a factor per output channel: the nearest is "
            f"{nearest.name!r}, with an error of {nearest.error:.0%}"
        )
    vectors = _vectors(len(layer.bias), tensors)
    for candidate in fitting:
        if _is_unchanged(candidate.ratio):
            return f"its weight is {candidate.name!r} as it was saved: no BatchNormalization was behind it"
        likely = f"{candidate.name.removesuffix('weight')}bias"
        ordered = dict(sorted(vectors.items(), key=lambda item: item[0] != likely))
        fit = fit_batchnorm(candidate.ratio, layer.bias, ordered)
        if fit is not None:
            return _recovery(layer, candidate, fit)
    return (
        f"its weight is {fitting[0].name!r} times a factor per output channel, but no four vectors of "
        f"{len(layer.bias)} numbers in the checkpoint are the BatchNormalization that makes these factors and its bias"
    )


def _candidates(layer: WeightedLayer, tensors: Tensors) -> Iterator[_Candidate]:
    """Compare with every tensor of the layer's shape; a matrix also fits transposed."""
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            continue
        for view in (tensor, tensor.T) if len(layer.shape) == tensor.ndim == 2 else (tensor,):
            if _core(view.shape) == _core(layer.shape):
                yield _compare(layer.filters, layer.filters_of(view.reshape(layer.shape)), name)


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes without trailing ones: a matrix may have become a 1x1 convolution."""
    end = len(shape)
    while end > 2 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _compare(folded: Array, trained: Array, name: str) -> _Candidate:
    """Least-squares ratio of every filter, and the root mean square of the relative residuals."""
    lengths = [np.linalg.norm(rows, axis=1) for rows in (folded, trained)]
    alive = [
        length > _NOTHING * np.median(length[length > 0.0]) if length.any() else length > 0.0 for length in lengths
    ]
    ratio = np.full(len(folded), np.nan)
    np.divide((folded * trained).sum(1), lengths[1] ** 2, out=ratio, where=alive[1])
    # no ratio makes a filter out of zeros, and where both are zeros the ratio is unknown
    if not alive[1].any() or (alive[0] & ~alive[1]).any():
        return _Candidate(name=name, ratio=ratio, error=1.0)
    if not alive[0].any():
        return _Candidate(name=name, ratio=np.full(len(folded), np.nan), error=1.0)
    rest = np.linalg.norm(folded - ratio[:, None] * trained, axis=1)[alive[0]] / lengths[0][alive[0]]
    return _Candidate(name=name, ratio=ratio, error=float(np.sqrt((rest**2).mean())))


def _is_unchanged(ratio: Array) -> bool:
    known = ratio[np.isfinite(ratio)]
    return bool((np.abs(known - 1.0) <= _UNCHANGED).all())


def _vectors(channels: int, tensors: Tensors) -> dict[str, Array]:
    """Finite tensors of that many numbers along one axis, such as (C,) and (1, C, 1, 1), flattened, by name."""
    found: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if tensor.size == channels and max(tensor.shape) == channels and np.isfinite(tensor).all():
            found[name] = tensor.reshape(-1).astype(np.float64)
    return found


def _recovery(layer: WeightedLayer, candidate: _Candidate, fit: Fit) -> Recovery:
    variance = fit.variance.astype(np.float32)
    former = BatchNorm(
        node=layer.name,
        input="",
        output=layer.value,
        mean=fit.mean.astype(np.float32),
        variance=variance,
        scale=fit.scale.astype(np.float32),
        shift=fit.shift.astype(np.float32),
        epsilon=fit.epsilon,
        layer=layer.name,
        dead=dead_channels(variance),
    )
    names = ", ".join(name or "-" for name in fit.names)
    own = f" with bias {fit.bias!r}" if fit.bias else ""
    how = (
        f"weight {candidate.name!r}{own}; gamma, beta, mean, variance {names}; epsilon {fit.epsilon:.3g}; relative "
        f"errors: filters {candidate.error:.1e}, factors {fit.ratio_error:.1e}, bias {fit.bias_error:.1e}"
    )
    return Recovery(layer=layer.node, former=former, how=how)
