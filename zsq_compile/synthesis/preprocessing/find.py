"""Preprocessing of the image inputs that data are synthesized for: given, or inferred on procedural images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.procedural import draw_feed
from zsq_compile.synthesis.images.signal import signals
from zsq_compile.synthesis.preprocessing.infer import infer_preprocessing
from zsq_compile.synthesis.preprocessing.infer_signal import infer_signal
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, TrialNetwork

NOTHING_TELLS = "nothing in the model tells its scale"


def find_preprocessing(
    inputs: Sequence[InputSpec],
    given: Preprocessing | None,
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    progress: Progress,
) -> dict[str, Preprocessing]:
    """Preprocessing by input: the given one of images where its channels fit, else inferred and reported.

    An input that takes no images is left out where nothing tells its scale: it gets noise of deviation 1.
    """
    found: dict[str, Preprocessing] = {}
    for spec in inputs:
        if spec.neutral is not None:
            progress.warn(
                f"input {spec.name!r} is a mask of attention, and is fed {spec.neutral:g}, which hides nothing: give "
                "real samples with --calib FILE.npz where that is rare"
            )
            continue
        if not spec.is_image:
            _find_signal(spec, inputs, teacher, statistics, rng, found, progress)
            continue
        if given is not None and len(given.mean) in (1, spec.channels):
            found[spec.name] = replace(given, layout=spec.layout or "NCHW")
            continue
        size = int(spec.shape[0] or TRIAL_IMAGES)
        others = {other.name: draw_feed(other, size, rng) for other in inputs if other.name != spec.name}
        found[spec.name] = infer_on_images(teacher, statistics, spec, rng, others)
        text = f"input {spec.name!r}: {found[spec.name].describe()}"
        if found[spec.name].is_certain:
            progress.note(text)
        else:
            progress.warn(f"{text}; give --mean and --std, or --input-range, if it is something else")
    return found


def _find_signal(
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    found: dict[str, Preprocessing],
    progress: Progress,
) -> None:
    """Add the scale of an input that is no image to ``found``, where the network tells it; say so or warn."""
    trials = torch.Generator(rng.device).manual_seed(
        rng.initial_seed()
    )  # samples are the same with a trial and without

    def draw(family: SignalFamily, shape: tuple[int, ...]) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = signals(shape, family, trials).cpu().numpy()
        return drawn

    others = {one.name: draw_feed(one, int(spec.shape[0] or TRIAL_IMAGES), trials) for one in inputs if one is not spec}
    shared = {name: tensor.cpu().numpy() for name, tensor in others.items()}
    one = infer_signal(TrialNetwork(model=teacher.model, spec=spec, others=shared), statistics, draw)
    if one is not None:
        found[spec.name] = one
    if one is not None and one.is_certain:
        progress.note(f"input {spec.name!r}: {one.describe()}")
        return
    how = f"noise of deviation 1 ({NOTHING_TELLS})" if one is None else one.describe()
    progress.warn(
        f"input {spec.name!r} takes no pictures, and is fed {how}: how the file does on such samples says little of "
        "real ones; give some with --calib FILE.npz"
    )


def infer_on_images(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    spec: InputSpec,
    rng: torch.Generator,
    others: Mapping[str, torch.Tensor] | None = None,
) -> Preprocessing:
    """Infer the preprocessing of image input ``spec`` on dead leaves; ``others`` are fed to the other inputs."""

    def draw_images(count: int, height: int, width: int) -> NDArray[np.float32]:
        images: NDArray[np.float32] = prior_images(count, spec.channels, height, width, rng).cpu().numpy()
        return images

    shared = {name: tensor.cpu().numpy() for name, tensor in (others or {}).items()}
    network = TrialNetwork(model=teacher.model, spec=spec, draw_images=draw_images, others=shared)
    return infer_preprocessing(network, statistics)
