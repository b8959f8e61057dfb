"""Outputs of the simulation in torch against those of the runtime, on the same graph."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import ValidationError
from zsq_compile.metrics import agreement, largest_difference, share_beyond, sqnr_db

ALLOWED_SHARE = 0.05
"""Share of output elements that may lie further from the simulation than a step, 1/255 of the output's range.

The runtime rounds the products of scales differently from the simulation, so that single codes inside the network
differ by one, and that spreads as any quantization error does. With many layers, or layers that amplify noise, more
elements differ; then the difference is compared with the quantization noise.
"""

CLOSE_DB = 10.0
"""The difference should be this far below the quantization noise.

Measured: 16 dB for landmarks (41 against 25 dB) and for a segmentation network (34 against 17 dB).
"""

BROKEN_DB = -6.0
"""The difference must not be this far above the quantization noise.

Two independent draws of one noise differ by 3 dB more than its power, as a network does that amplifies every flip; a
kernel that computes something else differs by much more.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationMatch:
    """Simulation against runtime at the output where they differ most.

    Attributes:
        output: name of that output.
        step: 1/255 of its range; 0 for outputs that are no floats, which must be equal.
        share_beyond_step: share of elements further apart than one step.
        largest: greatest difference, in the output's unit.
        sqnr_db: ratio of the output's power to that of the difference; None for outputs that are no floats.
        margin_db: how far the difference lies below the quantization noise (of the simulation or of the runtime against
            the float model, whichever is less); None for outputs that are no floats.
        agreement: share of equal decisions, values within one step of the largest counted as tied; the lowest over all
            outputs that hold decisions.

    """

    output: str
    step: float
    share_beyond_step: float
    largest: float
    sqnr_db: float | None
    margin_db: float | None
    agreement: float

    @property
    def close(self) -> bool:
        """Few elements differ, or the difference is far below the quantization noise."""
        return self.share_beyond_step <= ALLOWED_SHARE or (self.margin_db is not None and self.margin_db >= CLOSE_DB)

    @property
    def broken(self) -> bool:
        """The runtime computes something else than the simulation."""
        return not self.close and (self.margin_db is None or not self.margin_db >= BROKEN_DB)


def match_simulation(
    simulation: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]
) -> SimulationMatch | None:
    """Compare the simulation's outputs with the runtime's; None when there is none to compare.

    Args:
        simulation: outputs by name, (count, ...).
        got: the runtime's; a fixed batch may have dropped the last samples.
        wanted: the float model's, of the same samples as ``got``.

    Raises:
        ValidationError: the shapes of an output differ.

    """
    matches = [
        match_output(name, values[: len(got[name])], got[name], wanted[name]) for name, values in simulation.items()
    ]
    if not matches:
        return None
    worst = max(matches, key=lambda match: (match.broken, not match.close, match.share_beyond_step))
    return replace(worst, agreement=min(match.agreement for match in matches))


def match_output(name: str, simulated: NDArray[Any], got: NDArray[Any], wanted: NDArray[Any]) -> SimulationMatch:
    """Compare one output, as ``match_simulation`` does."""
    theirs, target = got[: len(simulated)], wanted[: len(simulated)]
    if simulated.shape != theirs.shape:
        raise ValidationError(f"output {name!r}: the simulation gives {simulated.shape}, the runtime {theirs.shape}")
    floats = bool(np.issubdtype(theirs.dtype, np.floating))
    step = float(np.max(theirs) - np.min(theirs)) / 255.0 if floats and theirs.size else 0.0
    share = share_beyond(theirs, simulated, step)
    ratio = sqnr_db(theirs, simulated) if floats else None
    # Noise of the better of the two: where one is wrong, its distance from the float model is no quantization noise.
    margin = None if ratio is None else ratio - max(sqnr_db(target, simulated), sqnr_db(target, theirs))
    shared = agreement(theirs, simulated, slack=step)
    return SimulationMatch(
        output=name,
        step=step,
        share_beyond_step=share,
        largest=largest_difference(simulated, theirs),
        sqnr_db=ratio,
        margin_db=margin,
        agreement=1.0 if shared is None else shared,
    )
