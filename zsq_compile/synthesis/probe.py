"""Measurements of a network before and while data is synthesized: its cost, and the moments that its layers read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm
from passes.operators import WEIGHTED
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_type
from zsq_compile.synthesis.channel_moments import ActivationMoments, channel_moments, join_moments

Feeds = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one sample, forward only; ``element_bytes`` is the size of an element that is kept for the backward pass."""

    multiplications: int
    elements: int
    element_bytes: int = 4


def layer_inputs(layers: Sequence[BatchNorm]) -> tuple[str, ...]:
    """Names of the values that the layers read, each once, in order; two may share one value."""
    return tuple(dict.fromkeys(layer.input for layer in layers))


def layer_targets(layers: Sequence[BatchNorm], device: torch.device) -> list[ActivationMoments]:
    """Moments that the layers remember, as float32 tensors (C,) without the dead channels."""
    return [
        ActivationMoments(
            mean=torch.tensor(layer.mean[~layer.dead], dtype=torch.float32, device=device),
            variance=torch.tensor(layer.variance[~layer.dead], dtype=torch.float32, device=device),
        )
        for layer in layers
    ]


def layer_moments(layers: Sequence[BatchNorm], values: Feeds) -> list[ActivationMoments]:
    """Moments of the values that the layers read, without the dead channels; differentiable."""
    found = {name: channel_moments(values[name]) for name in layer_inputs(layers)}
    measured = []
    for layer in layers:
        moments = found[layer.input]
        if layer.dead.any():
            alive = torch.from_numpy(~layer.dead).to(moments.mean.device)
            moments = ActivationMoments(mean=moments.mean[alive], variance=moments.variance[alive])
        measured.append(moments)
    return measured


def measure_moments(
    teacher: TorchGraph, layers: Sequence[BatchNorm], feeds: Feeds, size: int
) -> list[ActivationMoments]:
    """Moments of the layers' inputs over all samples of ``feeds``, run ``size`` at a time, without gradient."""
    parts: list[list[ActivationMoments]] = []
    sizes: list[int] = []
    for batch in batches(feeds, size):
        with torch.no_grad():
            values = teacher.run(batch, layer_inputs(layers))
        parts.append(layer_moments(layers, values))
        sizes.append(min(len(value) for value in batch.values()))
    return [join_moments([part[index] for part in parts], sizes) for index in range(len(layers))]


def to_channels_last(feeds: Feeds) -> dict[str, torch.Tensor]:
    """Convert images to the memory format in which convolutions are fastest."""
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in feeds.items()
    }


def batches(feeds: Feeds, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Cut feeds into batches of ``size`` samples; the last may be smaller."""
    count = min(len(value) for value in feeds.values())
    for start in range(0, count, size):
        yield {name: value[start : start + size] for name, value in feeds.items()}


def measure_cost(teacher: TorchGraph, feeds: Feeds, outputs: Sequence[str]) -> Cost:
    """Count per sample the multiplications of the weighted nodes, and the elements that all nodes write."""
    multiplications, elements = 0, 0
    samples = max(1, min(len(value) for value in feeds.values()))

    def count(node: ir.Node, results: tuple[torch.Tensor, ...]) -> None:
        nonlocal multiplications, elements
        elements += sum(result.numel() for result in results)
        weight = (
            teacher.initializers.get(node.inputs[1].name or "") if len(node.inputs) > 1 and node.inputs[1] else None
        )
        if node.op_type in WEIGHTED and weight is not None and weight.ndim >= 2:
            channels = results[0].shape[1 if "Conv" in node.op_type else -1]
            multiplications += results[0].numel() * weight.numel() // max(1, channels)

    with torch.no_grad():
        teacher.run(feeds, outputs, visit=count)
    return Cost(
        multiplications=multiplications // samples,
        elements=elements // samples,
        element_bytes=reduced_type(teacher.device).itemsize,
    )


def find_features(teacher: TorchGraph, feeds: Feeds, scores: str) -> str | None:
    """Name of the value that the last weighted node on the way to ``scores`` reads: the penultimate features.

    None where no node on that way has weights, or where the network is fed with what it reads.
    """
    last: str | None = None

    def look(node: ir.Node, results: tuple[torch.Tensor, ...]) -> None:
        nonlocal last
        names = [value.name if value is not None else None for value in node.inputs]
        if node.op_type in WEIGHTED and any(name in teacher.initializers for name in names[1:2]):
            last = names[0]

    with torch.no_grad():
        teacher.run(feeds, (scores,), visit=look)
    return None if last in feeds else last


def flat_features(values: torch.Tensor) -> torch.Tensor:
    """Penultimate values of any shape (samples, ...) as (samples, size) float32, maps by their means over positions."""
    values = values.float()
    return values.flatten(2).mean(2) if values.ndim > 2 else values
