"""Estimate of the agreement with the float model on real data, from synthetic inputs alone.

Synthetic samples lie near the borders between classes far more often than real ones, so that their own agreement is too
low. How much too low is nearly one number for all networks that were measured, on the scale of log-odds.
`benchmarks/confidence.py` measures it, its spread over networks, and how often the interval held the truth.

The share of flipped decisions is smoothed. Counted on a few hundred samples it is coarse where one in a hundred flips;
with margins m (float score of the best class minus the next) and errors d (change of that difference by quantization)
taken as independent, P(m + d < 0) uses all pairs of samples instead.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session, open_session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.errors import ValidationError
from zsq_compile.metrics import (
    LEAST_POWER,
    SMALLEST_PROBABILITY,
    Z90,
    are_probabilities,
    array_outputs,
    decibel_words,
    decibels,
    logistic,
    powers,
    score_output,
)
from zsq_compile.verification.firmness import firmness
from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate, worst
from zsq_compile.verification.running import Arrays, fitting_batch, run_batched, session_batch

Part = tuple[Arrays, Arrays]
"""Outputs by name, (count, ...), of the float network and of the quantized one on the same samples."""

LEVEL = 0.9
"""Share of intervals that should hold the true agreement."""

SHIFT = 1.9
"""Log-odds of agreement on real images minus those on synthetic families, at a ``firmness`` of 0: mean of networks."""

SLOPE = 0.0
"""How much more that is for each unit of ``firmness``."""

SPREAD = 0.37
"""Standard deviation of that over networks and bit widths, as measured on 400 to 1000 real images."""

_SMALLEST_FLIP_SHARE = 1e-6
_LEAST_SPREAD = 0.5  # of ``Family.spread`` for class scores; six networks had 1.25 to 7.6, one of landmarks 0.3
_LARGEST_ERROR = 2.0  # standard error of log-odds where no pair of samples flips


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Float against quantized network on one family of synthetic inputs.

    All but ``name``, ``samples`` and ``sqnr_db`` is None where no output has class scores.

    Attributes:
        name: of the family.
        samples: how many.
        sqnr_db: the lowest over the float outputs that are not silent, dB; None without such outputs.
        agreement: share of equal decisions, as counted, 0 to 1.
        flips: share of decisions that change, smoothed over all pairs of margins and errors, 0 to 1.
        error: standard error of the log-odds of ``flips``.
        margin: of the float network's best score over the next, in units of the output: the median.
        chosen: number of different classes that the float network decides for.
        classes: number of classes that it can decide for.
        spread: variance of its scores over samples, in units of the variance between their means.

    """

    name: str
    samples: int
    sqnr_db: float | None
    agreement: float | None = None
    flips: float | None = None
    error: float | None = None
    margin: float | None = None
    chosen: int | None = None
    classes: int | None = None
    spread: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementEstimate:
    """Estimated agreement with the float model on real data, 0 to 1, with an interval.

    Attributes:
        estimate: None where there is none.
        low: lower end of the interval that holds the truth in ``level`` of the cases.
        high: its upper end.
        level: see ``LEVEL``.
        calibration_source: what the file was calibrated with, such as "from BN nodes".
        families: what was measured.
        reason: why there is no estimate; None where there is one.
        high_confidence: share of equal decisions, 0 to 1, on samples with a high score of the float network; None where
            that was not measured.
        hypotheses: what was found under each plausible preprocessing, which the interval spans; empty where it is one.
        proven: whether something proves the input: the user, or statistics of the training data.

    """

    estimate: float | None
    low: float | None
    high: float | None
    calibration_source: str
    families: tuple[Family, ...]
    level: float = LEVEL
    reason: str | None = None
    high_confidence: float | None = None
    hypotheses: tuple[HypothesisEstimate, ...] = ()
    proven: bool = True

    @property
    def held(self) -> float | None:
        """What a gate is held against: the estimate, or the lower end where nothing proves the input."""
        return self.estimate if self.proven else self.low

    def describe(self) -> str:
        """Return the estimate and its interval, or why there is none, without ``calibration_source``."""
        if self.estimate is None or self.low is None or self.high is None:
            ratios = [family.sqnr_db for family in self.families if family.sqnr_db is not None]
            words = [decibel_words(end(ratios)) for end in (min, max) if ratios]
            noise = f"; SQNR {' to '.join(words).replace(' dB', '', 1)} on synthetic inputs" if ratios else ""
            noise += f", the worst with {lowest.words}" if ratios and (lowest := worst(self.hypotheses)) else ""
            return f"no estimate: {self.reason}{noise}"
        return f"{100 * self.estimate:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f}%)"


