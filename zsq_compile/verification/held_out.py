"""Run the float model, the quantized file and its simulation on the same samples, and see that outputs are alike."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import Session
from zsq_compile.data.batch_axes import BatchAxes
from zsq_compile.errors import ValidationError
from zsq_compile.verification.running import Arrays, find_unjoinable, join_runs, run_each, run_once
from zsq_compile.verification.uneven import differs_from_simulation

Simulate = Callable[[Arrays], Arrays]
"""Runs the simulation once: outputs from inputs, by name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOutRuns:
    """Outputs of several runs.

    Attributes:
        wanted: those of the float model, one mapping for each run.
        got: those of the quantized file.
        simulated: those of its simulation; None where there is none.
        uneven: names of the outputs whose size depends on the data.

    """

    wanted: Sequence[Arrays]
    got: Sequence[Arrays]
    simulated: Sequence[Arrays] | None
    uneven: frozenset[str]

    def joined(self, runs: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
        """Join the outputs that are not uneven, of all runs of one of the three: (count, ...)."""
        return join_runs(runs, leave_out=self.uneven)

    def column(self, runs: Sequence[Arrays], name: str) -> list[NDArray[Any]]:
        """Pick one output of all runs of one of the three."""
        return [np.asarray(run[name]) for run in runs]

    def require_alike(self, emitted: Path) -> None:
        """Raise ValidationError where the quantized file has lost an output, or has one of another size."""
        for wanted, got in zip(self.wanted, self.got, strict=True):
            for name, array in wanted.items():
                if name not in got:
                    raise ValidationError(f"{emitted} has lost the output {name!r}; it has {', '.join(got)}")
                if got[name].shape != array.shape and name not in self.uneven:
                    raise ValidationError(
                        f"{emitted}: the output {name!r} must be {array.shape}, got {got[name].shape}"
                    )

    def uneven_failures(self) -> tuple[str, ...]:
        """Say which uneven outputs are not those of the simulation."""
        if self.simulated is None:
            return ()
        three = (self.simulated, self.got, self.wanted)
        found = {name: differs_from_simulation(*(self.column(runs, name) for runs in three)) for name in self.uneven}
        return tuple(f"the runtime's output {name!r}: {reason}" for name, reason in sorted(found.items()) if reason)


def run_held_out(
    reference: Session,
    session: Session,
    inputs: Arrays,
    simulate: Simulate | None,
    axes: BatchAxes,
    uneven: Collection[str],
) -> HeldOutRuns:
    """Run the float model, the quantized file, and the simulation if there is one.

    ``inputs`` are (count, ...) by name, ``axes`` those of the batch in both files. Outputs that turn out to be of other
    sizes from run to run are uneven, too.

    Raises:
        ConfigError: the inputs do not fit the model.
        RuntimeModelError: the runtime failed.

    """
    feeds, wanted = run_each(reference, inputs, axes=axes, uneven=uneven)
    return HeldOutRuns(
        wanted=wanted,
        got=[run_once(session, feed, axes) for feed in feeds],
        simulated=None if simulate is None else [simulate(feed) for feed in feeds],
        uneven=frozenset({*uneven, *find_unjoinable(wanted)} & set(wanted[0])),
    )
