"""Stage: make the calibration data, from real inputs of the user's, by synthesis, or from both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from backends.target import Target
from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.distillation import require_source
from zsq_compile.config.generators import PixelsConfig, PriorConfig
from zsq_compile.data.dataset import Dataset
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.layouts import can_be_left_out
from zsq_compile.data.posterior import Posterior
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
    first_image,
    synthesize_data,
    take_data,
)
from zsq_compile.stages.check_samples import expect_signals, warn_of_samples
from zsq_compile.stages.given_preprocessing import read_preprocessing
from zsq_compile.stages.like import Given, of_signals, read_examples, read_given, settle, tell
from zsq_compile.stages.provisional_student import make_provisional_student
from zsq_compile.stages.quantize import is_learned
from zsq_compile.synthesis.filters.examples import Examples
from zsq_compile.synthesis.generator import Generator
from zsq_compile.synthesis.make_generator import make_generator

ENOUGH = 32
"""Real samples that are better alone than among synthetic ones; see benchmarks/results/few_samples.md."""

_MOST_BYTES = 2_000_000_000  # of given pictures as network inputs, which are copied once


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
    """Make the generator that was asked for, or the one that suits the statistics; samples may go to others."""
    preprocessing, device = read_preprocessing(loaded, config.input, progress), choose_device(config.device)
    if preprocessing is None and examples is not None:
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
    examples = find_examples(loaded, known, config, progress)
    if given is not None:
        require_source(config.distill, "leave --calib out, whose samples stay as they are")
        data, real = read_given(given, loaded.path, loaded.inputs), read_preprocessing(loaded, config.input, progress)
        told = {} if examples is None else examples.posteriors
        if len(data) >= ENOUGH or not _can_be_mixed(loaded.inputs):
            return replace(_take(data, loaded, known, real, told, given, config, progress), examples=examples)
        posteriors = settle(data, loaded.inputs, TorchGraph(loaded.model), known, real, config.seed)
        examples = Examples(data=data, posteriors={**posteriors, **told})
        progress.note(f"{len(data)} real samples are few: synthetic ones and variants of them are put beside them")
    generator = choose_generator(loaded, known, target, config, progress, handed_on=False, examples=examples)
    teacher = TorchGraph(loaded.model, device=choose_device(config.device))
    count = config.samples or default_count(loaded.inputs, config.effort, learned=is_learned(config), examples=examples)
    made = synthesize_data(generator, teacher, known, loaded.inputs, count, config.seed)
    return made if examples is None else replace(made, examples=examples)


def find_examples(
    loaded: LoadedModel, known: KnownStatistics, config: CompileConfig, progress: Progress
) -> Examples | None:
    """Read what ``--like`` names, and let it tell the preprocessing; None where nothing is named.

    Raises:
        ConfigError: it is nothing that the network takes.

    """
    if not config.input.like:
        return None
    given = read_preprocessing(loaded, config.input, progress)
    return read_examples(
        config.input.like, loaded.path, loaded.inputs, TorchGraph(loaded.model), known, given, config.seed, progress
    )


def _take(
    data: Dataset,
    loaded: LoadedModel,
    known: KnownStatistics,
    preprocessing: Preprocessing | None,
    told: Mapping[str, Posterior],
    given: Given,
    config: CompileConfig,
    progress: Progress,
) -> CalibrationData:
    """Take many real samples as they are."""
    teacher, source = TorchGraph(loaded.model), _name_of(given)
    image, found = first_image(loaded.inputs), dict[str, Posterior]()
    if preprocessing is None and image is not None:
        if data.preparation is not None:
            found = {**settle(data, loaded.inputs, teacher, known, None, config.seed), **told}
            tell(found, len(data), progress)
            told = found
        preprocessing = told[image.name].best if image.name in told else None
    data = _thinned(data, progress)
    arrays = data.arrays(preprocessing)
    stacked = [replace(one, batch_axis=0) for one in loaded.inputs]  # as the reader has made them
    taken = take_data(arrays, teacher, known, stacked, preprocessing, config.seed, source=source)
    if data.preparation is None:  # what was prepared here has the scale that was asked for
        expected = {**expect_signals(teacher, known, loaded.inputs, config.seed), **taken.preprocessing}
        samples = {name: tensor.numpy() for name, tensor in taken.calibration.inputs.items()}
        warn_of_samples(samples, loaded.inputs, expected, source, progress)
        signals = [one for one in loaded.inputs if not (one.is_image or one.takes_stand_ins)]
        told = {one.name: Posterior.certain(of_signals(samples[one.name], one)) for one in signals}
        return replace(taken, posteriors={**told, **taken.posteriors})
    return replace(taken, posteriors={**taken.posteriors, **found})  # pictures alone do not prove it


def _thinned(data: Dataset, progress: Progress) -> Dataset:
    """Return as many of the pictures as fit into memory as floats, from all over their folder, and say so."""
    if data.preparation is None:
        return data
    most = max(_MOST_BYTES // (4 * math.prod(data.preparation.spec.batched(1))), ENOUGH)
    step = -(-len(data) // most)
    if step > 1:
        progress.note(f"one in {step} of {len(data)} pictures is calibrated on: all of them take too much memory")
    return data.every(step)


def _name_of(given: Given) -> str:
    """Say what messages call the samples: the file or folder that they come from, if it is one."""
    places = [] if isinstance(given, Mapping) else [given] if isinstance(given, Path) else list(given)
    return places[0].name if len(places) == 1 else "calibration data"


def _can_be_mixed(inputs: Sequence[InputSpec]) -> bool:
    """Whether synthetic samples stand beside real ones: pictures and signals do, tokens and the like do not."""
    return all(can_be_left_out(spec) or not spec.takes_stand_ins for spec in inputs)


def _of_image(examples: Examples) -> Preprocessing | None:
    """Preprocessing of the image input, if the examples tell of it."""
    found = (posterior.best for posterior in examples.posteriors.values())
    return next((one for one in found if one.layout is not None), None)
