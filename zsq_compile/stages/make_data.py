"""Stage: make the calibration data, from real inputs of the user's, by synthesis, or from both."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from backends.target import Target
from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.distillation import require_source
from zsq_compile.config.generators import PixelsConfig, PriorConfig
from zsq_compile.data.dataset import Dataset
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.layouts import can_be_left_out
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.device import choose_device
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress
from zsq_compile.stages.calibration_data import (
    CalibrationData,
    answering_share,
    confident_share,
    default_count,
    synthesize_data,
    take_data,
)
from zsq_compile.stages.check_samples import expect_signals, warn_of_samples
from zsq_compile.stages.given_preprocessing import read_preprocessing
from zsq_compile.stages.like import Given, read_examples, read_given, settle
from zsq_compile.stages.provisional_student import make_provisional_student
from zsq_compile.stages.quantize import is_learned
from zsq_compile.synthesis.filters.examples import Examples
from zsq_compile.synthesis.generator import Generator
from zsq_compile.synthesis.make_generator import make_generator

ENOUGH = 32
"""Real samples that are better alone than among synthetic ones; see benchmarks/results/few_samples.md."""


def choose_generator(
    loaded: LoadedModel,
    known: KnownStatistics,
    target: Target,
    config: CompileConfig,
    progress: Progress,
    *,
    handed_on: bool,
    examples: Examples | None = None,
) -> Generator:
    """Make the generator that was asked for, or the one that suits the statistics; samples may go to others.

    ``examples`` None reads those that ``--like`` names, and the preprocessing that was given with them.
    """
    device, preprocessing = choose_device(config.device), None
    if examples is None:
        preprocessing = read_preprocessing(loaded, config.input, progress)
        teacher, like = TorchGraph(loaded.model), config.input.like
        examples = read_examples(like, loaded.path, loaded.inputs, teacher, known, preprocessing, config.seed, progress)
    if preprocessing is None and examples is not None:  # which had the given one before them
        preprocessing = _of_image(examples)
    student = partial(
        make_provisional_student,
        loaded,
        known.statistics,
        target,
        config.quantization,
        config.seed,
        device,
        preprocessing,
    )
    return make_generator(
        config.generator or (PixelsConfig() if known.statistics.usable else PriorConfig()),
        loaded.inputs,
        preprocessing,
        progress,
        effort=config.effort,
        low_pass=config.low_pass,
        confident_share=confident_share(config.confident_share, compiling=not handed_on),
        answering_share=answering_share(config.confident_share),
        widest_first=handed_on,
        student=student,
        examples=examples,
    )


def make_data(
    loaded: LoadedModel,
    known: KnownStatistics,
    target: Target,
    config: CompileConfig,
    given: Given | None,
    progress: Progress,
) -> CalibrationData:
    """Take the calibration data that the user gave, synthesize some, or both where those given are few."""
    count = config.samples or default_count(loaded.inputs, config.effort, learned=is_learned(config))
    examples = None
    if given is not None:
        require_source(config.distill, "leave --calib out, whose samples stay as they are")
        data = read_given(given, loaded.path, loaded.inputs)
        real = read_preprocessing(loaded, config.input, progress)
        if len(data) >= ENOUGH or not _can_be_mixed(loaded.inputs):
            return _take(data, loaded, known, real, given, config, progress)
        posteriors = settle(data, loaded.inputs, TorchGraph(loaded.model), known, real, config.seed)
        examples = Examples(data=data, posteriors=posteriors)
        progress.note(f"{len(data)} real samples are few: variants of them and synthetic ones are put beside them")
    generator = choose_generator(loaded, known, target, config, progress, handed_on=False, examples=examples)
    teacher = TorchGraph(loaded.model, device=choose_device(config.device))
    made = synthesize_data(generator, teacher, known, loaded.inputs, count, config.seed)
    if examples is None:
        return made
    return replace(made, description=f"{len(examples.data)} samples given by the user, in {made.description}")


def _take(
    data: Dataset,
    loaded: LoadedModel,
    known: KnownStatistics,
    preprocessing: Preprocessing | None,
    given: Given,
    config: CompileConfig,
    progress: Progress,
) -> CalibrationData:
    """Take many real samples as they are."""
    teacher, source = TorchGraph(loaded.model), "calibration data"
    if not isinstance(given, dict) and hasattr(given, "name"):
        source = str(given.name)
    if data.preparation is not None:
        posteriors = settle(data, loaded.inputs, teacher, known, preprocessing, config.seed)
        preprocessing = posteriors[data.preparation.spec.name].best
    arrays = data.arrays(preprocessing)
    taken = take_data(arrays, teacher, known, loaded.inputs, preprocessing, config.seed, source=source)
    if data.preparation is None:  # what was prepared here has the scale that was asked for
        expected = {**expect_signals(teacher, known, loaded.inputs, config.seed), **taken.preprocessing}
        samples = {name: tensor.numpy() for name, tensor in taken.calibration.inputs.items()}
        warn_of_samples(samples, loaded.inputs, expected, source, progress)
    return taken


def _can_be_mixed(inputs: Sequence[InputSpec]) -> bool:
    """Whether synthetic samples stand beside real ones: pictures and signals do, tokens and the like do not."""
    return all(can_be_left_out(spec) or not spec.takes_stand_ins for spec in inputs)


def _of_image(examples: Examples) -> Preprocessing | None:
    """Preprocessing of the image input, if the examples tell of it."""
    found = (posterior.best for posterior in examples.posteriors.values())
    return next((one for one in found if one.layout is not None), None)
