"""Simulation against runtime: both run the emitted graph, and must come to the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import ValidationError
from zsq_compile.verification.metrics import agreement, share_beyond, sqnr_db

ALLOWED_SHARE = 0.05
"""Share of output elements that may lie further from the simulation than a step, 1/255 of the output's range."""

NOISE_MARGIN_DB = 10.0
"""Beyond that share, the difference must still be this far below the quantization noise at that output.

The runtime rounds the products of scales differently from the simulation, so single codes flip by one inside of a
network. A flip travels on as any quantization error does: where layers are many, or their noise reaches the output
enlarged, many elements move by more than a step. Measured on real networks the difference stays 15 dB and more below
the quantization noise (landmarks 41 against 25 dB, segmentation 34 against 17 dB), while layers that the runtime
computed with weights of its own making came within 8 dB of it.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationMatch:
    """Simulation against runtime at the output where they differ most.

    Attributes:
        output: name of that output.
        agrees: the difference is within ALLOWED_SHARE or NOISE_MARGIN_DB at every output.
        step: what counts as one step there.
        share_beyond_step: share of elements further apart than one step.
        largest: greatest difference, in the output's unit.
        sqnr_db: ratio of the output's power to that of the difference; None for outputs that are no floats.
        agreement: share of common decisions, values within one step of the largest counted as tied; the lowest over all
            outputs.

    """

    output: str
    agrees: bool
    step: float
    share_beyond_step: float
    largest: float
    sqnr_db: float | None
    agreement: float


def match_simulation(
    simulation: Mapping[str, NDArray[Any]],
    got: Mapping[str, NDArray[Any]],
    noise_db: Mapping[str, float | None],
) -> SimulationMatch | None:
    """Compare the simulation's outputs with the runtime's; None when there is none to compare.

    Args:
        simulation: outputs by name, (count, ...).
        got: the runtime's; a fixed batch may have dropped the last samples.
        noise_db: SQNR of the float against the quantized model by output; None for outputs that are no floats.

    Raises:
        ValidationError: the shapes of an output differ.

    """
    matches = [_match(name, values[: len(got[name])], got[name], noise_db[name]) for name, values in simulation.items()]
    if not matches:
        return None
    worst = max(matches, key=lambda match: (not match.agrees, match.share_beyond_step))
    return replace(worst, agreement=min(match.agreement for match in matches))


def _match(name: str, simulated: NDArray[Any], got: NDArray[Any], noise_db: float | None) -> SimulationMatch:
    theirs = got[: len(simulated)]
    if simulated.shape != theirs.shape:
        raise ValidationError(f"output {name!r}: the simulation gives {simulated.shape}, the runtime {theirs.shape}")
    floats = bool(np.issubdtype(theirs.dtype, np.floating))
    # Integer outputs must be equal.
    step = float(np.max(theirs) - np.min(theirs)) / 255.0 if floats and theirs.size else 0.0
    share = share_beyond(theirs, simulated, step)
    ratio = sqnr_db(theirs, simulated) if floats else None
    below_noise = ratio is not None and noise_db is not None and ratio >= noise_db + NOISE_MARGIN_DB
    difference = np.abs(np.asarray(simulated, np.float64) - np.asarray(theirs, np.float64))
    return SimulationMatch(
        output=name,
        agrees=share <= ALLOWED_SHARE or below_noise,
        step=step,
        share_beyond_step=share,
        largest=float(np.max(difference, initial=0.0)),
        sqnr_db=ratio,
        agreement=agreement(theirs, simulated, slack=step) if theirs.size else 1.0,
    )
