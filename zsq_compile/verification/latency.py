"""Latency of several models, measured in turns, so that changes of the machine's load affect all of them."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import Session, open_session


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Percentiles over all timed runs of one model."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turns:
    """Times of one model, (turns, runs)."""

    milliseconds: NDArray[np.float64]

    @property
    def medians(self) -> NDArray[np.float64]:
        """Median of each turn, (turns,); the n-th turns of all models follow each other directly."""
        return np.median(self.milliseconds, axis=1)

    @property
    def latency(self) -> Latency:
        """Percentiles over all runs."""
        low, median, high = (float(value) for value in np.percentile(self.milliseconds, (10, 50, 90)))
        return Latency(median_ms=median, p10_ms=low, p90_ms=high, runs=self.milliseconds.size)


def measure_latency(
    models: Mapping[str, onnx.ModelProto | Path],
    feeds: Mapping[str, NDArray[Any]],
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
) -> dict[str, Latency]:
    """Percentiles of ``time_in_turns``, by name, in the order given."""
    turns = time_in_turns(models, feeds, threads=threads, seconds=seconds, providers=providers, config=config)
    return {name: one.latency for name, one in turns.items()}


def time_in_turns(
    models: Mapping[str, onnx.ModelProto | Path],
    feeds: Mapping[str, NDArray[Any]],
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
) -> dict[str, Turns]:
    """Time every model on the same inputs, interleaved, after a warm-up of its own.

    A turn is one untimed run, which brings the model's weights back into the caches as they are when a model runs
    alone, and then up to five timed ones. There are at least five rounds, and as many more as fit into ``seconds``.

    Raises:
        RuntimeModelError: a model cannot be loaded or run.

    """
    sessions = {
        name: open_session(model, threads=threads, providers=providers, config=config) for name, model in models.items()
    }
    once = 0.0
    for session in sessions.values():
        for _ in range(3):
            last = _timed(session, feeds)
        once += last
    timed_runs = 5 if once < 0.5 else 1
    rounds = min(200, max(5, int(seconds / max(once * (timed_runs + 1), 1e-6))))
    times: dict[str, list[list[float]]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            _timed(session, feeds)
            times[name].append([1000.0 * _timed(session, feeds) for _ in range(timed_runs)])
    return {name: Turns(milliseconds=np.array(values)) for name, values in times.items()}


def time_flushed(
    models: Mapping[str, onnx.ModelProto | Path],
    feeds: Mapping[str, NDArray[Any]],
    threads: int | None,
    seconds: float,
    providers: Sequence[str],
    config: Mapping[str, str] | None,
) -> dict[str, Turns]:
    """Do as ``time_in_turns``, with denormal numbers taken for 0.

    In a thread of its own, which ends, so that the caller's numbers stay as they are. The runtime's own option flushes
    them for the thread that opens the first session of a process with it, and for no other.
    """
    from zsq_compile.differentiable.denormals import flush_denormals  # imports torch, and is hardly ever needed

    timed = partial(time_in_turns, threads=threads, seconds=seconds, providers=providers, config=config)
    with ThreadPoolExecutor(1, initializer=flush_denormals) as thread:
        return thread.submit(timed, models, feeds).result()


def _timed(session: Session, feeds: Mapping[str, NDArray[Any]]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start
