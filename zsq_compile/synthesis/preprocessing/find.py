"""Preprocessing of the image inputs that data are synthesized for: given, or inferred on procedural images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.procedural import draw_feed
from zsq_compile.synthesis.preprocessing.answers import refine_by_answers
from zsq_compile.synthesis.preprocessing.contradict_signal import contradict_signal
from zsq_compile.synthesis.preprocessing.infer_scale import infer_scale
from zsq_compile.synthesis.preprocessing.infer_signal import FIT_WORK, DrawSignals, infer_signal
from zsq_compile.synthesis.preprocessing.plan_scan import SCAN_WORK
from zsq_compile.synthesis.preprocessing.rank import find_contradiction, rank_candidates
from zsq_compile.synthesis.preprocessing.trial_families import drawing, other_families
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, TrialNetwork
from zsq_compile.synthesis.signals.draw import signals
from zsq_compile.synthesis.stand_ins import warn_of_stand_ins

_LINE = 2.5  # width over height of lines of text, which nobody mirrors


def find_preprocessing(
    inputs: Sequence[InputSpec],
    given: Preprocessing | None,
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    progress: Progress,
    known: Mapping[str, Posterior] = MappingProxyType({}),
) -> dict[str, Posterior]:
    """Find what may be the preprocessing, by input: the given one of images where it fits, else inferred ones.

    An input that takes no images is left out where nothing tells its scale: it gets noise of deviation 1. What real
    examples have told of an input is ``known``, and is not looked for again.
    """
    found: dict[str, Posterior] = {}
    warn_of_stand_ins(inputs, progress)
    signal = next((spec for spec in inputs if given is not None and given.layout is None and given.fits(spec)), None)
    if given is not None and signal is not None:
        known = {**known, signal.name: Posterior.certain(given)}
        trials = _apart(rng)
        network = _trial_network(teacher, signal, _for_trials(inputs, signal, rng), trials)
        _warn(given, contradict_signal(network, statistics, _drawing(trials), given), signal, progress)
    for spec in (one for one in inputs if one.is_image and one.name not in known):
        if given is not None and given.fits(spec):
            own = replace(given, layout=spec.layout)
            found[spec.name] = Posterior.certain(own)
            _warn_of_contradiction(own, spec, inputs, teacher, statistics, rng, progress)
            continue
        size = int(spec.shape[0] or TRIAL_IMAGES)
        others = {other.name: draw_feed(other, size, rng) for other in inputs if other.name != spec.name}
        found[spec.name] = rank_on_images(teacher, statistics, spec, rng, others)
        _tell(spec, found[spec.name], progress)
    return found | _find_signals(inputs, teacher, statistics, rng, progress, known) | dict(known)


def _tell(spec: InputSpec, posterior: Posterior, progress: Progress) -> None:
    """Say what an input is taken to expect, and what else it may; warn where that is open."""
    text = f"input {spec.name!r}: {posterior.best.describe()}"
    if not posterior.is_open and posterior.best.is_certain:
        progress.note(text)
        return
    _, *others = posterior.plausible
    if others:
        listed = ", ".join(f"{one.preprocessing.words()} ({one.probability:.0%})" for one in others)
        text = f"{text}; it may be {listed} as well"
    progress.warn(
        f"{text}; if you know it, give --mean and --std, or --input-range, or a real picture with --like FILE"
    )


def rank_on_examples(
    examples: NDArray[np.uint8],
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    count: int,
) -> Posterior:
    """Rank what an image input may expect on views (N, C, H, W) of ``count`` real pictures, the whole ones first."""
    network = _trial_network(teacher, spec, _for_trials(inputs, spec, rng), _apart(rng))
    posterior = _shown(rank_candidates(network, statistics, examples), count)
    if len(posterior.hypotheses) == 1:
        return posterior
    whole = examples[:count][:TRIAL_IMAGES].astype(np.float32) / np.float32(255.0)
    line = spec.width > _LINE * spec.height
    real = np.concatenate([whole, whole if line else whole[..., ::-1]])[:TRIAL_IMAGES]
    drawn = network.draw()
    size = spec.shape[0] or 1
    return refine_by_answers(
        network, posterior, np.resize(real, (-(-len(real) // size) * size, *real.shape[1:])), drawn, count
    )


def _shown(posterior: Posterior, count: int) -> Posterior:
    """Count the only plausible preprocessing as proven, where layers were looked at on real pictures."""
    if posterior.best.source != "ranked":
        return posterior
    reason = f"{posterior.best.reason}, on {count} real picture{'s' if count > 1 else ''}"
    ways = [one.preprocessing for one in posterior.hypotheses]
    told = [replace(one, source="inferred", reason=reason) if one.source == "ranked" else one for one in ways]
    return Posterior.of(told, [one.probability for one in posterior.hypotheses])


def _warn_of_contradiction(
    given: Preprocessing,
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    progress: Progress,
) -> None:
    """Warn where the network tells of another preprocessing than the given one."""
    network = _trial_network(teacher, spec, _for_trials(inputs, spec, rng), _apart(rng))
    _warn(given, find_contradiction(network, statistics, given), spec, progress)


def _warn(given: Preprocessing, other: Preprocessing | None, spec: InputSpec, progress: Progress) -> None:
    """Warn of another preprocessing than the given one, if there is any."""
    if other is None:
        return
    origin, advice = "that you gave", "Leave --mean, --std and --input-range out to use that"
    if given.source == "read":
        origin, advice = "that the file remembers", "Give --mean and --std, or --input-range, to use that"
    progress.warn(
        f"input {spec.name!r}: the network contradicts the preprocessing {origin} ({given.describe()}); it points to "
        f"{other.describe()}. {advice}"
    )


def _find_signals(
    inputs: Sequence[InputSpec],
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    progress: Progress,
    known: Mapping[str, Posterior],
) -> dict[str, Posterior]:
    """Scale of the inputs that take no images, by name, as far as the network tells it; warns of the others."""
    found: dict[str, Posterior] = {}
    unknown = []
    open_ones = [one for one in inputs if not (one.is_image or one.takes_stand_ins or one.name in known)]
    for spec in open_ones:
        trials = _apart(rng)
        whole = frozenset(other.name for other in inputs if other.batch_axis is None)
        network = replace(_trial_network(teacher, spec, _for_trials(inputs, spec, rng), trials), whole=whole)
        draw = _drawing(trials)
        told = infer_signal(network, statistics, draw, FIT_WORK // len(open_ones))
        posterior = Posterior.certain(told) if told else infer_scale(network, draw, SCAN_WORK // len(open_ones))
        if posterior is None:
            unknown.append(f"{spec.name!r} (noise of deviation 1: nothing in the model tells its scale)")
            continue
        found[spec.name] = posterior
        if told is not None and told.is_certain:
            progress.note(f"input {spec.name!r}: {told.describe()}")
        else:
            unknown.append(f"{spec.name!r} ({_say_open(posterior)})")
    if unknown:
        progress.warn(
            f"what the network takes is no picture, and stand-ins are made for {', '.join(unknown)}: figures on them "
            "say little of real samples; give some with --calib FILE.npz"
        )
    return found


def _say_open(posterior: Posterior) -> str:
    """Say the best preprocessing of a signal, how probable it is, and how far the scales of the others reach."""
    gains = [1.0 / one.preprocessing.std[0] for one in posterior.plausible]
    words = f"{posterior.best.describe()}, {posterior.hypotheses[0].probability:.0%}"
    return words if len(gains) == 1 else f"{words}; or times {min(gains):.3g} to {max(gains):.3g}"


def _drawing(rng: torch.Generator) -> DrawSignals:
    def draw(family: SignalFamily, shape: tuple[int, ...]) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = signals(shape, family, rng).cpu().numpy()
        return drawn

    return draw


def _apart(rng: torch.Generator) -> torch.Generator:
    """Randomness for trials, so that samples are the same with them and without."""
    return torch.Generator(rng.device).manual_seed(rng.initial_seed())


def _for_trials(inputs: Sequence[InputSpec], spec: InputSpec, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Feed for the other inputs while one is tried."""
    trials, size = _apart(rng), int(spec.shape[0] or TRIAL_IMAGES)
    return {other.name: draw_feed(other, size, trials) for other in inputs if other.name != spec.name}


def infer_on_images(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    spec: InputSpec,
    rng: torch.Generator,
    others: Mapping[str, torch.Tensor] | None = None,
) -> Preprocessing:
    """Return the most probable preprocessing (see ``rank_on_images``)."""
    return rank_on_images(teacher, statistics, spec, rng, others).best


def rank_on_images(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    spec: InputSpec,
    rng: torch.Generator,
    others: Mapping[str, torch.Tensor] | None = None,
) -> Posterior:
    """Rank preprocessings of image input ``spec`` on drawn pictures; ``others`` are fed to the other inputs."""
    network = _trial_network(teacher, spec, others or {}, rng)
    return rank_candidates(network, statistics, families=other_families(spec, _apart(rng)))


def _trial_network(
    teacher: TorchGraph, spec: InputSpec, others: Mapping[str, torch.Tensor], rng: torch.Generator
) -> TrialNetwork:
    shared = {name: tensor.cpu().numpy() for name, tensor in others.items()}
    draw_images = drawing(prior_images, spec, rng)
    return TrialNetwork(model=teacher.model, spec=spec, draw_images=draw_images, others=shared)
