"""Choose a width for every layer by what it costs the outputs, measured on synthetic samples without labels.

Two goals. Under a limit of bytes: the bits of least noise. Under a floor of agreement with the float network: the
smallest file that keeps it. Either way a joint choice is measured, not only the sum of its parts, on samples held out
from rounding; and a limit is held by the bytes of the graph as it will be written, not by an estimate.

Where the floor is not kept with the most bits for every layer, activations are to blame: the values that their
rounding adds most noise get 8 bits, then the wider format that the target runs in integers, if it has one, then they
stay float.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from passes.quantize.override_widths import Width, override_widths
from zsq_compile.config.compile import WIDTHS, QuantizationConfig
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.metrics import decibel_words, decibels
from zsq_compile.progress import Clock
from zsq_compile.quantization.closed_form import calibrate_plan
from zsq_compile.quantization.mixed_precision.bit_allocation import LayerOptions, WidthTable
from zsq_compile.quantization.mixed_precision.trials import Bench, Trial, held_out_batches
from zsq_compile.quantization.planning import describe_bits
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, make_state

_LEVELS = 33  # sizes that a floor of agreement is tried at, by bisection
_CORRECTIONS = 6  # rounds of meeting a limit with the bytes of the real graph


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedChoice:
    """The widths, and what they were chosen for.

    Attributes:
        goal: in words.
        chosen: the trial whose widths are to be used.
        layers: what each layer could have been stored as, in graph order, with the NSR at each number of bits.
        values: NSR at 8 bits or fewer of each value that got a width of its own, by name.
        trials: everything that was measured jointly, in order.

    """

    goal: str
    chosen: Trial
    layers: tuple[LayerOptions, ...]
    values: Mapping[str, float]
    trials: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChooseBits:
    """Step: give every layer the bits that suit best; the record is the MixedChoice.

    Their NSR is the least within the limit of the network, which the smallest file is known to keep, see
    ``planning.resolve_limit``; without one they keep ``floor``, a share of common decisions on the samples held out.

    Raises UnsupportedModelError when there is only a floor, and no output has classes.
    """

    name: ClassVar[str] = "choose bits"
    config: QuantizationConfig
    floor: float | None = None

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, MixedChoice]:
        """See Step."""
        with clock.stage(self.name, len(WIDTHS) + len(held_out_batches(network))) as advance:
            search = _Search(Bench(network, state.plan, self.config, advance))
            if network.limit is not None:
                choice = search.within(network.limit)
            else:
                assert self.floor is not None
                choice = search.agreeing(self.floor)
            plan = override_widths(state.plan, network.target, choice.chosen.widths)
            plan = calibrate_plan(plan, network.teacher, network.calibration.fitting_parts(network.model), self.config)
            return make_state(state.base, plan), choice


class _Search:
    """Asks a bench for as few joint measurements as a goal needs."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._table = WidthTable(bench.layers)
        self._values: dict[str, float] = {}

    def within(self, limit: int) -> MixedChoice:
        """Find the bits of least NSR in a file of so many bytes."""
        bits = self._fit(limit)
        if bits is None:
            bits = {site.node: site.number_format.bits for site in self._bench.narrowest.weights}
        best = self._bench.measure("chosen by NSR", bits)
        # The NSR of few bits does not quite add up: where one width for all layers does better, it is taken.
        uniform = next((one for one in self._uniform() if one != bits and self._bench.file_bytes(one) <= limit), None)
        if uniform is not None:
            best = min(best, self._bench.measure("one width for all layers", uniform), key=lambda trial: trial.nsr)
        return self._conclude(best, f"the least noise in at most {limit} bytes")

    def agreeing(self, floor: float) -> MixedChoice:
        """Find the smallest file that keeps a share of the decisions."""
        levels = self._table.by_size(_LEVELS)
        best = self._bench.measure("the most bits for every layer", levels[-1])
        if best.agreement is None:
            raise UnsupportedModelError(
                "mixed with min_agreement counts decisions, and no output of this model has classes: give max_size"
            )
        if not _keeps(best, floor):
            best = self._relieve(best, floor)
        what = "the decisions" if self._bench.network.asked is None else "the metric"
        goal = f"the smallest file that keeps {floor:.1%} of {what}"
        if not _keeps(best, floor):
            return self._conclude(best, f"{goal}; nothing that was tried does")
        low, high = -1, len(levels) - 1  # the level ``high`` keeps the floor, ``low`` does not
        while high - low > 1:
            middle = (low + high) // 2
            tried = self._bench.measure(f"size {middle + 1} of {len(levels)}", levels[middle], best.widths.activations)
            low, high, best = (low, middle, tried) if _keeps(tried, floor) else (middle, high, best)
        return self._conclude(best, goal)

    def _fit(self, limit: int) -> dict[str, int] | None:
        """Bits of least NSR whose file is within a limit; what their estimate leaves out is read off the graph."""
        widest = {site.node: site.number_format.bits for site in self._bench.widest.weights}
        budget = limit - self._unestimated(widest)
        best: dict[str, int] | None = None
        for _ in range(_CORRECTIONS):
            bits = self._table.least_nsr(budget)
            if bits is None or bits == best:
                break
            best = bits if self._bench.file_bytes(bits) <= limit else best
            budget = limit - self._unestimated(bits)
        return best

    def _unestimated(self, bits: Mapping[str, int]) -> int:
        return self._bench.file_bytes(bits) - sum(layer.size[bits[layer.node]] for layer in self._bench.layers)

    def _uniform(self) -> list[dict[str, int]]:
        """One width for all layers, as near to it as each may have, from the widest to the narrowest."""
        return [{layer.node: _nearest(layer.size, bits) for layer in self._bench.layers} for bits in WIDTHS]

    def _relieve(self, best: Trial, floor: float) -> Trial:
        """Give the fewest values more bits, or leave them in float, that keep the floor; ``best`` where none do."""
        steps = self._reliefs()
        low, high = 0, len(steps)
        last = self._bench.measure("the most bits, activations relieved", best.widths.weights, dict(steps))
        if not _keeps(last, floor):
            return best
        while high - low > 1:
            middle = (low + high) // 2
            what = f"{middle} of {len(steps)} reliefs of activations"
            tried = self._bench.measure(what, best.widths.weights, dict(steps[:middle]))
            low, high, last = (low, middle, tried) if _keeps(tried, floor) else (middle, high, last)
        return last

    def _reliefs(self) -> list[tuple[str, Width]]:
        """Values and widths, in the order in which they are to be relieved; a value may come several times."""
        wide = self._bench.network.target.wide_activation_bits
        rungs: list[int] = sorted({self._bench.config.act_bits, 8} | ({wide} if wide else set()))
        steps: list[tuple[str, Width]] = []
        followers: list[Width] = [*rungs[1:], "float"]
        for bits, following in zip(rungs, followers, strict=True):
            ratios = self._bench.value_nsr(bits)
            for group in sorted(ratios, key=lambda one: -ratios[one]):
                self._values.setdefault(group, ratios[group])
                steps.append((group, following))
        return steps

    def _conclude(self, chosen: Trial, goal: str) -> MixedChoice:
        values = {name: self._values[name] for name in chosen.widths.activations}
        return MixedChoice(
            goal=goal, chosen=chosen, layers=self._bench.layers, values=values, trials=tuple(self._bench.trials)
        )


