"""Speed of the learning engine: images per second of each block, beside a plain forward and backward pass of it."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.catalog import load_target
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.place_quantizers import place_quantizers
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision, reduced_type
from zsq_compile.frontend.load import load_model
from zsq_compile.quantization.reconstruction.blocks import Block, find_blocks

_TURNS, _WARM = 12, 3


def block_lines(key: str, model: Path, report: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table for one compilation: what it learned, and the same blocks in float, measured now."""
    records = {record["name"]: record for record in report.get("learning", []) if record["steps"]}
    folded = load_model(model, input_shapes={}).model
    FoldBatchNorm()(folded)
    AddMissingBias()(folded)
    teacher = TorchGraph(folded)
    names = {str(value.name) for node in folded.graph for value in node.outputs} | set(teacher.input_names)
    blocks = find_blocks(folded, place_quantizers(folded, load_target("ort_cpu"), bits=4), names)
    values = {name: torch.rand(32, *shape) for name, shape in _inputs(folded).items()}
    lines, shares, times = [], [], []
    for block in blocks:
        with torch.inference_mode():
            made = teacher.run({name: values[name] for name in block.inputs}, block.outputs)
        record = records.get(block.name)
        if record is not None:
            batch = record["batch"]
            plain = _images_per_second(teacher, block, {name: values[name][:batch] for name in block.inputs})
            ours = record["steps"] * batch / record["seconds"]
            shares.append(ours / plain)
            times.append(batch * record["steps"] * (1 / plain))
            label = key if not lines else ""
            speeds = [f"{ours:.0f}", f"{plain:.0f}", f"{ours / plain:.2f}"]
            lines.append([label, block.name, str(record["steps"]), f"{record['seconds']:.1f}", *speeds])
        values = {name: value.clone() for name, value in {**values, **made}.items()}
    if shares:
        spent = sum(record["seconds"] for record in records.values())
        lines.append(["", "all", "", f"{spent:.1f}", "", "", f"{sum(times) / spent:.2f}"])
    return lines


def _inputs(model: Any) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for value in model.graph.inputs:
        if not value.is_initializer():
            shapes[str(value.name)] = tuple(size if isinstance(size, int) else 1 for size in value.shape[1:])
    return shapes


def _images_per_second(teacher: TorchGraph, block: Block, inputs: Mapping[str, Tensor]) -> float:
    """Median speed of forward and backward pass of a float block, gradients of its weights and inputs included."""
    kind = reduced_type(teacher.device)
    feeds = {name: _channels_last(value.to(kind)).requires_grad_() for name, value in inputs.items()}
    names = [name for layer in block.layers for name in (layer.initializer, layer.bias) if name]
    weights = {name: teacher.initializers[name].clone().requires_grad_() for name in names}
    seconds = []
    for _ in range(_TURNS):
        started = time.perf_counter()
        with reduced_precision(teacher.device):
            outputs = teacher.run(feeds, block.outputs, replace=weights)
        torch.autograd.backward([output.float().square().mean() for output in outputs.values()])
        seconds.append(time.perf_counter() - started)
    return len(next(iter(inputs.values()))) / statistics.median(seconds[_WARM:])


def _channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
