"""The step that leaves in float what few bits would harm, and the one that writes the layers that then run in float."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from passes.emit.widen_layers import WidenLayers
from passes.plan import WeightSite
from passes.quantize.integer_kernels import IntegerKernels
from zsq_compile.config.compile import KeepQuality
from zsq_compile.errors import ZsqError
from zsq_compile.metrics import decibel_words
from zsq_compile.progress import Clock
from zsq_compile.quantization.placement.choose_float import BETTER, Choice, Search, floor_of, meets
from zsq_compile.quantization.placement.judge import Judgement, is_better
from zsq_compile.quantization.placement.layer_costs import NodeTimes, TimeModel
from zsq_compile.quantization.placement.measure_noise import REASON, Bench
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, insert_quantizers

MeasureTimes = Callable[[FloatNetwork, QuantizedState], NodeTimes | None]
"""Times of the nodes of the float file and of the quantized one; None where the target's runtime is not here.

What it raises stops nothing: times are modelled then, and a note says why.
"""

_NARROWEST = 8  # bits of values that someone asked for: fewer are meant


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftFloat:
    """What was left in float, or in a wider format, and what that brought.

    Attributes:
        values: names of the values, in graph order; empty where none is.
        layers: names of the layers that run in float because of them, in graph order.
        bits: of the wider format; None for float.
        before: the network with nothing left in float, on samples that took no part in the choice.
        after: the network as chosen, on the same ones.
        noise: NSR that the rounding of each of these values brings alone, by name.
        integer_us: microseconds of a run with nothing left in float; modelled where ``measured`` is False.
        chosen_us: of the network as chosen.
        float_us: with everything in float.
        measured: the times are the runtime's.

    """

    values: tuple[str, ...]
    layers: tuple[str, ...]
    bits: int | None
    before: Judgement
    after: Judgement
    noise: dict[str, float]
    integer_us: float
    chosen_us: float
    float_us: float
    measured: bool

    def words(self) -> str:
        """Say what was left and what it brought in a sentence."""
        where = f"in {self.bits} bits" if self.bits else "in float"
        kept = ""
        if self.before.kept is not None and self.after.kept is not None:
            kept = f", {self.after.measure} kept {self.after.kept:.1%} instead of {self.before.kept:.1%}"
        time = self.chosen_us / max(self.integer_us, 1e-9) - 1.0
        return (
            f"{_count(len(self.values), 'value')} and {_count(len(self.layers), 'layer')} left {where}: noise "
            f"{decibel_words(self.after.noise_db)} below the outputs instead of "
            f"{decibel_words(self.before.noise_db)}{kept}, on samples that took no part in the choice; "
            f"{time:+.0%} of the time {'by the profile' if self.measured else 'by the work'}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveFloat:
    """Step: leave in float what harms the outputs; the record is LeftFloat, or None where nothing had to be left.

    ``measure_times`` gives what time costs; without one it is modelled.
    """

    name: ClassVar[str] = "place"
    quality: KeepQuality
    measure_times: MeasureTimes | None = None

    def run(
        self, network: FloatNetwork, state: QuantizedState, clock: Clock
    ) -> tuple[QuantizedState, LeftFloat | None]:
        """See Step."""
        floor = floor_of(None if network.task is None else network.task.kind, self.quality)
        if floor is None or not state.plan.activations or network.held_out.count == 0:
            return state, None
        if min(site.number_format.bits for site in state.plan.activations) < min(
            _NARROWEST, network.target.activation.bits
        ):
            return state, None
        with clock.stage(self.name):
            bench = Bench(network, state)
            pricing = _Pricing(network, state, bench.kernels, self.measure_times, clock.progress.note)
            search = Search(
                all_groups=bench.kernels.groups,
                close=bench.close,
                price=pricing.price,
                measure=bench.measure,
                most=None if self.quality == "best" or bench.wide else pricing.float_time,
            )
            noise: dict[str, float] = {}

            def measure_alone() -> dict[str, float]:
                noise.update(bench.noise())
                return noise

            choice = search.find(floor, measure_alone)
            if not choice.groups:
                return state, None
            record = self._record(bench, choice, pricing, noise)
            if meets(record.before, floor) or not is_better(record.after, record.before, quieter=BETTER):
                return state, None  # on other samples than those of the choice
            plan = bench.plan(choice.groups)
        clock.progress.note(record.words())
        return QuantizedState(base=state.base, qdq=insert_quantizers(state.base, plan), plan=plan), record

    def _record(self, bench: Bench, choice: Choice, pricing: "_Pricing", noise: dict[str, float]) -> LeftFloat:
        running = {kernel.node for kernel in bench.kernels.running(choice.groups)}
        lost = [kernel for kernel in bench.kernels.kernels if kernel.node not in running]
        chosen = bench.kernels.values(choice.groups)
        return LeftFloat(
            values=tuple(site.value for site in bench.state.plan.activations if site.value in chosen),
            layers=() if bench.wide else tuple(kernel.node for kernel in lost if kernel.weighted),
            bits=bench.wide or None,
            before=bench.measure(frozenset(), other_half=True),
            after=bench.measure(choice.groups, other_half=True),
            noise={group: noise[group] for group in sorted(choice.groups) if group in noise},
            integer_us=pricing.price(frozenset()),
            chosen_us=pricing.price(choice.groups),
            float_us=pricing.float_time,
            measured=pricing.measured,
        )


class _Pricing:
    """Prices of choices, measured when the first one is asked for."""

    def __init__(
        self,
        network: FloatNetwork,
        state: QuantizedState,
        kernels: IntegerKernels,
        measure: MeasureTimes | None,
        note: Callable[[str], None],
    ) -> None:
        self._measure, self._note = measure, note
        self._network, self._state, self._kernels = network, state, kernels
        self._model: TimeModel | None = None
        self.measured = False

    def price(self, groups: Set[str]) -> float:
        """Return the microseconds of a run."""
        if self._model is None:
            times = self._times()
            self.measured = times is not None
            self._model = TimeModel(self._network.model, self._state.plan, self._kernels, times)
        return self._model.total(groups)

    def _times(self) -> NodeTimes | None:
        if self._measure is None:
            return None
        try:
            return self._measure(self._network, self._state)
        except (ZsqError, ValueError, RuntimeError, OSError) as error:  # no reason to give up what is not measured
            self._note(f"times of layers could not be measured, and are modelled by the work: {error}")
            return None

    @property
    def float_time(self) -> float:
        """Microseconds with everything in float."""
        return self.price(self._kernels.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class WidenFloats:
    """Step: write the weights of the layers that ``LeaveFloat`` or a given plan took out of integers; no record."""

    name: ClassVar[str] = "widen"

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, None]:
        """See Step."""
        floats = (one for one in state.plan.refusals if one.op_type == "activation")
        left = {one.where for one in floats if one.reason == REASON or one.requested}
        nodes = {str(node.name): node for node in network.model.graph}

        def touches(site: WeightSite) -> bool:
            made = nodes[state.plan.folded.get(site.node, site.node)].outputs[0].name
            return site.data_input in left or made in left

        layers = frozenset(site.node for site in state.plan.weights if touches(site))
        if not layers:
            return state, None
        qdq = state.qdq.clone()
        WidenLayers(layers)(qdq)
        return QuantizedState(base=state.base, qdq=qdq, plan=state.plan), None


def explain_floats(left: LeftFloat) -> dict[str, Any]:
    """Tell what was left in float in plain values for the report, with a line for a terminal under "summary"."""
    return {
        "values": list(left.values),
        "layers": list(left.layers),
        "bits": left.bits,
        "before": _plain(left.before),
        "after": _plain(left.after),
        "noise_db": {name: Judgement(nsr=nsr).noise_db for name, nsr in left.noise.items()},
        "microseconds": {"integers": left.integer_us, "chosen": left.chosen_us, "float": left.float_us},
        "measured": left.measured,
        "summary": left.words(),
    }


def _plain(judged: Judgement) -> dict[str, Any]:
    return {"noise_db": judged.noise_db, "kept": judged.kept, "measure": judged.measure, "harm": judged.harm}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
