"""Look for what puts a whole result in doubt: open inputs, samples far from the statistics, outputs that never move."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from passes.plan import QuantizationPlan
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.quantization.samples import Batch, count_fitting_samples
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.reporting.alarms import Alarm, Degree
from zsq_compile.reporting.evidence import MomentMatch
from zsq_compile.stages.calibration_data import CalibrationData, has_large_images
from zsq_compile.stages.gate import SETTLE
from zsq_compile.synthesis.images.pictures import FAMILIES, draw_family
from zsq_compile.synthesis.images.procedural import as_input

_PROBABLE = 0.5
_FAR = 3.0  # of MomentMatch.distance: means are nearly two deviations away
_STILL = 1e-3  # movement over samples, of the size of an output's numbers
_QUIET = 0.01  # of a probability, from its end
_BEYOND, _RARE, _SHARE = 2.0, 1e-3, 0.05  # times a range; of its numbers; of all ranges
_LARGE, _SMALL = 2, 8  # samples of a family
_SEED = 2_000_003
_CALIBRATION = "calibration samples"
_CALIB = "give some real samples with --calib"


def find_alarms(
    inputs: Sequence[InputSpec],
    data: CalibrationData,
    moments: Sequence[MomentMatch],
    network: FloatNetwork,
    plan: QuantizationPlan,
) -> tuple[Alarm, ...]:
    """Find all alarms of a compilation, those of its inputs first.

    Args:
        inputs: of the float model.
        data: what was calibrated with.
        moments: of the calibration samples against batch normalisation statistics.
        network: the float network that was quantized.
        plan: of the quantized one.

    """
    families = {} if data.synthetic is None else _draw_families(inputs, data.preprocessing)
    is_made = data.synthetic is not None
    is_hedged = data.synthetic is not None and data.synthetic.hypotheses is not None
    doubtful = [one for one in inputs if is_made or one.name in data.posteriors]
    seen = _look(network, plan, {_CALIBRATION: _take_few(network, inputs), **families})
    return (
        *_of_inputs(doubtful, data.posteriors, is_hedged=is_hedged),
        *_of_distance(moments),
        *_of_outputs(seen),
        *_of_ranges(seen),
    )


def _of_inputs(inputs: Sequence[InputSpec], posteriors: Mapping[str, Posterior], *, is_hedged: bool) -> Iterator[Alarm]:
    """Tell of inputs that nothing explains, or that may be prepared in several ways.

    Where a hedged file was made for all of them, and one is as probable as all others together, that is a doubt.
    """
    made = "made for all of them, and suits none as well as it could" if is_hedged else "made for the first alone"
    for spec in (one for one in inputs if not one.takes_stand_ins):
        posterior = posteriors.get(spec.name)
        if posterior is None:
            words = "nothing in the model tells the scale of its values, and it was fed noise of deviation 1"
            yield Alarm(kind="input", where=f"input {spec.name!r}", words=words, advice=_CALIB)
        elif posterior.is_open:
            words = f"it may be prepared as {posterior.describe()}, and nothing proves which: the file is {made}"
            degree: Degree = "doubt" if is_hedged and posterior.plausible[0].probability >= _PROBABLE else "alarm"
            yield Alarm(kind="input", where=f"input {spec.name!r}", words=words, advice=SETTLE, degree=degree)
        elif posterior.best.source == "unexplained":
            words = "no preprocessing that was tried brings its samples near what the network remembers of its training"
            yield Alarm(kind="input", where=f"input {spec.name!r}", words=words, advice=SETTLE)


def _of_distance(moments: Sequence[MomentMatch]) -> Iterator[Alarm]:
    """Tell of calibration data that are far from the training data in most layers, and so is what follows from them."""
    far = [one for one in moments if one.distance > _FAR]
    if 2 * len(far) > len(moments):
        farthest = max(far, key=lambda one: one.distance)
        words = (
            f"the calibration data are far from the training data: in {len(far)} of {len(moments)} layers means and "
            f"deviations are not those that batch normalisation remembers (here the distance is "
            f"{farthest.distance:.3g}, where training data have 0.01 to 0.04)"
        )
        advice = "is the input prepared as in training? Give --mean and --std, or real samples with --calib"
        yield Alarm(kind="statistics", where=farthest.layer or farthest.node, words=words, advice=advice)


class _Movement:
    """How much one output moves over samples: sums over all that were observed."""

    def __init__(self, elements: int) -> None:
        self.count, self.squares = 0, 0.0
        self.low, self.high = math.inf, -math.inf
        self.sums = torch.zeros(elements, dtype=torch.float64)

    def observe(self, rows: Tensor) -> None:
        """Add float64 rows, (samples, elements)."""
        self.count += len(rows)
        self.sums += rows.sum(0).cpu()
        self.squares += float(rows.square().sum())
        self.low, self.high = min(self.low, float(rows.min())), max(self.high, float(rows.max()))

    @property
    def still(self) -> bool:
        """Whether the deviation over samples is next to nothing beside the numbers."""
        size = self.squares / (self.count * len(self.sums))
        return size - float((self.sums / self.count).square().mean()) <= _STILL**2 * size

    @property
    def stuck(self) -> bool:
        """Whether all numbers, which may be probabilities, are at the same end."""
        return self.low >= 0.0 and self.high <= 1.0 and (self.high < _QUIET or self.low > 1.0 - _QUIET)

    @property
    def range(self) -> str:
        """Lowest and highest number."""
        return f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Seen:
    """What the float network makes of samples: how outputs move, and by family the values far beyond their ranges."""

    outputs: Mapping[str, _Movement]
    beyond: Mapping[str, Sequence[str]]
    ranges: int


def _look(network: FloatNetwork, plan: QuantizationPlan, families: Mapping[str, Sequence[Batch]]) -> _Seen:
    ends, outputs, beyond = _range_ends(plan), dict[str, _Movement](), dict[str, list[str]]()
    for family, batches in families.items():
        left = dict.fromkeys(ends, 0.0)

        def measure(name: str, value: Tensor, left: dict[str, float] = left) -> None:
            if name in left and value.is_floating_point() and value.numel():
                left[name] = max(left[name], float((value.abs() > _BEYOND * ends[name]).double().mean()))

        def look(node: ir.Node, made: tuple[Tensor, ...], measure: Callable[[str, Tensor], None] = measure) -> None:
            for value, tensor in zip(node.outputs, made, strict=False):
                measure(str(value.name), tensor)

        for batch in batches:
            for name, value in batch.items():
                measure(name, value)
            with torch.inference_mode():
                found = network.teacher.run(batch, network.teacher.even_outputs, visit=look)
            count = len(next(iter(batch.values())))
            for name, value in found.items():
                if value.is_floating_point() and value.ndim and len(value) == count and value.numel():
                    rows = value.double().reshape(count, -1)
                    moved = outputs.setdefault(name, _Movement(rows.shape[1]))
                    if len(moved.sums) == rows.shape[1]:
                        moved.observe(rows)
        beyond[family] = [name for name, share in left.items() if share > _RARE]
    del beyond[_CALIBRATION]
    return _Seen(outputs=outputs, beyond=beyond, ranges=len(ends))


def _range_ends(plan: QuantizationPlan) -> dict[str, float]:
    """Largest magnitude that the quantizer of each value represents."""
    ends = {}
    for site in plan.activations:
        scale, form = plan.activation_scales[site.group], site.number_format
        codes = np.array([form.qmin, form.qmax], np.float64) - float(scale.zero_point)
        ends[site.value] = float(np.abs(codes * float(scale.scale)).max())
    return ends


def _of_outputs(seen: _Seen) -> Iterator[Alarm]:
    """Tell of outputs that are the same for every sample, and of probabilities that never leave one end."""
    for name, moved in seen.outputs.items():
        if moved.count < 2 or not math.isfinite(moved.squares) or not (moved.still or moved.stuck):
            continue
        words = f"is always {moved.range}" if moved.stuck else "hardly moves"
        words = f"it {words} on {moved.count} samples of all families, so that figures of it prove nothing"
        yield Alarm(kind="output", where=f"output {name!r}", words=words, advice=_CALIB)


def _of_ranges(seen: _Seen) -> Iterator[Alarm]:
    """Tell of a family whose values lie far outside of the ranges of many values."""
    if not seen.beyond or not seen.ranges:
        return
    worst = max(seen.beyond, key=lambda family: len(seen.beyond[family]))
    left = seen.beyond[worst]
    if len(left) > _SHARE * seen.ranges:
        words = (
            f"{worst} reach more than {_BEYOND:g} times as far as the range that calibration chose, there and in "
            f"{len(left)} of {seen.ranges} values in all: the file is good for the pictures it was calibrated on alone"
        )
        yield Alarm(kind="ranges", where=left[0], words=words, advice=f"{SETTLE.split(',')[0]}, or {_CALIB}")


def _take_few(network: FloatNetwork, inputs: Sequence[InputSpec]) -> list[Batch]:
    """Take a batch of the calibration samples of every population."""
    count = _LARGE if has_large_images(inputs) else _SMALL
    parts = [
        part.batches(min(4 * count, count_fitting_samples(network.model)))[:1] for part in network.calibration.parts()
    ]
    return [batch for part in parts for batch in part]


def _draw_families(inputs: Sequence[InputSpec], preprocessing: Mapping[str, Preprocessing]) -> dict[str, list[Batch]]:
    """Pictures of every family that calibration may have been without; nothing for other inputs."""
    if len(inputs) != 1 or not inputs[0].is_image or inputs[0].name not in preprocessing:
        return {}
    spec, rng = inputs[0], torch.Generator().manual_seed(_SEED)
    count = int(spec.shape[0] or (_LARGE if has_large_images(inputs) else _SMALL))
    made: dict[str, list[Batch]] = {}
    for family in FAMILIES:
        pixels = draw_family(family, *spec.pictures(count), rng)
        made[family] = [{spec.name: as_input(spec, preprocessing[spec.name].encode(pixels))}]
    return made
