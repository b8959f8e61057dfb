"""Put a few real inputs, and variants of them, beside synthesized samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.dataset import Dataset
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.layouts import can_be_left_out
from zsq_compile.data.pictures import Pixels
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.data.sounds import takes_sound
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import Generator, SyntheticSet, deal_hypotheses
from zsq_compile.synthesis.images.procedural import as_input
from zsq_compile.synthesis.images.variants import vary_pictures, vary_signals

ADDED = 1.0
"""Samples made from examples for each synthetic one: they come on top, where nobody asked for a number of samples. See
benchmarks/results/few_samples.md."""

_BEYOND = 0.02  # of the range of pixels that decoded numbers may lie outside of it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """A few real inputs.

    Attributes:
        data: pictures, or network inputs; not of every input.
        posteriors: what they have told of the preprocessing, by input.

    """

    data: Dataset
    posteriors: Mapping[str, Posterior]

    def show(self, inputs: Sequence[InputSpec]) -> bool:
        """Whether they show what every input takes, those aside that samples may leave out."""
        return all(spec.name in self.data.samples or can_be_left_out(spec) for spec in inputs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExamplesGenerator:
    """Another generator's set, and evenly among it feeds that are made from examples.

    Of every sample of the other generator there is one made from an example.

    Attributes:
        inner: makes the set.
        inputs: of the network.
        examples: inputs that they do not have take what was synthesized, in turn.

    """

    inner: Generator
    inputs: Sequence[InputSpec]
    examples: Examples

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        feed, apart = fixed_batch(self.inputs) or 1, apart_from(rng)
        chosen = choose_evenly(count, ADDED / (1.0 + ADDED), feed)
        made = self.inner.synthesize(teacher, statistics, int((~chosen).sum()), rng)
        varied = int(chosen.sum())
        if not varied:
            return made
        added = SyntheticSet(
            inputs={name: values[torch.arange(varied) % len(values)] for name, values in made.inputs.items()},
            algorithm=made.algorithm,
            seed=made.seed,
            loss_curve=(),
            posteriors=made.posteriors,
            hypotheses=deal_hypotheses(made.posteriors, varied, feed),
        ).with_each(lambda part: self._vary(part, apart))
        inputs = {name: _woven(values, added.inputs[name], chosen) for name, values in made.inputs.items()}
        hypotheses = added.hypotheses
        if made.hypotheses is not None and hypotheses is not None:
            hypotheses = _woven(made.hypotheses, hypotheses, chosen)
        words = f"{made.algorithm}, and {varied} made from {len(self.examples.data)} real inputs"
        return replace(made, inputs=inputs, hypotheses=hypotheses, algorithm=words, labels=None)

    def _vary(self, part: SyntheticSet, rng: torch.Generator) -> SyntheticSet:
        count = len(next(iter(part.inputs.values())))
        varied = vary_examples(self.examples.data, self.inputs, part.preprocessing, count, rng)
        return replace(part, inputs={**part.inputs, **varied})


def _woven(made: Tensor, varied: Tensor, chosen: Tensor) -> Tensor:
    """Put samples where they are ``chosen``, and those that were made at the other places, in order."""
    woven = made.new_empty(len(chosen), *made.shape[1:])
    woven[~chosen], woven[chosen] = made, varied.to(made.dtype)
    return woven


def apart_from(rng: torch.Generator) -> torch.Generator:
    """Randomness of another stream, which follows from the same seed."""
    return torch.Generator().manual_seed((rng.initial_seed() + 104_729) % (1 << 63))


def choose_evenly(count: int, share: float, feed: int) -> Tensor:
    """(count,) truth values: a share of whole feeds, spread evenly."""
    places = torch.arange(count) // feed
    return ((places + 1) * share).floor() > (places * share).floor()


def vary_examples(
    data: Dataset,
    inputs: Sequence[InputSpec],
    preprocessing: Mapping[str, Preprocessing],
    count: int,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Make network inputs from real ones, (count, ...) by name: these themselves first, and then variants in turn.

    Of more than ``count`` the first are read, and no others.
    """
    specs, prepared = {spec.name: spec for spec in inputs}, data.preparation
    pictured = None if prepared is None else prepared.spec.name
    varied: dict[str, Tensor] = {}
    for name, rows in data.samples.items():
        spec, one = specs[name], preprocessing.get(name)
        if name == pictured and one is not None:
            varied[name] = as_input(spec, one.encode(vary_pictures(data.first(count).pictures(), spec, count, rng)))
        else:
            varied[name] = as_input(spec, _vary_inputs(np.asarray(rows), spec, one, count, rng))
    return varied


def _vary_inputs(
    samples: NDArray[Any], spec: InputSpec, preprocessing: Preprocessing | None, count: int, rng: torch.Generator
) -> Tensor:
    """Vary what is network input already: pictures as pictures, signals as signals, and nothing else."""
    whole = torch.from_numpy(samples[:count])
    pixels = as_pixels(samples, preprocessing) if spec.is_image and preprocessing is not None else None
    if pixels is not None and preprocessing is not None:
        varied: Tensor = preprocessing.encode(vary_pictures(pixels, spec, count, rng))
        return torch.cat([whole.to(varied.dtype), varied[len(whole) :]])
    if not spec.takes_stand_ins:
        return vary_signals(samples, count, rng, shifted=takes_sound(spec))
    return torch.from_numpy(samples)[torch.arange(count) % len(samples)]


def as_pixels(values: NDArray[Any], preprocessing: Preprocessing) -> list[Pixels] | None:
    """Decode network inputs (N, ...) to pictures; None where they are none under this preprocessing."""
    pixels = preprocessing.decode(values)
    if pixels.min() < -_BEYOND or pixels.max() > 1.0 + _BEYOND:
        return None
    return list(np.rint(255.0 * pixels.clip(0.0, 1.0)).astype(np.uint8).transpose(0, 2, 3, 1))