def _nearest(widths: Iterable[int], bits: int) -> int:
    return min(widths, key=lambda own: abs(own - bits))


def _keeps(trial: Trial, floor: float) -> bool:
    return trial.agreement is not None and trial.agreement >= floor


def explain_choice(choice: MixedChoice) -> dict[str, Any]:
    """Tell a choice in plain values for the report, with two lines for a terminal under "summary"."""
    bits, values = choice.chosen.widths.weights, choice.chosen.widths.activations
    return {
        "goal": choice.goal,
        "chosen": _plain(choice.chosen),
        "layers": {
            layer.node: {"bits": bits[layer.node], "bytes": dict(layer.size), "nsr": dict(layer.nsr)}
            for layer in choice.layers
        },
        "values": {name: {"width": width, "nsr": choice.values[name]} for name, width in values.items()},
        "trials": [_plain(trial) for trial in choice.trials],
        "notes": _notes(choice.layers),
        "summary": list(_summary(choice)),
    }


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "what": trial.what,
        "file_bytes": trial.file_bytes,
        "nsr": trial.nsr,
        "agreement": trial.agreement,
        "bits": describe_bits(trial.widths.weights.values()),
    }


def _notes(layers: Iterable[LayerOptions]) -> list[str]:
    """Say which widths could not be chosen because a wider one takes no more bytes."""
    useless = [
        bits
        for layer in layers
        for bits in layer.size
        if any(wider > bits and layer.size[wider] <= layer.size[bits] for wider in layer.size)
    ]
    return [
        f"{bits} bits were not considered for {count} layer{'' if count == 1 else 's'}: more bits take no more bytes"
        for bits, count in sorted(Counter(useless).items())
    ]


def _summary(choice: MixedChoice) -> tuple[str, str]:
    chosen = choice.chosen
    relieved = Counter(chosen.widths.activations.values())
    parts = [describe_bits(chosen.widths.weights.values())]
    parts += [f"{n} values {'in float' if width == 'float' else f'of {width} bits'}" for width, n in relieved.items()]
    by_nsr = sorted(choice.layers, key=lambda layer: layer.nsr[min(layer.nsr)])
    least, most = (f"{layer.node} ({chosen.widths.weights[layer.node]} bits)" for layer in (by_nsr[0], by_nsr[-1]))
    noise = decibel_words(decibels(1.0, chosen.nsr))
    return (
        f"{', '.join(parts)}: {choice.goal}",
        f"noise {noise} below the outputs on samples held out; most sensitive is {most}, least {least}",
    )
