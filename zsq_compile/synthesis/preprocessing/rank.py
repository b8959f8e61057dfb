"""Rank the preprocessings that the image input of a network may expect."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, byte_preprocessing
from zsq_compile.synthesis.preprocessing.evidence import contradict_by_inside, rank_by_evidence
from zsq_compile.synthesis.preprocessing.infer import contradict_by_statistics, infer_from_statistics
from zsq_compile.synthesis.preprocessing.trials import DrawImages, TrialNetwork


def rank_candidates(
    network: TrialNetwork,
    statistics: BatchNormStatistics,
    samples: NDArray[np.uint8] | None = None,
    families: Sequence[DrawImages] = (),
    *,
    thorough: bool = True,
) -> Posterior:
    """Rank what the image input of a network may expect.

    Args:
        network: with the image input in question, and what it is tried on.
        statistics: of the network.
        samples: real pictures to try instead of drawn ones, (N, C, H, W) in RGB order, of any size.
        families: other kinds of pictures that the network may have been trained on; not with real ones.
        thorough: gather evidence that takes seconds in a large network, too.

    """
    tried = network if samples is None else replace(network, draw_images=showing(samples))
    if np.issubdtype(network.spec.dtype, np.integer):
        return Posterior.certain(byte_preprocessing(network.spec))
    found = infer_from_statistics(tried, statistics)
    if found is not None:
        return found
    return rank_by_evidence(tried, statistics, families if samples is None else (), thorough=thorough)


def find_contradiction(
    network: TrialNetwork,
    statistics: BatchNormStatistics,
    given: Preprocessing,
    families: Sequence[DrawImages] = (),
) -> Preprocessing | None:
    """Return what a network points to where that is not the given preprocessing at all; None where it allows that."""
    if np.issubdtype(network.spec.dtype, np.integer):
        return None
    if statistics.usable:
        return contradict_by_statistics(network, statistics, given)
    return contradict_by_inside(network, given, families)


def showing(pictures: NDArray[np.uint8]) -> DrawImages:
    """Draw from pictures (N, C, H, W), resized and in turn, instead of drawing new ones."""

    def draw(count: int, height: int, width: int) -> NDArray[np.float32]:
        chosen = pictures[np.arange(count) % len(pictures)]
        sized = [[_resized(plane, width, height) for plane in picture] for picture in chosen]
        return np.array(sized, np.float32) / np.float32(255.0)

    return draw


def _resized(plane: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX))
