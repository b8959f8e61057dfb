"""Build networks of chosen widths, and measure them: each layer alone, and all of them together.

Layers are rounded once for each width; a joint choice takes its weights from there, and gets its biases corrected as
the finished network will.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir
import torch
from torch import Tensor

from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.emit.emit import emitted_bytes, weight_bytes
from passes.plan import QuantizationPlan, Scale
from passes.quantize.override_widths import Width, Widths, override_widths
from zsq_compile.config.compile import WIDTHS, CompileConfig
from zsq_compile.differentiable.class_scores import tensor_output
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.metrics import agreement, decision_output
from zsq_compile.quantization.calibration.calibrate import Batch, calibrate
from zsq_compile.quantization.closed_form import correct_biases, insert_quantizers, write_initializers
from zsq_compile.quantization.mixed_precision.bit_allocation import LayerOptions
from zsq_compile.quantization.mixed_precision.sensitivity import (
    Rounded,
    activation_sensitivity,
    harm_between,
    rounded_weights,
    weight_sensitivity,
)
from zsq_compile.quantization.rounding.second_moments import SecondMoments, measure_second_moments

_HELD_BYTES = 256_000_000
_LARGEST_FEED = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Workpiece:
    """What widths are chosen for.

    Attributes:
        model: the folded float model.
        teacher: the float graph.
        target: where it will run.
        statistics: BatchNormalization statistics, for the bias correction.
        widest: plan with the most bits that each layer may have, calibrated.
        narrowest: plan with the fewest bits that each layer may have.
        config: everything else that was decided.
        batches: calibration data.
        joined: calibration data for the bias correction.
        held_out: feeds that nothing is rounded or calibrated on, to measure with.

    """

    model: ir.Model
    teacher: TorchGraph
    target: Target
    statistics: BatchNormStatistics
    widest: QuantizationPlan
    narrowest: QuantizationPlan
    config: CompileConfig
    batches: Sequence[Batch]
    joined: Sequence[Batch]
    held_out: Sequence[Batch]

    @property
    def steps(self) -> int:
        """Steps that ``choose_widths`` tells of: a width rounded, or a feed measured."""
        return len(WIDTHS) + len(self.held_out)


def samples_at_a_time(model: ir.Model) -> int:
    """Count the samples whose values, all of them, fit into a bounded part of memory."""
    shapes = (value.shape for node in model.graph for value in node.outputs if value.shape is not None)
    size = sum(4 * prod(size for size in shape[1:] if isinstance(size, int)) for shape in shapes)
    return max(min(_HELD_BYTES // max(size, 1), _LARGEST_FEED), 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A joint choice that was measured on the samples held out.

    Attributes:
        what: in words.
        widths: of every layer, and of the values that have a width of their own.
        file_bytes: size of its file.
        harm: noise-to-signal ratio of the outputs.
        agreement: share of common decisions; None when no output has classes.

    """

    what: str
    widths: Widths
    file_bytes: int
    harm: float
    agreement: float | None


