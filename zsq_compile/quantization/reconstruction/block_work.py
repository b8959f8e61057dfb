"""How much a block of a network has to compute."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from passes.plan import WeightSite
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.reconstruction.blocks import Block


def run_counting(
    teacher: TorchGraph, feed: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Run a float network; return the named values, and elements by name of the first value that each node made."""
    made: dict[str, int] = {}

    def count(node: ir.Node, outputs: tuple[Tensor, ...]) -> None:
        made[str(node.outputs[0].name)] = sum(output.numel() for output in outputs)

    with torch.inference_mode():
        return teacher.run(feed, tuple(dict.fromkeys(names)), visit=count), made


def count_block_work(block: Block, teacher: TorchGraph, made: Mapping[str, int]) -> tuple[int, int]:
    """Multiplications of a block's layers, and elements of all values that it makes, in a run that was counted."""
    outputs = {str(node.name): str(node.outputs[0].name) for node in teacher.model.graph}
    multiplications = sum(
        column_length(site, teacher.initializers) * made.get(outputs[site.node], 0) for site in block.layers
    )
    return multiplications, sum(made.get(name, 0) for name in block.values)


def column_length(site: WeightSite, weights: Mapping[str, Tensor]) -> int:
    """Weights behind one number of a layer's output."""
    weight = weights[site.initializer]
    return weight.numel() // weight.shape[site.axis or 0]
