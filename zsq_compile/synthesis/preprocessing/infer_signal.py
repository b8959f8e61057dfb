"""Which scale does a network expect of an input that is no image? Told by its BatchNormalizations, where there are any.

One that reads the input itself knows mean and variance of every feature. One behind the first layer has the moments of
what that makes of the input: noise of deviation 1 shows them, or a scale and an offset are fitted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics
from zsq_compile.data.input_spec import InputKind, InputSpec
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.synthesis.preprocessing.fit import Fit
from zsq_compile.synthesis.preprocessing.infer import EXPLAINED, LAYERS, NEAR, fit_to_statistics
from zsq_compile.synthesis.preprocessing.trial_costs import count_trial
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, Trial, TrialNetwork

DrawSignals = Callable[[SignalFamily, tuple[int, ...]], NDArray[np.float32]]
"""(family, shape) -> signals of that shape, as ``signals`` draws them."""

FIT_WORK, LITTLE_FIT_WORK = 80_000_000_000, 15_000_000_000
"""Of what is tried where there is time, and in a moment; see ``count_trial``."""

_USUAL: dict[InputKind, tuple[SignalFamily, ...]] = {"waveform": ("levelled", "sound", "noise")}
_FITTED: dict[InputKind, tuple[SignalFamily, ...]] = {"waveform": ("sound", "noise", "white", "bursts")}
_STANDARD = Preprocessing(
    name="standard",
    mean=(0.0,),
    std=(1.0,),
    channel_order="none",
    source="inferred",
    reason="batch normalisation statistics",
    layout=None,
)
_MOST_CHANNELS = 16  # of more, all get one scale: there are too many unknowns
_ROWS = 256  # numbers of each channel that are to be seen, where it has few on one sample
_FEWEST_ROWS = 4
_WINDOWS, _LONGEST = 16, 32_000  # of a sound that is cut, and numbers of it
_SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What is tried: samples of a family, those that a scale is fitted on, families to be fitted, and in how much time.

    ``rows`` is 0 where nothing can be.
    """

    rows: int
    fit_rows: int
    fitted: tuple[SignalFamily, ...]
    hurried: bool


def infer_signal(
    network: TrialNetwork, statistics: BatchNormStatistics, draw: DrawSignals, most_work: int = FIT_WORK
) -> Preprocessing | None:
    """Infer the scale of a float input that is no image; None where nothing tells it, or telling takes too long.

    Args:
        network: with the input in question.
        statistics: of the network.
        draw: signals to try.
        most_work: that trying takes, see ``count_trial``.

    """
    spec, layers = network.spec, statistics.usable[:LAYERS]
    reader = next((layer for layer in statistics.usable if layer.input == spec.name), None)
    if reader is not None and len(spec.shape) > 1:
        return _as_remembered(reader, "white" if len(spec.shape) == 2 else "noise")
    plan = _plan(network, layers, most_work) if layers else None
    if plan is None or not plan.rows:
        return None
    shape = spec.batched(plan.rows)
    trials: dict[SignalFamily, Trial] = {}
    usual = []
    for family in _USUAL.get(spec.kind, ("noise",)):
        trial = network.watch(layers, _draw_apart(family, shape, draw))
        if trial is None:
            return None
        trials[family] = trial
        standard = replace(_STANDARD, family=family)
        usual.append((trial.distance(standard), standard))
    nearest, standard = min(usual, key=lambda one: one[0])
    if nearest <= NEAR or not np.isfinite(nearest):
        return standard if nearest <= NEAR else None
    found: list[tuple[float, Preprocessing]] = []
    for family in plan.fitted:
        trial = trials.get(family) or network.watch(layers, _draw_apart(family, shape, draw))
        if trial is None:
            return None
        make = partial(Preprocessing, name="fitted", channel_order="none", layout=None, family=family)
        few = replace(trial, samples=trial.samples[: plan.fit_rows])
        fitted = fit_to_statistics(few, make, _unknowns(spec), nearest, hurried=plan.hurried)
        found += [] if fitted is None else [(trial.distance(fitted), fitted)]
    if not found:
        return standard if nearest <= EXPLAINED else None
    return min(found, key=lambda one: one[0])[1]


def _draw_apart(family: SignalFamily, shape: tuple[int, ...], draw: DrawSignals) -> NDArray[np.float32]:
    """Draw samples of different sounds: windows of one, which follow each other, are all as loud."""
    apart = max(min(_WINDOWS, _LONGEST // shape[-1]), 1) if family in ("sound", "levelled") else 1
    return draw(family, (shape[0] * apart, *shape[1:]))[::apart]


def _plan(network: TrialNetwork, layers: Sequence[BatchNorm], most_work: int) -> _Plan:
    """Plan what a quarter of the work is enough for on all layers, and the rest on the first."""
    spec, model = network.spec, network.model
    batch, first = int(spec.shape[0] or 1), layers[0].input
    usual, fitted = _USUAL.get(spec.kind, ("noise",)), _FITTED.get(spec.kind, ("noise", "white", "bursts"))
    wanted = TRIAL_IMAGES
    if len(spec.shape) <= 2 and spec.shape[0] is None:
        wanted = max(-(-_ROWS // max(_places(model, first), 1)), TRIAL_IMAGES)
    looks = len({*usual, *fitted}) * count_trial(model, [layer.input for layer in layers]).with_moments
    rows = _whole(min(wanted, most_work // 4 // max(looks, 1)), batch, wanted)
    run, rest = max(count_trial(model, [first]).with_moments, 1), most_work - most_work // 4
    thorough, hurried = (Fit.count_runs(_unknowns(spec), hurried=one) * run for one in (False, True))
    if rows * len(fitted) * thorough <= rest:
        return _Plan(rows=rows, fit_rows=rows, fitted=fitted, hurried=False)
    fewest = max(_FEWEST_ROWS, batch)
    fitted = fitted[: rest // (fewest * hurried)]
    fit_rows = _whole(min(rows, rest // (max(len(fitted), 1) * hurried)), batch, rows)
    return _Plan(rows=rows, fit_rows=fit_rows, fitted=fitted, hurried=True)


def _whole(rows: int, batch: int, wanted: int) -> int:
    """Round to whole batches: up where nothing limits the rows, else down."""
    return -(-rows // batch) * batch if rows == wanted else rows // batch * batch


def _places(model: ir.Model, name: str) -> int:
    """Count the numbers that a channel of a value has on one sample; 1 where its shape is not known."""
    shape = next((value.shape for node in model.graph for value in node.outputs if value.name == name), None)
    return 1 if shape is None else math.prod(size for size in shape[2:] if isinstance(size, int))


def _unknowns(spec: InputSpec) -> int:
    """Count the channels that get a scale of their own."""
    channels = int(spec.shape[1] or 1) if len(spec.shape) > 2 else 1
    return channels if channels <= _MOST_CHANNELS else 1


def _as_remembered(reader: BatchNorm, family: SignalFamily) -> Preprocessing:
    """Mean and deviation of each feature, from the BatchNormalization that reads them."""
    deviation = np.sqrt(np.maximum(reader.variance.astype(np.float64), _SMALLEST_VARIANCE))
    return Preprocessing(
        name="fitted",
        mean=tuple(map(float, -reader.mean / deviation)),
        std=tuple(map(float, 1.0 / deviation)),
        channel_order="none",
        source="inferred",
        reason="the BatchNormalization that reads it",
        layout=None,
        family=family,
    )
