"""Where calibration data comes from: the user's own, or synthesis; and which part of it is held out."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import CompileConfig, PixelsConfig, PriorConfig
from zsq_compile.config.conditional_generators import ConditionalConfig
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Progress
from zsq_compile.quantization.reconstruction.samples import Samples
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.make_generator import make_generator
from zsq_compile.synthesis.preprocessing.find import infer_on_images
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES

_HELD_OUT = 4  # one sample in so many judges the result and takes no part in making it
_SMALL_IMAGE = 64 * 64
_COUNTS = {"fast": (128, 32), "balanced": (256, 64), "best": (1024, 128)}  # of small and of large images
_LEARNED_COUNTS = {"fast": (256, 64), "balanced": (1024, 128), "best": (2048, 256)}  # few are learned by heart
_BATCH = 32
_CONFIDENT = 0.125  # of what other quantizers are given
_LABELS = "labels"
_JOINED_BYTES = 256_000_000  # for the values of the graph that are counted; a few more live at the same time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CalibrationData:
    """Inputs of the network, (count, ...) by name.

    Attributes:
        calibration: what the quantizer learns from.
        held_out: what it is judged on.
        description: where they come from, in words.
        contract: of the first image input; None when there is no image input.
        synthetic: the whole synthesized set; None when the user gave the data.

    """

    calibration: Mapping[str, Tensor]
    held_out: Mapping[str, Tensor]
    description: str
    contract: Preprocessing | None
    synthetic: SyntheticSet | None

    def batches(self, inputs: Sequence[InputSpec], *, largest: int = _BATCH) -> list[dict[str, Tensor]]:
        """Cut the calibration part into feeds: of the model's fixed batch size, or of at most ``largest`` samples."""
        return feeds(self.calibration, inputs, largest=largest)

    def for_learning(self, inputs: Sequence[InputSpec]) -> Samples:
        """Give the calibration part to whoever draws from it at random."""
        fixed = fixed_batch(inputs)
        return Samples(inputs=self.calibration, feed=fixed or _BATCH, fixed=fixed is not None)

    def joined(self, inputs: Sequence[InputSpec], model: ir.Model) -> list[dict[str, Tensor]]:
        """As many calibration samples as fit a model in one feed, or all of them in feeds of a fixed batch size."""
        fitting = max(_JOINED_BYTES // max(value_bytes(model)), 1)
        batches = self.batches(inputs, largest=fitting)
        return batches if fixed_batch(inputs) else batches[:1]

    def judging(self, inputs: Sequence[InputSpec], model: ir.Model) -> list[dict[str, Tensor]]:
        """At most 32 samples held out, fewer of a large network: one feed, or several of a fixed batch size."""
        fitting, fixed = max(min(_JOINED_BYTES // sum(value_bytes(model)), _BATCH), 1), fixed_batch(inputs)
        return feeds(self.held_out, inputs, largest=fitting)[: max(fitting // fixed, 1) if fixed else 1]


def feeds(
    samples: Mapping[str, Tensor], inputs: Sequence[InputSpec], *, largest: int = _BATCH
) -> list[dict[str, Tensor]]:
    """Cut samples into feeds; a rest that does not fill a fixed batch is left out."""
    fixed = fixed_batch(inputs)
    size, count = fixed or largest, min(len(tensor) for tensor in samples.values())
    stop = count - count % size if fixed else count
    return [{name: tensor[i : i + size] for name, tensor in samples.items()} for i in range(0, stop, size)]


def value_bytes(model: ir.Model) -> list[int]:
    """Bytes that each value of the graph takes for one sample."""
    shapes = (value.shape for node in model.graph for value in node.outputs if value.shape is not None)
    return [4 * math.prod(size for size in shape[1:] if isinstance(size, int)) for shape in shapes] or [4]


def _first_image(inputs: Sequence[InputSpec]) -> InputSpec | None:
    return next((spec for spec in inputs if spec.is_image), None)


def _given_contract(inputs: Sequence[InputSpec], config: CompileConfig) -> Preprocessing | None:
    """Contract that the user gave for the image inputs; None when it is to be inferred."""
    spec, given = _first_image(inputs), config.input
    if spec is None or (given.mean is None and given.input_range is None):
        return None
    try:
        return given_preprocessing(int(spec.shape[1] or 1), given.mean, given.std, given.input_range)
    except ValueError as error:
        raise ConfigError(f"--mean and --std do not fit the input {spec.name!r}: {error}") from error


def synthetic_data(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    inputs: Sequence[InputSpec],
    config: CompileConfig,
    progress: Progress,
    *,
    hold_out: bool = True,
    student: Callable[[Preprocessing | None], TorchGraph] | None = None,
) -> CalibrationData:
    """Synthesize calibration samples, and a quarter as many to be held out.

    ``student`` makes a quantized network for a generator that learns against one, from the input contract that the
    user gave, if any; on the device of the teacher.

    Raises:
        SynthesisError: an input cannot be synthesized.

    """
    contract = _given_contract(inputs, config)
    chosen = config.generator or (PixelsConfig() if statistics.usable else PriorConfig())
    count = config.samples or _default_count(inputs, config)
    total = count + (max(count // _HELD_OUT, 1) if hold_out else 0)
    fixed = fixed_batch(inputs)
    if fixed:  # whole feeds to learn from, and whole feeds that are held out
        learned = -(-count // fixed)
        total = (learned + (max(learned // _HELD_OUT, 1) if hold_out else 0)) * fixed
    generator = make_generator(
        chosen,
        inputs,
        contract,
        progress,
        effort=config.effort,
        low_pass=config.low_pass,
        confident_share=confident_share(config, compiling=hold_out),
        handed_on=not hold_out,
        student=None if student is None else partial(student, contract),
    )
    made = generator.synthesize(teacher, statistics, total, torch.Generator().manual_seed(config.seed))
    calibration, held_out = set_apart(made.inputs, fixed or 1) if hold_out else (made.inputs, {})
    held = len(next(iter(held_out.values()), ()))
    return CalibrationData(
        calibration=calibration,
        held_out=held_out,
        description=f"{total - held} synthetic samples ({made.algorithm}), {held} more held out",
        contract=next(iter(made.contracts.values()), None),
        synthetic=made,
    )


def confident_share(config: CompileConfig, *, compiling: bool) -> float:
    """Share of the samples that a classifier is made sure of; none while compiling, which leaves outputs in float."""
    if config.confident_share is not None:
        return config.confident_share
    return 0.0 if compiling else _CONFIDENT


def require_keepable(inputs: Sequence[InputSpec], config: CompileConfig) -> None:
    """Refuse before the work what ``sample_arrays`` would refuse behind it.

    Raises:
        ConfigError: the generator knows the classes of its samples, and an input has the name that they are kept under.

    """
    if isinstance(config.generator, ConditionalConfig):
        _require_free(spec.name for spec in inputs)


def sample_arrays(inputs: Mapping[str, Tensor], labels: Tensor | None) -> dict[str, NDArray[Any]]:
    """Arrays of samples by the name of their input, and under ``labels`` the class that each was to show, if any.

    Whoever reads network inputs by their names does not see the labels.

    Raises:
        ConfigError: an input of the network has that name.

    """
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    if labels is None:
        return arrays
    _require_free(arrays)
    return {**arrays, _LABELS: labels.numpy()}


def _require_free(names: Iterable[str]) -> None:
    if _LABELS in names:
        raise ConfigError(
            f"the classes of the samples are written under the name {_LABELS!r}, which is that of an input of the "
            "network: rename the input, or choose another --generator"
        )


def given_data(
    arrays: Mapping[str, NDArray[Any]],
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    inputs: Sequence[InputSpec],
    config: CompileConfig,
) -> CalibrationData:
    """Take the user's own samples, network inputs by name, as they are.

    Raises:
        ConfigError: an input is missing, or an array does not fit it.

    """
    tensors = {spec.name: torch.from_numpy(_fitting(arrays, spec)) for spec in inputs}
    counts = {len(tensor) for tensor in tensors.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise ConfigError(
            f"calibration data needs the same number of samples, at least 2, for every input, got {counts}"
        )
    fixed = fixed_batch(inputs)
    if fixed and min(counts) < 2 * fixed:
        raise ConfigError(
            f"the model takes {fixed} samples at a time: calibration data needs at least {2 * fixed}, half of them to "
            f"judge the result, got {min(counts)}"
        )
    calibration, held_out = set_apart(tensors, fixed or 1)
    held = len(next(iter(held_out.values())))
    return CalibrationData(
        calibration=calibration,
        held_out=held_out,
        description=f"{min(counts) - held} samples given by the user, {held} more held out",
        contract=_given_contract(inputs, config) or _inferred_contract(teacher, statistics, tensors, inputs, config),
        synthetic=None,
    )


def _inferred_contract(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    samples: Mapping[str, Tensor],
    inputs: Sequence[InputSpec],
    config: CompileConfig,
) -> Preprocessing | None:
    """Contract of the first image input, in case that labelled pictures are to be read for it."""
    spec = _first_image(inputs)
    if spec is None:
        return None
    rng = torch.Generator().manual_seed(config.seed)
    others = {name: tensor[: spec.shape[0] or TRIAL_IMAGES] for name, tensor in samples.items() if name != spec.name}
    return infer_on_images(teacher, statistics, spec, rng, others)


def _default_count(inputs: Sequence[InputSpec], config: CompileConfig) -> int:
    image = _first_image(inputs)
    is_small = image is None or int(image.shape[2] or 1) * int(image.shape[3] or 1) <= _SMALL_IMAGE
    narrow = config.mixed or min(config.quantization.bits, config.quantization.act_bits) < 8
    learned = config.distill is not None or (config.learned_rounding is not None and narrow)
    small, large = (_LEARNED_COUNTS if learned else _COUNTS)[config.effort]
    return small if is_small else large


def set_apart(samples: Mapping[str, Tensor], feed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Hold out every fifth feed, so that both parts come from all that a generator worked on."""
    period = _HELD_OUT + 1
    count = min(len(tensor) for tensor in samples.values()) // feed * feed
    held = torch.arange(count) // feed % period == min(period, count // feed) - 1
    return {name: t[:count][~held] for name, t in samples.items()}, {
        name: t[:count][held] for name, t in samples.items()
    }


def _fitting(arrays: Mapping[str, NDArray[Any]], spec: InputSpec) -> NDArray[Any]:
    if spec.name not in arrays:
        raise ConfigError(
            f"calibration data has no array for the input {spec.name!r}, only {', '.join(arrays) or 'none'}"
        )
    array = np.asarray(arrays[spec.name])
    if array.shape[1:] != spec.shape[1:]:
        raise ConfigError(f"calibration data for {spec.name!r} must be (samples, *{spec.shape[1:]}), got {array.shape}")
    return np.ascontiguousarray(array, dtype=spec.dtype)
