"""What is tried where a quantized file is slower than the float one: other forms of the same network, on the clock.

The codes and scales of the weights stay; what changes is which layers run in integers, with which type of activations,
and how packed weights are written. A form takes the file's place where that is slower than the float one, and the form
faster, both beyond noise. Weights that are widened when the file is loaded leave the graph that the float file has, so
there is a form as fast as that.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session, open_session, usable_providers
from backends.target import Blockwise, Target
from passes.analysis.count_work import layer_work
from passes.checks import IllegalGraphError
from passes.emit.emit import emit
from passes.emit.keep_float import KeepFloat
from passes.emit.sign_codes import SignCodes
from passes.operators import QUANTIZERS
from passes.plan import QuantizationPlan
from passes.qdq_names import quantized_values
from zsq_compile.errors import QuantizationError, ZsqError
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.metrics import sqnr_db
from zsq_compile.quantization.planning import require_within
from zsq_compile.quantization.state import FloatNetwork, QuantizedState
from zsq_compile.verification.latency import Turns, time_in_turns
from zsq_compile.verification.running import first_sample, run_batched
from zsq_compile.verification.speed import Costs, judge

_SECONDS_EACH = 1.5  # enough rounds to tell a few percent
_WORSE_DB = 0.5  # that outputs may be noisier than those of the present file, on the same samples
_CHANCE_DB = 3.0  # the same where a source of noise is left out: what is lost then is chance, as samples are few
_RUNS = 5
_SHARES = (0.9, 0.6)  # of all multiplications
_EVERY_BLOCK = Blockwise(block_size=256, least_weights=0, most_rows=1 << 30)

Prepare = Callable[[ir.Model], object]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """Another form: what is done to the quantizers, the rules that it is written by, and what it may lose in dB."""

    words: str
    prepare: Prepare
    target: Target
    worse_db: float = _WORSE_DB


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
    forms = {form.words: form for form in _list_forms(state.qdq, state.plan, network.target, costs)}
    wanted = work.outputs(loaded.original)
    present = work.ratios(work.outputs(emitted), wanted)
    with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
        written = {}
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
                written[form.words] = (once, path)
        fastest = dict(sorted(written.items(), key=lambda item: item[1][0])[:_FINALISTS])
        turns = work.time_files({name: path for name, (_, path) in fastest.items()})
    best = min(fastest, key=lambda name: turns[name].latency.median_ms, default=None)
    slower = judge(turns[_FLOAT], turns[_PRESENT])[0] == "slower"
    if best is not None and not (slower and judge(turns[_PRESENT], turns[best])[0] == "faster"):
        best = None
    reference = turns[_FLOAT].latency.median_ms
    times = {name: one.latency.median_ms for name, one in turns.items() if name != _FLOAT}
    least = min((once for once, _ in written.values()), default=1.0)
    failed += [
        SpeedTrial(form=name, median_ms=None, of_float=None, reason=f"{once / least:.1f} times the fastest form's time")
        for name, (once, _) in written.items()
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

    def make(self, form: _Form) -> ir.Model | None:
        """Make the graph of a form, ready to be written; None where it is the present one."""
        prepared = self._prepare(form)
        return None if prepared is None else emit_model(prepared, self.state.plan, form.target, self.network.limit)

    def describe(self, form: _Form) -> QuantizedState | None:
        """Make the state of a form, whose plan names what its graph still quantizes; None where that is the same."""
        prepared = self._prepare(form)
        sites = {site.value for site in self.state.plan.activations}
        floats = set() if prepared is None else sites - quantized_values(prepared)
        if prepared is None or not floats:
            return None
        return replace(self.state, qdq=prepared, plan=self.state.plan.without(floats, _SLOWER))

    def _prepare(self, form: _Form) -> ir.Model | None:
        copy = self.state.qdq.clone()
        if isinstance(result := form.prepare(copy), ir.passes.PassResult) and not result.modified:
            return None
        return copy

    def outputs(self, model: onnx.ModelProto | Path) -> dict[str, NDArray[Any]]:
        """Run a model on all samples."""
        return self._run(self._session(model))

    def _run(self, session: Session) -> dict[str, NDArray[Any]]:
        return run_batched(session, self.samples, axes=self.loaded.face.axes, uneven=self.loaded.uneven_outputs)

    @staticmethod
    def ratios(got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Signal to quantization noise ratio of every float output, dB."""
        floats = {name: array for name, array in wanted.items() if np.issubdtype(array.dtype, np.floating)}
        return {name: sqnr_db(array, got[name]) for name, array in floats.items()}

    def try_form(
        self, form: _Form, path: Path, wanted: Mapping[str, NDArray[Any]], present: Mapping[str, float]
    ) -> float | None:
        """Write a form, and see that it runs and does no worse; returns milliseconds of a run, None for no other form.

        ``wanted`` are the outputs of the float model, ``present`` the ratios of the present file.

        Raises:
            QuantizationError: its outputs lie farther from the float model's than those of the present file.

        """
        model = self.make(form)
        if model is None:
            return None
        self.loaded.face.write(model, path)
        if path.read_bytes() == self.emitted.read_bytes():
            return None
        session = self._session(path)
        for name, ratio in self.ratios(self._run(session), wanted).items():
            if ratio < present[name] - form.worse_db:
                raise QuantizationError(
                    f"its output {name!r} is at {ratio:.1f} dB, and that of the present file at {present[name]:.1f} dB"
                )
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
        feeds = first_sample(self._session(self.emitted), self.samples, self.loaded.face.axes)
        return time_in_turns(
            models,
            feeds,
            seconds=_SECONDS_EACH * len(models),
            providers=usable_providers(self.network.target.providers),
            config=self.network.target.session_config,
        )

    def _session(self, model: onnx.ModelProto | Path) -> Session:
        target = self.network.target
        return open_session(model, providers=usable_providers(target.providers), config=target.session_config)


