"""Compare outputs whose size depends on the data, such as the boxes that survive, run by run.

Two networks that compute nearly the same keep other boxes where a score is near a threshold, and order them otherwise
where two scores are near each other. So how many rows there are is counted, and values are compared where both have as
many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import ValidationError
from zsq_compile.verification.simulation import ALLOWED_SHARE, match_output

_FAR = 2.0  # times as far from the simulation as quantization moves: 6 dB, as ``simulation.BROKEN_DB``
_LEAST_ROWS = 1.0  # of difference in a run, below which nothing is made of it
_LEAST_RUNS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Sizes of an output that depend on the data.

    Attributes:
        runs: how many there were, of one sample or one fixed batch.
        alike: those in which both networks made an output of the same size.
        wanted: rows of the float network, the mean over runs; on the axis that varies.
        got: those of the quantized one.

    """

    runs: int
    alike: int
    wanted: float
    got: float

    def describe(self) -> str:
        """Return it as a clause."""
        return (
            f"{self.wanted:.1f} rows in float and {self.got:.1f} quantized on average, as the data decide; "
            f"as many in {self.alike} of {self.runs} runs"
        )


def compare_rows(name: str, wanted: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> Rows:
    """Compare an output of the float network with that of the quantized one, one array for each run.

    Raises:
        ValidationError: rank or type differ.

    """
    for one, other in zip(wanted, got, strict=True):
        if (one.ndim, one.dtype) != (other.ndim, other.dtype):
            raise ValidationError(
                f"the output {name!r} must have rank {one.ndim} and type {one.dtype}, got rank {other.ndim} and type "
                f"{other.dtype}"
            )
    axis = _varying_axis([*wanted, *got])
    return Rows(
        runs=len(wanted),
        alike=sum(one.shape == other.shape for one, other in zip(wanted, got, strict=True)),
        wanted=float(np.mean(_rows(wanted, axis))),
        got=float(np.mean(_rows(got, axis))),
    )


def alike_elements(wanted: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Elements of the runs in which both outputs are of the same size, (elements,) each; none where there are none."""
    pairs = [(one, other) for one, other in zip(wanted, got, strict=True) if one.shape == other.shape]
    if not pairs:
        return wanted[0].ravel()[:0], got[0].ravel()[:0]
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return first, second


def differs_from_simulation(
    simulated: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]
) -> str | None:
    """Say how the runtime computes something else than the simulation; None where it does not.

    One array for each run, of the simulation, the runtime and the float network. Simulation and runtime round a few
    codes differently, and thresholds make rows of that; so it must be more than what quantization does by itself (in
    the one of the two nearer to the float network, as the other may be wrong): twice the difference in rows, or
    values that are beyond it in most of the runs that can be compared.
    """
    axis = _varying_axis([*simulated, *got, *wanted])
    theirs, ours, exact = (_rows(arrays, axis) for arrays in (got, simulated, wanted))
    apart = float(np.mean(np.abs(theirs - ours)))
    moved = min(float(np.mean(np.abs(exact - rows))) for rows in (theirs, ours))
    if apart > max(_FAR * moved, _LEAST_ROWS):
        return f"{apart:.1f} rows more or less than in the simulation, where quantization changes {moved:.1f}"
    runs = [one for one in zip(simulated, got, wanted, strict=True) if len({array.shape for array in one}) == 1]
    runs = [one for one in runs if one[0].size]
    broken = sum(_is_broken(*one) for one in runs)
    if len(runs) >= _LEAST_RUNS and 2 * broken > len(runs):
        return f"its values are not those of the simulation in {broken} of {len(runs)} runs of as many rows"
    return None


def _is_broken(simulated: NDArray[Any], got: NDArray[Any], wanted: NDArray[Any]) -> bool:
    if np.issubdtype(got.dtype, np.floating):
        return match_output("", simulated, got, wanted).broken
    moved = min(float(np.mean(wanted != other)) for other in (simulated, got))
    return float(np.mean(simulated != got)) > max(_FAR * moved, ALLOWED_SHARE)


def _varying_axis(arrays: Sequence[NDArray[Any]]) -> int:
    """First axis whose size is not always the same; 0 where all are."""
    sizes = zip(*(np.atleast_1d(array).shape for array in arrays), strict=True)
    return next((axis for axis, found in enumerate(sizes) if len(set(found)) > 1), 0)


def _rows(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[np.float64]:
    return np.array([np.atleast_1d(array).shape[axis] for array in arrays], np.float64)
