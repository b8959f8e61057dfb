"""Preprocessing of the image inputs that data are synthesized for: given, or inferred on procedural images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.procedural import draw_feed
from zsq_compile.synthesis.preprocessing.infer import infer_preprocessing
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, TrialNetwork


def find_preprocessing(
    inputs: Sequence[InputSpec],
    given: Preprocessing | None,
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    progress: Progress,
) -> dict[str, Preprocessing]:
    """Preprocessing by image input: the given one where its channels fit, else inferred and reported."""
    found: dict[str, Preprocessing] = {}
    for spec in (one for one in inputs if one.is_image):
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