def _list_forms(quantized: ir.Model, plan: QuantizationPlan, target: Target, costs: Costs | None) -> Iterator[_Form]:
    """All forms that are worth a try, the nearest to the present one first."""
    layers = frozenset(site.node for site in plan.weights)
    work = {name: count for name, count in layer_work(quantized).items() if name in layers}
    slow = {spot.node for spot in costs.spots} if costs is not None else set()
    beside = _beside(quantized, slow)

    def keeping(names: frozenset[str], *, others: bool) -> Prepare:
        return lambda model: KeepFloat(target, names, others)(model)

    if slow & layers or beside & layers:
        yield _Form(
            words="integers without the layers that they slow down",
            prepare=keeping(layers - slow - beside, others=True),
            target=target,
        )
    yield _Form(words="integers in layers with weights only", prepare=keeping(layers, others=False), target=target)
    for share in _SHARES:
        largest = _largest(work, share)
        if largest < layers:
            yield _Form(
                words=f"integers in the layers of {share:.0%} of the work",
                prepare=keeping(largest, others=False),
                target=target,
            )
    if not (target.activation.signed or target.unsigned_weights):  # int8 values want int8 weights
        signed = replace(target, activation=replace(target.activation, signed=True))
        yield _Form(words="signed activations", prepare=lambda model: SignCodes()(model), target=signed)
    if any(site.number_format.bits == 4 for site in plan.weights):
        for blockwise, words in (
            (_EVERY_BLOCK, "every 4-bit product in blocks"),
            (Blockwise(), "no product in blocks"),
        ):
            if blockwise != target.blockwise:
                yield _Form(words=words, prepare=lambda model: None, target=replace(target, blockwise=blockwise))
    yield _Form(
        words="weights in integers, widened when the file is loaded",
        prepare=keeping(frozenset(), others=False),
        target=target,
        worse_db=_CHANCE_DB,  # else no form might be as fast as the float file
    )


def _largest(work: Mapping[str, int], share: float) -> frozenset[str]:
    """Fewest layers that hold a share of all multiplications."""
    chosen, left = set(), share * sum(work.values())
    for name, count in sorted(work.items(), key=lambda item: -item[1]):
        if left <= 0:
            break
        chosen.add(name)
        left -= count
    return frozenset(chosen)


def _beside(model: ir.Model, names: set[str]) -> set[str]:
    """Names of the nodes that make what nodes of these names read, or read what they make, past quantizers."""
    found: set[str] = set()
    for node in model.graph:
        if node.name not in names:
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        readers = [use.node for value in node.outputs for use in value.uses()]
        found |= {str(one.name) for start in makers for one in _past(start, forward=False)}
        found |= {str(one.name) for start in readers for one in _past(start, forward=True)}
    return found


def _past(node: ir.Node | None, *, forward: bool) -> Sequence[ir.Node]:
    """First nodes that are no quantizers, nor activations behind them, in one direction."""
    if node is None:
        return ()
    if node.op_type not in (*QUANTIZERS, "Clip", "Relu"):
        return (node,)
    if forward:
        return [one for use in node.outputs[0].uses() for one in _past(use.node, forward=True)]
    return _past(None if node.inputs[0] is None else node.inputs[0].producer(), forward=False)