class Bench:
    """Measures on the samples held out.

    Args:
        work: the network, its data and its plans.
        advance: told the number of steps done.

    Attributes:
        moments: second moments of the calibration data by node name; empty where rounding does not use them.
        layers: what each layer can be stored as, with its harm, in graph order.
        trials: every joint choice measured so far.

    Raises ConfigError when no sample is held out.

    """

    def __init__(self, work: Workpiece, advance: Callable[[int], None] = lambda steps: None) -> None:
        if not work.held_out:
            raise ConfigError(
                "mixed measures on samples held out, and there is not one batch of them: give more samples"
            )
        self.trials: list[Trial] = []
        self._work = work
        self._scales: dict[int, Mapping[str, Scale]] = {}
        self._reference = self._run(work.teacher)
        self.moments: Mapping[str, SecondMoments] = {}
        if work.config.quantization.rounding != "nearest":
            self.moments = measure_second_moments(work.model, work.widest, work.teacher, work.batches)
        self._rounded = self._round(advance)
        self.layers: tuple[LayerOptions, ...] = self._measure_layers(advance)

    def measure(self, what: str, bits: Mapping[str, int], values: Mapping[str, Width] | None = None) -> Trial:
        """Build the network of a joint choice, ``bits`` of all layers and width of some values, and run it."""
        work, plan = self._work, self._plan(bits, values or {})
        model = work.model.clone()
        rounded = {site.initializer: self._rounded[bits[site.node]][site.initializer] for site in plan.weights}
        write_initializers(model, {name: weight for name, (weight, _) in rounded.items()})
        quantized = insert_quantizers(model, plan)
        correct_biases(
            work.model, quantized, plan, work.teacher, work.statistics, work.joined, work.config.quantization
        )
        outputs = self._run(TorchGraph(quantized, device=work.teacher.device))
        trial = Trial(
            what=what,
            widths=Widths(weights=bits, activations=values or {}),
            file_bytes=emitted_bytes(work.model, plan, work.target),
            harm=harm_between(self._reference, outputs),
            agreement=_agreement(self._reference, outputs),
        )
        self.trials.append(trial)
        return trial

    def file_bytes(self, bits: Mapping[str, int]) -> int:
        """Size of the file in which the layers have so many bits."""
        return emitted_bytes(self._work.model, self._plan(bits, {}), self._work.target)

    def value_harms(self, bits: int) -> dict[str, float]:
        """Harm of quantizing each group of values, all else in float, to so many bits, by the name of the group."""
        work = self._work
        plan = self._plan({}, {site.group: bits for site in work.widest.activations})
        return activation_sensitivity(work.model, plan, work.teacher, work.held_out)

    def _plan(self, bits: Mapping[str, int], values: Mapping[str, Width]) -> QuantizationPlan:
        """Plan with the scales of everything that is known of: values, and weights in ``bits``."""
        work = self._work
        plan = override_widths(work.widest, work.target, Widths(weights=bits, activations=values))
        default = dict(work.widest.activation_scales)
        changed = {group: self._scales_at(width)[group] for group, width in values.items() if width != "float"}
        weights = {
            site.initializer: self._rounded[bits[site.node]][site.initializer][1]
            for site in plan.weights
            if site.node in bits
        }
        return plan.with_scales(activations=default | changed, weights=weights)

    def _scales_at(self, bits: int) -> Mapping[str, Scale]:
        """Scales of all activation groups at one width."""
        if bits not in self._scales:
            work = self._work
            wanted = Widths(activations={site.value: bits for site in work.widest.activations})
            plan = override_widths(work.widest, work.target, wanted)
            method = work.config.quantization.calibration_method
            self._scales[bits] = calibrate(plan, work.teacher, work.batches, method)
        return self._scales[bits]

    def _round(self, advance: Callable[[int], None]) -> dict[int, Rounded]:
        """Round every layer at every width that it may have."""
        work, floors = self._work, {site.node: site.number_format.bits for site in self._work.narrowest.weights}
        rounded: dict[int, Rounded] = {}
        for bits in dict.fromkeys(min(width, work.target.weight.bits) for width in WIDTHS):
            sites = tuple(s for s in work.widest.weights if floors[s.node] <= bits <= s.number_format.bits)
            widths = Widths(weights={site.node: bits for site in sites})
            plan = override_widths(replace(work.widest, weights=sites), work.target, widths)
            plan = plan.with_scales(activations=work.widest.activation_scales)
            rounded[bits] = rounded_weights(
                work.model, plan, work.teacher, work.batches, self.moments, work.config.quantization
            )
            advance(1)
        return rounded

    def _measure_layers(self, advance: Callable[[int], None]) -> tuple[LayerOptions, ...]:
        work = self._work
        candidates: dict[str, dict[int, Tensor]] = {}
        for bits, rounded in self._rounded.items():
            for name, (weight, _) in rounded.items():
                candidates.setdefault(name, {})[bits] = weight
        correct_on = () if work.config.quantization.bias_correction == "none" else work.batches
        harms = weight_sensitivity(
            work.model, work.widest, work.teacher, candidates, work.held_out, correct_on=correct_on, advance=advance
        )
        counts = {site.node: work.teacher.initializers[site.initializer].numel() for site in work.widest.weights}
        return tuple(
            LayerOptions(
                node=node, size={bits: weight_bytes(counts[node], bits, work.target) for bits in harm}, harm=harm
            )
            for node, harm in harms.items()
        )

    def _run(self, graph: TorchGraph) -> dict[str, Tensor]:
        with torch.inference_mode():
            parts = [graph.run(feed) for feed in self._work.held_out]
        return {name: torch.cat([part[name] for part in parts]) for name in graph.output_names}


def _agreement(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float | None:
    name = decision_output({name: tensor_output(tensor) for name, tensor in reference.items()})
    return None if name is None else agreement(reference[name].numpy(force=True), outputs[name].numpy(force=True))
