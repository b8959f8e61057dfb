"""Simulation against runtime: both run the emitted graph, and must come to the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import ValidationError
from zsq_compile.verification.metrics import agreement, share_beyond

SIMULATION_SHARE = 0.05
"""Share of output elements that may lie further from the simulation than one step.

A step is 1/255 of the output's range. The runtime requantizes with other float roundings than the simulation, so single
codes flip by one inside of the network, and what they cause at the output is mostly below that step; a wrong kernel, or
one that saturates, moves most elements.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationMatch:
    """Simulation against runtime, both running the emitted graph, at the output where they differ most.

    Attributes:
        output: name of that output.
        step: what counts as one step there.
        share_beyond_step: share of elements further apart than one step.
        largest: greatest difference, in the output's unit.
        agreement: share of common decisions, values within one step of the largest counted as tied; the lowest over all
            outputs.

    """

    output: str
    step: float
    share_beyond_step: float
    largest: float
    agreement: float


def match_simulation(simulation: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> SimulationMatch | None:
    """Compare the simulation's outputs with the runtime's; None when there is none to compare.

    Raises:
        ValidationError: the shapes of an output differ.

    """
    worst: SimulationMatch | None = None
    lowest = 1.0
    for name, simulated in simulation.items():
        count = min(len(simulated), len(got[name]))  # a fixed batch may have dropped the last samples
        ours, theirs = simulated[:count], got[name][:count]
        if ours.shape != theirs.shape:
            raise ValidationError(f"output {name!r}: the simulation gives {ours.shape}, the runtime {theirs.shape}")
        step = _step(theirs)
        difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        share = share_beyond(theirs, ours, step)
        lowest = min(lowest, agreement(theirs, ours, slack=step) if theirs.size else 1.0)
        if worst is None or share > worst.share_beyond_step:
            largest = float(np.max(difference, initial=0.0))
            worst = SimulationMatch(output=name, step=step, share_beyond_step=share, largest=largest, agreement=lowest)
    return None if worst is None else replace(worst, agreement=lowest)


def _step(output: NDArray[Any]) -> float:
    """One step of 8 bits over the range of an output; integer outputs must be equal."""
    if not np.issubdtype(output.dtype, np.floating) or output.size == 0:
        return 0.0
    return float(np.max(output) - np.min(output)) / 255.0