def measure_families(
    original: onnx.ModelProto,
    emitted: Path,
    families: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
    threads: int | None = None,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
) -> tuple[Family, ...]:
    """Run both networks on families of inputs, by name of the family and of the input; for ``uneven`` see run_families.

    Raises:
        ValidationError: the runtime failed.
        ConfigError: a family does not fill one batch of the network.

    """
    try:
        reference, session = (
            open_session(m, providers=providers, threads=threads, config=config, lean=True) for m in (original, emitted)
        )
        parts = partial(_run_in_parts, reference, session, axes=axes, uneven=uneven)
        found = (compare_parts(name, parts(inputs)) for name, inputs in families.items())
        return tuple(family for family in found if family.samples)
    except RuntimeModelError as error:
        raise ValidationError(f"the emitted model {emitted} failed in the runtime: {error}") from error


def _run_in_parts(
    reference: Session, session: Session, inputs: Arrays, *, axes: BatchAxes, uneven: Collection[str]
) -> Iterator[Part]:
    """Yield the outputs of both networks on a few samples at a time: a recogniser's take a megabyte each."""
    fixed = session_batch(reference, axes) or 1
    size = -(-fitting_batch(reference) // fixed) * fixed
    count = max(min(map(len, inputs.values())) // fixed * fixed, 1)
    for start in range(0, count, size):
        feeds = {name: values[start : start + size] for name, values in inputs.items()}
        wanted, got = (run_batched(one, feeds, axes=axes, uneven=uneven) for one in (reference, session))
        yield wanted, got


def run_families(
    session: Session,
    families: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    batch: int | None = None,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
) -> dict[str, dict[str, NDArray[Any]]]:
    """Run a network on families of inputs, by name of the family and of the input; for the rest see ``run_batched``.

    Outputs that are ``uneven`` are left out.

    Raises:
        RuntimeModelError: the runtime failed.
        ConfigError: a family does not fill one batch of the network.

    """
    run = partial(run_batched, session, batch=batch, axes=axes, uneven=uneven)
    return {name: run(inputs) for name, inputs in families.items()}


def compare_families(
    wanted: Mapping[str, Mapping[str, NDArray[Any]]], got: Mapping[str, Mapping[str, NDArray[Any]]]
) -> tuple[Family, ...]:
    """Compare the outputs of the float network on every family with those of a quantized one; () without outputs."""
    return tuple(compare_family(name, outputs, got[name]) for name, outputs in wanted.items() if outputs)


def compare_family(name: str, wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> Family:
    """Compare the outputs (count, ...), by name, of the float network with those of the quantized one."""
    return compare_parts(name, [(wanted, got)])


def compare_parts(name: str, parts: Iterable[Part]) -> Family:
    """Do the same with outputs of a few samples after the other; of each only its powers and class scores are kept."""
    sums: dict[str, NDArray[np.float64]] = {}
    rows: list[tuple[NDArray[Any], NDArray[Any]]] = []
    samples = 0
    for wanted, got in parts:
        outputs = array_outputs(wanted)
        for key, array in wanted.items():
            if outputs[key].is_float and key in got and got[key].shape == array.shape:
                sums[key] = sums.get(key, np.zeros(2)) + powers(array, got[key])
        scores = score_output(outputs)
        rows += [] if scores is None else [(wanted[scores], got[scores])]
        samples += min(map(len, wanted.values()), default=0)
    heard = [(float(signal), float(noise)) for signal, noise in sums.values() if signal > LEAST_POWER]
    noise = min((decibels(*both) for both in heard), default=None)
    if not rows:
        return Family(name=name, samples=samples, sqnr_db=noise)
    before, after = (_logits(np.concatenate(arrays)) for arrays in zip(*rows, strict=True))
    classes = before.argmax(1)
    margins = _margins(before, classes)
    flips, error = flip_share(margins, _margins(after, classes) - margins)
    return Family(
        name=name,
        samples=samples,
        sqnr_db=noise,
        agreement=float(np.mean(classes == after.argmax(1))),
        flips=flips,
        error=error,
        margin=float(np.median(margins)),
        chosen=len(np.unique(classes)),
        classes=before.shape[1],
        spread=float(before.var(0).mean() / max(before.mean(0).var(), 1e-30)),
    )


def flip_share(margins: NDArray[np.float64], errors: NDArray[np.float64]) -> tuple[float, float]:
    """P(m + d < 0) over all pairs of a margin and an error, and the standard error of its log-odds.

    Args:
        margins: (N,) of the float network, none below 0.
        errors: (N,) change of the margin of the same sample by quantization.

    Returns:
        The share: exactly 0 without errors, at least one in a million with them. And its error, by the projections of
        a two-sample U-statistic (Hoeffding 1948); a large one where no pair, or every pair, flips.

    """
    if not errors.any():
        return 0.0, 0.0
    falls, ordered = np.sort(-errors), np.sort(margins)
    of_margin = 1.0 - np.searchsorted(falls, margins, side="right") / len(errors)
    of_error = np.searchsorted(ordered, -errors, side="left") / len(margins)
    share = float(of_margin.mean())
    if not _SMALLEST_FLIP_SHARE < share < 1.0 - _SMALLEST_FLIP_SHARE:
        return min(max(share, _SMALLEST_FLIP_SHARE), 1.0 - _SMALLEST_FLIP_SHARE), _LARGEST_ERROR
    deviation = float((of_margin + of_error).std()) / math.sqrt(len(errors))
    return share, min(deviation / (share * (1.0 - share)), _LARGEST_ERROR)


def log_odds(families: Sequence[Family]) -> tuple[float, float] | None:
    """Mean log-odds of an unchanged decision, over families with class scores, and its standard error.

    The families are made of the same pictures, so that averaging them makes the error no smaller. None where no family
    has scores; infinite, and without error, where no decision has changed.
    """
    measured = [(one.flips, one.error) for one in families if one.flips is not None and one.error is not None]
    if not measured:
        return None
    if not any(flips for flips, _ in measured):
        return math.inf, 0.0
    odds = [math.log((1.0 - flips) / flips) for flips, _ in measured if flips > 0.0]
    errors = [error for flips, error in measured if flips > 0.0]
    return float(np.mean(odds)), float(np.mean(errors))


def estimate_from_families(
    families: Sequence[Family],
    source: str,
    *,
    reason: str | None = None,
    shift: float = SHIFT,
    slope: float = SLOPE,
    spread: float = SPREAD,
) -> AgreementEstimate:
    """Estimate the agreement on real data from that on synthetic families.

    Args:
        families: what was measured.
        source: see AgreementEstimate.calibration_source.
        reason: why there can be no estimate, if that is known beforehand.
        shift: see SHIFT.
        slope: see SLOPE.
        spread: see SPREAD.

    """
    found = log_odds(families)
    reason = reason or _no_classes(families, has_scores=found is not None)
    if found is None or reason is not None:
        return AgreementEstimate(
            estimate=None, low=None, high=None, calibration_source=source, families=tuple(families), reason=reason
        )
    firm = firmness(one.margin for one in families if one.margin is not None)
    middle, reach = found[0] + shift + slope * firm, Z90 * math.hypot(spread, found[1])
    low, estimate, high = (logistic(middle + side * reach) for side in (-1.0, 0.0, 1.0))
    return AgreementEstimate(estimate=estimate, low=low, high=high, calibration_source=source, families=tuple(families))


def _no_classes(families: Sequence[Family], *, has_scores: bool) -> str | None:
    """Why the outputs of a network cannot be class scores; None where they may be."""
    if not has_scores:
        return "no output has one row of scores for each sample"
    classes = max(family.classes or 0 for family in families)
    chosen = max(family.chosen or 0 for family in families)
    if chosen < max(2.0, 0.5 * math.sqrt(classes)):  # of landmarks, angles and the like, the largest is always the same
        return f"the largest of {classes} outputs is one of the same {chosen} for all synthetic inputs, unlike classes"
    if max((one.spread for one in families if one.spread is not None), default=math.inf) < _LEAST_SPREAD:
        return (
            "its outputs differ less from sample to sample than from each other, as coordinates do and classes do not"
        )
    return None


def _logits(scores: NDArray[Any]) -> NDArray[np.float64]:
    """(N, C) scores, or their logarithms where they are probabilities, whose margins shrink near 0 and 1."""
    rows = np.asarray(scores, np.float64).reshape(len(scores), -1)
    return np.log(np.maximum(rows, SMALLEST_PROBABILITY)) if are_probabilities(rows) else rows


def _margins(scores: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) scores of the class that is given for each row of (N, C), minus the best of the others."""
    rows, rest = np.arange(len(scores)), scores.copy()
    rest[rows, classes] = -np.inf
    return np.asarray(scores[rows, classes] - rest.max(1), np.float64)
