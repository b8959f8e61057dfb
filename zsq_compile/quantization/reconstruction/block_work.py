"""How much a block of a network has to compute."""

from collections.abc import Mapping

import onnx_ir as ir
from torch import Tensor

from passes.plan import WeightSite
from zsq_compile.quantization.reconstruction.blocks import Block


def block_work(
    block: Block, nodes: Mapping[str, ir.Node], weights: Mapping[str, Tensor], made: Mapping[str, int]
) -> tuple[int, int]:
    """Multiplications and elements of one forward pass through a block.

    Args:
        block: with its layers.
        nodes: of the float model, by name.
        weights: float weights by initializer.
        made: elements by name of the first value that each node made.

    Returns:
        Multiplications of its layers, and elements of all values that it makes.

    """
    multiplications = sum(
        column_length(site, weights) * made.get(str(nodes[site.node].outputs[0].name), 0) for site in block.layers
    )
    return multiplications, sum(made.get(name, 0) for name in block.values)


def column_length(site: WeightSite, weights: Mapping[str, Tensor]) -> int:
    """Weights behind one number of a layer's output."""
    weight = weights[site.initializer]
    return weight.numel() // weight.shape[site.axis or 0]
