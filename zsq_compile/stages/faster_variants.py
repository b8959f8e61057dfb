"""What is tried where a quantized file is slower than the float one: other forms of the same network, on the clock.

The codes and scales of the weights stay; what changes is which layers run in integers, with which type of activations,
and how packed weights are written. A form takes the file's place where that is slower than the float one, and the form
faster, both beyond noise. Weights that are widened when the file is loaded leave the graph that the float file has, so
there is a form as fast as that.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session, open_session, usable_providers
from backends.target import Target
from passes.checks import IllegalGraphError
from passes.emit.emit import emit
from passes.plan import QuantizationPlan
from passes.qdq_names import quantized_values
from zsq_compile.errors import ZsqError
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.quantization.planning import require_within
from zsq_compile.quantization.state import FloatNetwork, QuantizedState
from zsq_compile.stages.form_quality import FormQuality, measure_form, require_no_worse
from zsq_compile.stages.other_forms import Form, list_forms
from zsq_compile.verification.latency import Turns, time_in_turns
from zsq_compile.verification.running import first_sample, run_batched
from zsq_compile.verification.speed import Costs, judge

_SECONDS_EACH = 1.5  # enough rounds to tell a few percent
_RUNS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedTrial:
    """One form on the clock.

    Attributes:
        form: what it is, in words.
        median_ms: of a run; None where the form could not be written or run, does worse, or took longer in a few runs.
        of_float: that over the float file's; None likewise.
        chosen: it took the place of the quantized file.
        reason: why there is no time; None where there is one.

    """

    form: str
    median_ms: float | None
    of_float: float | None
    chosen: bool = False
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpeedTrials:
    """What was tried, the quantized file as it was first; and what was chosen, None where that one stays.

    Attributes:
        trials: see there.
        chosen: graph of the form that was chosen, ready to be written.
        state: the same before that, with the plan of what is still quantized; None where that has not changed.

    """

    trials: tuple[SpeedTrial, ...]
    chosen: ir.Model | None = None
    state: QuantizedState | None = None

    def words(self) -> str:
        """Say what came of it in a sentence."""
        timed = [trial for trial in self.trials if trial.median_ms is not None and trial.of_float is not None]
        best = next((trial for trial in timed if trial.chosen), None)
        tried = f"{len(self.trials) - 1} other forms were tried"
        if best is None:
            times = "; ".join(f"{trial.form} {trial.of_float:.2f}" for trial in timed)
            why = "none is faster beyond noise, or the file is no slower"
            return f"{tried}, and {why} (times of the float file: {times})"
        first = timed[0]
        return (
            f"{tried}; written as {best.form}, which takes {best.of_float:.2f} times as long as the float file, where "
            f"all in integers took {first.of_float:.2f} times"
        )


def emit_model(qdq: ir.Model, plan: QuantizationPlan, target: Target, limit: int | None) -> ir.Model:
    """Bring a QDQ graph in place into the form of a file, and return it; QuantizationError beyond ``limit`` bytes."""
    emit(qdq, plan, target)
    require_within(qdq, limit)
    return qdq


def try_forms(
    loaded: LoadedModel, network: FloatNetwork, state: QuantizedState, emitted: Path, costs: Costs | None
) -> SpeedTrials:
    """Write other forms of a quantized network, and time the best of them beside the float file and the present one.

    The target of the network has the present rules, and a form must do as well as the present file on half of the
    samples held out; the other half is to judge it by. ``costs`` names the nodes that cost time in the present file.

    Raises:
        RuntimeModelError: the float model or the present file cannot be run.

    """
    work = _Work(loaded, network, state, emitted, network.held_out.halves()[0].arrays())
    forms = {form.words: form for form in list_forms(state.qdq, state.plan, network.target, costs)}
    wanted = work.outputs(loaded.original)
    present = work.quality(emitted, wanted)
    with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
        written: dict[str, _Tried] = {}
        failed: list[SpeedTrial] = []
        for number, form in enumerate(forms.values()):
            path = Path(folder) / f"{number}.onnx"
            try:
                once = work.try_form(form, path, wanted, present)
            except _FAILURES as error:
                reason = str(error).splitlines()[0].replace(str(path), "it")
                failed.append(SpeedTrial(form=form.words, median_ms=None, of_float=None, reason=reason))
                continue
            if once is not None:
                written[form.words] = once
        fastest = dict(sorted(written.items(), key=lambda item: item[1].once)[:_FINALISTS])
        turns = work.time_files({name: one.path for name, one in fastest.items()})
    best = _best(fastest, turns)
    slower = judge(turns[_FLOAT], turns[_PRESENT])[0] == "slower"
    if best is not None and not (slower and judge(turns[_PRESENT], turns[best])[0] == "faster"):
        best = None
    reference = turns[_FLOAT].latency.median_ms
    times = {name: one.latency.median_ms for name, one in turns.items() if name != _FLOAT}
    least = min((one.once for one in written.values()), default=1.0)
    failed += [
        SpeedTrial(form=name, median_ms=None, of_float=None, reason=f"{one.once / least:.1f} times the fastest's time")
        for name, one in written.items()
        if name not in turns
    ]
    trials = [
        SpeedTrial(form=name, median_ms=time, of_float=time / reference, chosen=name == best)
        for name, time in times.items()
    ]
    if best is None:
        return SpeedTrials(trials=(*trials, *failed))
    return SpeedTrials(trials=(*trials, *failed), chosen=work.make(forms[best]), state=work.describe(forms[best]))


_FLOAT, _PRESENT = "float", "the file as it was"
_FINALISTS = 3  # are timed in turns with the float file and the present one
_SLOWER = "it stays float: on the clock, integers cost more there than they save"
_FAILURES = (IllegalGraphError, ir.passes.PassError, ZsqError, RuntimeModelError, OSError)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What all forms are made of and held against."""

    loaded: LoadedModel
    network: FloatNetwork
    state: QuantizedState
    emitted: Path
    samples: Mapping[str, NDArray[Any]]

    def make(self, form: Form) -> ir.Model | None:
        """Make the graph of a form, ready to be written; None where it is the present one."""
        prepared = self._prepare(form)
        return None if prepared is None else emit_model(prepared, self.state.plan, form.target, self.network.limit)

    def describe(self, form: Form) -> QuantizedState | None:
        """Make the state of a form, whose plan names what its graph still quantizes; None where that is the same."""
        prepared = self._prepare(form)
        sites = {site.value for site in self.state.plan.activations}
        floats = set() if prepared is None else sites - quantized_values(prepared)
        if prepared is None or not floats:
            return None
        return replace(self.state, qdq=prepared, plan=self.state.plan.without(floats, _SLOWER))

    def _prepare(self, form: Form) -> ir.Model | None:
        copy = self.state.qdq.clone()
        if isinstance(result := form.prepare(copy), ir.passes.PassResult) and not result.modified:
            return None
        return copy

    def outputs(self, model: onnx.ModelProto | Path) -> dict[str, NDArray[Any]]:
        """Run a model on all samples, in a session that keeps no memory and is closed."""
        session = self._session(model, lean=True)
        return run_batched(session, self.samples, axes=self.loaded.face.axes, uneven=self.loaded.uneven_outputs)

    def quality(self, path: Path, wanted: Mapping[str, NDArray[Any]]) -> FormQuality:
        """Measure a file; ``wanted`` are the outputs of the float model."""
        count = min(map(len, self.samples.values()))
        return measure_form(self.network.task, wanted, self.outputs(path), count)

    def try_form(
        self, form: Form, path: Path, wanted: Mapping[str, NDArray[Any]], present: FormQuality
    ) -> "_Tried | None":
        """Write a form, and see that it runs and does no worse than the present file; returns None for no other form.

        Raises:
            QuantizationError: it does worse.

        """
        model = self.make(form)
        if model is None:
            return None
        self.loaded.face.write(model, path)
        if path.read_bytes() == self.emitted.read_bytes():
            return None
        del model
        quality = self.quality(path, wanted)
        require_no_worse(quality, present, form.worse_db)
        return _Tried(path=path, once=self._time_once(path), quality=quality)

    def _time_once(self, path: Path) -> float:
        """Least milliseconds of a few runs."""
        session = self._session(path)
        feeds = first_sample(session, self.samples, self.loaded.face.axes)
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            session.run(feeds)
            times.append(1000.0 * (time.perf_counter() - start))
        return min(times)

    def time_files(self, paths: Mapping[str, Path]) -> dict[str, Turns]:
        """Time files in turns with the float model and the present file."""
        models: dict[str, onnx.ModelProto | Path] = {_FLOAT: self.loaded.original, _PRESENT: self.emitted, **paths}
        feeds = first_sample(self._session(self.emitted, lean=True), self.samples, self.loaded.face.axes)
        return time_in_turns(
            models,
            feeds,
            seconds=_SECONDS_EACH * len(models),
            providers=usable_providers(self.network.target.providers),
            config=self.network.target.session_config,
        )

    def _session(self, model: onnx.ModelProto | Path, *, lean: bool = False) -> Session:
        target = self.network.target
        providers = usable_providers(target.providers)
        return open_session(model, providers=providers, config=target.session_config, lean=lean)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """A form that was written and run: its file, least milliseconds of a few runs, and what it keeps."""

    path: Path
    once: float
    quality: FormQuality


def _best(fastest: Mapping[str, "_Tried"], turns: Mapping[str, Turns]) -> str | None:
    """Name the fastest form; of those that the clock cannot tell from it, the one that does best."""
    first = min(fastest, key=lambda name: turns[name].latency.median_ms, default=None)
    if first is None:
        return None
    as_fast = [name for name in fastest if name == first or judge(turns[first], turns[name])[0] != "slower"]
    return min(as_fast, key=lambda name: fastest[name].quality.order)
