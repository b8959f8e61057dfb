"""Where calibration data comes from: the user's own, or synthesis; and which part of it is held out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.config.compile import Effort, GeneratorConfig
from zsq_compile.config.conditional_generators import ConditionalConfig
from zsq_compile.data.batch_axes import stack_given
from zsq_compile.data.hypotheses import JointHypothesis, plausible_together
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.posterior import Posterior, best_of
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.quantization.samples import Samples, count_turns
from zsq_compile.stages.given_samples import fit_samples
from zsq_compile.synthesis.filters.examples import ADDED, Examples
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.preprocessing.find import infer_on_images
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES

_HELD_OUT = 4  # one sample in so many judges the result and takes no part in making it
_SMALL_IMAGE = 64 * 64
_COUNTS = {"fast": (128, 32), "balanced": (256, 64), "best": (1024, 128)}  # of small and of large images
_LEARNED_COUNTS = {"fast": (256, 64), "balanced": (1024, 128), "best": (2048, 256)}  # few are learned by heart
_CONFIDENT = 0.125  # of what other quantizers are given
_ANSWERING = 0.375  # of the samples; see benchmarks/results/answering.md
_LABELS = "labels"
CONTRAST = 1.5
"""How many times farther from the middle a fitted preprocessing may let pixels lie than those of our pictures: contrast
differs from data set to data set, and the fit takes it for a scale. See benchmarks/results/preprocessing.md."""

_STRETCHED = 8  # one picture in so many shows it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CalibrationData:
    """Samples of the network's inputs, and what is known of them.

    Attributes:
        calibration: what the quantizer learns from.
        held_out: what it is judged on.
        description: where they come from, in words.
        known: statistics of the training data, which they were made after or can be compared with.
        posteriors: what may be the preprocessing, by name of image inputs, and of others whose scale is known; of the
            first image only, where the user gave the data.
        synthetic: the whole synthesized set; None when the user gave the data.
        examples: real inputs that half of it is made from, if there are any.

    """

    calibration: Samples
    held_out: Samples
    description: str
    known: KnownStatistics
    posteriors: Mapping[str, Posterior]
    synthetic: SyntheticSet | None
    examples: Examples | None = None

    @property
    def preprocessing(self) -> Mapping[str, Preprocessing]:
        """The most probable preprocessing of every input that has one."""
        return best_of(self.posteriors)

    @property
    def plausible(self) -> tuple[JointHypothesis, ...]:
        """What ``Samples.populations`` numbers: the plausible preprocessings of all inputs together."""
        return plausible_together(self.posteriors)

    @property
    def origin(self) -> str:
        """Name what a file was calibrated with: samples that were given, or the origin of its statistics."""
        return "calibrated on given samples" if self.synthetic is None else self.known.origin

    @property
    def image_preprocessing(self) -> Preprocessing | None:
        """Preprocessing of the first image input; None where there is none."""
        return next((one for one in self.preprocessing.values() if one.layout is not None), None)

    def plain_preprocessing(self) -> dict[str, Any] | None:
        """Return that of the first image input as plain values, or of the first signal where there is none.

        The name of a signal stands under ``input``, and a probability below 1 under ``probability``.
        """
        chosen = sorted(self.posteriors.items(), key=lambda item: item[1].best.layout is None)[:1]
        for name, posterior in chosen:
            best, likely = posterior.best, posterior.scales[0].probability
            plain = best.to_json() if best.layout is not None else {**best.to_json(), "input": name}
            return plain if likely >= 1.0 else {**plain, "probability": round(likely, 3)}
        return None


def first_image(inputs: Sequence[InputSpec]) -> InputSpec | None:
    """Return the first image input; None where there is none."""
    return next((spec for spec in inputs if spec.is_image), None)


def has_large_images(inputs: Sequence[InputSpec]) -> bool:
    """Whether the first image input has more pixels than 64 x 64."""
    image = first_image(inputs)
    return image is not None and image.height * image.width > _SMALL_IMAGE


def default_count(
    inputs: Sequence[InputSpec], effort: Effort, *, learned: bool, examples: Examples | None = None
) -> int:
    """Calibration samples to make where the user asked for no number; ``learned`` is what they are used for.

    Those that are made from ``examples`` come on top.
    """
    small, large = (_LEARNED_COUNTS if learned else _COUNTS)[effort]
    count = large if has_large_images(inputs) else small
    return count if examples is None else round(count * (1.0 + ADDED))


def count_in_batches(count: int, fixed: int | None, *, hold_out: bool) -> int:
    """Count the samples to be made: whole batches of a fixed size, and a quarter as many to be held out."""
    batches = -(-count // (fixed or 1))
    return (batches + (max(batches // _HELD_OUT, 1) if hold_out else 0)) * (fixed or 1)


def synthesize_data(
    generator: Generator,
    teacher: TorchGraph,
    known: KnownStatistics,
    inputs: Sequence[InputSpec],
    count: int,
    seed: int,
) -> CalibrationData:
    """Synthesize ``count`` calibration samples, and a quarter as many to be held out."""
    total = count_in_batches(count, fixed_batch(inputs), hold_out=True)
    made = generator.synthesize(teacher, known.statistics, total, torch.Generator().manual_seed(seed))
    # a run takes the first sample's for all
    whole = {spec.name for spec in inputs if spec.batch_axis is None}
    shared = {name: x[:1].expand_as(x).clone() if name in whole else x for name, x in made.inputs.items()}
    made = replace(made, inputs=shared) if whole else made
    parts = hold_out(made.inputs, fixed_batch(inputs), made.hypotheses)
    probabilities = () if made.hypotheses is None else tuple(one.probability for one in made.plausible)
    calibration, held_out = (replace(part, probabilities=probabilities) for part in parts)
    calibration = _stretched(calibration, made.plausible)
    held = len(next(iter(held_out.inputs.values())))
    return CalibrationData(
        calibration=calibration,
        held_out=held_out,
        description=f"{total - held} synthetic samples ({made.algorithm}), {held} more held out",
        known=known,
        posteriors=made.posteriors,
        synthetic=made,
    )


def _stretched(samples: Samples, plausible: Sequence[JointHypothesis]) -> Samples:
    """Stretch the contrast of some pictures whose preprocessing was fitted: ranges are to reach as far as real ones."""
    stretched = {name: value.clone() for name, value in samples.inputs.items()}
    for number, hypothesis in enumerate(plausible):
        own = torch.arange(samples.count)
        own = own if samples.populations is None else own[samples.populations == number]
        chosen = own[::_STRETCHED]
        for name, one in hypothesis.preprocessing.items():
            if one.name == "fitted" and one.layout is not None:
                pixels = one.decode(samples.inputs[name][chosen])
                stretched[name][chosen] = one.encode(0.5 + CONTRAST * (pixels - 0.5))
    return replace(samples, inputs=stretched)


def confident_share(given: float | None, *, compiling: bool) -> float:
    """Share of the samples to move until a classifier is certain of them; 0 while compiling: outputs stay float."""
    if given is not None:
        return given
    return 0.0 if compiling else _CONFIDENT


def answering_share(given: float | None) -> float:
    """Share of the samples to move until silent heads answer; what is ``given`` for classifiers holds for all."""
    return _ANSWERING if given is None else given


def require_keepable(inputs: Sequence[InputSpec], generator: GeneratorConfig | None) -> None:
    """Refuse before the work what ``sample_arrays`` would refuse behind it.

    Raises:
        ConfigError: the generator knows the classes of its samples, and an input has the name that they are kept under.

    """
    if isinstance(generator, ConditionalConfig):
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


def take_data(
    arrays: Mapping[str, NDArray[Any]],
    teacher: TorchGraph,
    known: KnownStatistics,
    inputs: Sequence[InputSpec],
    preprocessing: Preprocessing | None,
    seed: int,
    *,
    source: str = "calibration data",
) -> CalibrationData:
    """Take the user's own samples, network inputs by name, as they are; ``source`` is what errors call them.

    ``preprocessing`` None infers that of the first image input, in case that labelled images are to be read for it.

    Raises:
        ConfigError: an input is missing, or an array does not fit it.

    """
    stacked = stack_given(arrays, inputs, source)
    fitting = {spec.name: fit_samples(stacked[spec.name], spec, teacher.model, source) for spec in inputs}
    tensors = {name: torch.from_numpy(array) for name, array in fitting.items()}
    counts = {len(tensor) for tensor in tensors.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise ConfigError(f"{source} needs the same number of samples, at least 2, for every input, got {counts}")
    fixed, image = fixed_batch(inputs), first_image(inputs)
    if fixed and min(counts) < 2 * fixed:
        raise ConfigError(
            f"the model takes {fixed} samples at a time: {source} needs at least {2 * fixed}, half of them to "
            f"judge the result, got {min(counts)}"
        )
    if preprocessing is None and image is not None:
        rng, few = torch.Generator().manual_seed(seed), image.shape[0] or TRIAL_IMAGES
        others = {name: tensor[:few] for name, tensor in tensors.items() if name != image.name}
        preprocessing = infer_on_images(teacher, known.statistics, image, rng, others)
    calibration, held_out = hold_out(tensors, fixed)
    held = len(next(iter(held_out.inputs.values())))
    return CalibrationData(
        calibration=calibration,
        held_out=held_out,
        description=f"{min(counts) - held} samples given by the user, {held} more held out",
        known=known,
        posteriors={} if image is None or preprocessing is None else {image.name: Posterior.certain(preprocessing)},
        synthetic=None,
    )


def hold_out(
    samples: Mapping[str, Tensor], fixed: int | None, hypotheses: Tensor | None = None
) -> tuple[Samples, Samples]:
    """Hold out every fifth batch, so that both parts come from all that a generator worked on.

    Where samples are encoded under several ``hypotheses``, int64 (count,), every fifth batch of each.
    """
    count = min(len(tensor) for tensor in samples.values()) // (fixed or 1) * (fixed or 1)
    numbers = torch.zeros(count, dtype=torch.int64) if hypotheses is None else hypotheses[:count]
    turns, held = count_turns(count, fixed, numbers), torch.zeros(count, dtype=torch.bool)
    for number in set(numbers.tolist()):
        own = numbers == number
        period = min(_HELD_OUT + 1, int(turns[own].max()) + 1)
        held |= own & (turns % (_HELD_OUT + 1) == period - 1)
    kept, apart = (
        Samples(
            inputs={name: x[:count][part] for name, x in samples.items()},
            fixed=fixed,
            populations=None if hypotheses is None else numbers[part],
        )
        for part in (~held, held)
    )
    return kept, apart
