"""Which numbers does the network expect of an image? Its first BatchNormalizations know.

Each candidate contract is applied to the same procedural images; the statistics that the network then shows are
compared with those it has kept. The first layer sees the input through a linear map, so it tells most; every layer
behind it counts for half of the one before, as each normalises more of the evidence away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.conventions import usual_conventions
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import InputContract
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import Moments, gaussian_kl
from zsq_compile.synthesis.preprocessing.assume import assumed_contract
from zsq_compile.synthesis.probe import layer_inputs, layer_targets, measure_moments, runs

CONTRACT_IMAGES = 16
"""Procedural images that the candidates are judged by."""

_LARGEST_SIDE = 96
_LAYERS = 4
_FAR = 1.5


def candidate_contracts(channels: int) -> tuple[InputContract, ...]:
    """Contracts in common use for images of 3 or 1 channels."""
    return tuple(
        InputContract(
            name=one.name,
            mean=one.mean,
            std=one.std,
            channel_order=one.channel_order,
            inferred=False,
            margin=None,
        )
        for one in usual_conventions(channels)
    )


def natural_contract(channels: int) -> InputContract:
    """Return the contract that brings natural pixels to mean 0 and deviation 1: that of ImageNet."""
    return next(one for one in candidate_contracts(channels) if one.name == "imagenet")


def given_contract(
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_range: tuple[float, float] | None = None,
) -> InputContract:
    """Contract from a user's mean and std in pixel units of [0, 1], or from the numbers that black and white become.

    A single number stands for every channel.

    Raises:
        ValueError: neither form is complete, or the lengths do not fit the channels.

    """
    if input_range is not None:
        low, high = input_range
        mean, std = (-low / (high - low),), (1.0 / (high - low),)
    if mean is None or std is None:
        raise ValueError("wanted mean and std, or input_range; got neither in full")
    wide = [tuple(map(float, values)) * (channels if len(values) == 1 else 1) for values in (mean, std)]
    if any(len(values) != channels for values in wide):
        raise ValueError(f"wanted 1 or {channels} numbers for mean and std, got {len(mean)} and {len(std)}")
    order: Literal["rgb", "gray"] = "rgb" if channels == 3 else "gray"
    return InputContract(
        name="given", mean=wide[0], std=wide[1], channel_order=order, inferred=False, margin=None, reason="by the user"
    )


def infer_contract(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    spec: InputSpec,
    rng: torch.Generator,
    *,
    others: Mapping[str, torch.Tensor] | None = None,
) -> InputContract:
    """Choose the contract whose images come nearest to the BatchNormalization statistics.

    ``others`` are feeds for the network's other inputs, of ``spec.shape[0]`` or else ``CONTRACT_IMAGES`` samples.
    Where no usable statistics are, or where no candidate comes near them, see ``assumed_contract``.
    """
    channels, height, width = (int(size or 1) for size in spec.shape[1:])
    candidates = candidate_contracts(channels)
    layers = statistics.usable[:_LAYERS]
    if not layers:
        return assumed_contract(teacher, spec, candidates, rng, others or {})
    taps = layer_inputs(layers)
    batch = int(spec.shape[0] or CONTRACT_IMAGES)
    sizes = _smaller(height, width)
    if not runs(
        teacher, {spec.name: torch.zeros(batch, channels, *sizes, device=teacher.device), **(others or {})}, taps
    ):
        sizes = (height, width)
    images = prior_images(-(-CONTRACT_IMAGES // batch) * batch, channels, *sizes, rng).to(teacher.device)
    losses = []
    for candidate in candidates:
        feeds = {spec.name: candidate.encode(images)}
        measured = measure_moments(teacher, layers, feeds, batch, shared=others or {})
        losses.append(_nearness(measured, layer_targets(layers, teacher.device)))
    best, second = sorted(range(len(candidates)), key=losses.__getitem__)[:2]
    if losses[best] > _FAR:
        return assumed_contract(teacher, spec, candidates, rng, others or {})
    margin = losses[second] / max(losses[best], 1e-12)
    return replace(candidates[best], inferred=True, margin=margin, reason="batch normalisation statistics")


def _nearness(measured: Sequence[Moments], targets: Sequence[Moments]) -> float:
    """Weighted mean over layers of the median over channels, as a few odd or dying channels must not decide."""
    terms = [float(gaussian_kl(one, other).median()) for one, other in zip(measured, targets, strict=True)]
    weights = [0.5**depth for depth in range(len(terms))]
    return sum(weight * term for weight, term in zip(weights, terms, strict=True)) / sum(weights)


def _smaller(height: int, width: int) -> tuple[int, int]:
    """Sizes of at most _LARGEST_SIDE with about the same shape, in steps of 16 as strided networks like them."""
    scale = min(1.0, _LARGEST_SIDE / max(height, width))
    if scale == 1.0:
        return height, width
    return max(16, round(height * scale / 16) * 16), max(16, round(width * scale / 16) * 16)
