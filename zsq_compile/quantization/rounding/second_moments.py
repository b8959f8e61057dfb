"""How the inputs of each weighted layer vary together: E[x x^T] over the columns that its weight multiplies.

For a convolution a column is what one output position sees of the input (im2col), per group; for Gemm and MatMul it is
a row of the input. A layer's squared output error under a weight error D is then tr(D H D^T), with no sample needed.
"""

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from passes.operators import DENSE
from passes.plan import QuantizationPlan, WeightSite
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.calibration.calibrate import watch
from zsq_compile.quantization.samples import Batch

_LARGEST = 8192
_CHUNK_ELEMENTS = 1 << 24
_POSITIONS_PER_COLUMN = 16  # an estimate of K x K moments needs a few times K positions, not all of a large map
_FEWEST_POSITIONS = 1 << 14


class SecondMoments:
    """Running sum of x y^T over the columns x and y of one layer, y mostly being x, per group of channels."""

    def __init__(self, groups: int, size: int) -> None:
        self.groups = groups
        self.count = 0
        self._total = torch.zeros(groups, size, size)

    def observe(self, columns: Tensor, others: Tensor | None = None) -> None:
        """Add columns x of shape (groups, K, positions), and others y than x in the same shape, if any."""
        right = columns if others is None else others
        self._total += (columns @ right.transpose(1, 2)).to(self._total.device)
        self.count += columns.shape[2]

    def add(self, other: "SecondMoments") -> None:
        """Add what another one has seen."""
        self._total += other._total
        self.count += other.count

    def matrix(self) -> Tensor:
        """E[x y^T], float64, (groups, K, K)."""
        return self._total.double() / max(self.count, 1)


def measure_second_moments(
    plan: QuantizationPlan,
    teacher: TorchGraph,
    batches: Sequence[Batch],
    advance: Advance = ignore_steps,
) -> dict[str, SecondMoments]:
    """Second moments of what weights multiply, by initializer, in one pass over the data.

    Those of a weight that layers share are of the columns of all of them.

    Left out are layers whose columns are not known (transposed and 3-d convolutions, activations multiplied by
    activations) or are longer than 8192, where the K x K matrix would take more memory than its layer is worth.
    """
    nodes = {str(node.name): node for node in teacher.model.graph}
    readers: dict[str, list[WeightSite]] = {}
    for site in plan.weights:
        if teacher.initializers[site.initializer].shape.numel() // _rows(site, teacher) > _LARGEST:
            continue
        readers.setdefault(site.data_input, []).append(site)
    found: dict[str, SecondMoments] = {}

    def observe(name: str, value: Tensor, _: ir.Node | None) -> None:
        for site in readers[name]:
            for columns in unfold_inputs(nodes[site.node], site, teacher.initializers, value):
                if site.initializer not in found:
                    found[site.initializer] = SecondMoments(*columns.shape[:2])
                found[site.initializer].observe(columns)

    watch(teacher, batches, {name: name for name in readers}, observe, advance)
    return found


def _rows(site: WeightSite, teacher: TorchGraph) -> int:
    return 1 if site.axis is None else teacher.initializers[site.initializer].shape[site.axis]


def unfold_inputs(node: ir.Node, site: WeightSite, initializers: Mapping[str, Tensor], value: Tensor) -> list[Tensor]:
    """Columns that a weight multiplies, in chunks of (groups, K, positions); empty where they are not known."""
    if node.op_type in DENSE:
        return [value.reshape(-1, value.shape[-1]).T[None]]
    weight = initializers[site.initializer]
    padding = node.attributes.get_string("auto_pad", "NOTSET")
    if node.op_type != "Conv" or weight.ndim not in (3, 4) or padding != "NOTSET":
        return []
    groups = node.attributes.get_int("group", 1)
    size = weight[0].numel()
    padded, kernel, strides, dilations = _two_dimensional(node, value, tuple(weight.shape[2:]))
    strides = _sparser(padded, kernel, strides, dilations, _POSITIONS_PER_COLUMN * size)
    per_image = max(padded[0].numel() * kernel[0] * kernel[1] // (strides[0] * strides[1]), 1)
    chunks = []
    for part in torch.split(padded, max(_CHUNK_ELEMENTS // per_image, 1)):
        unfolded = functional.unfold(part, kernel, dilation=dilations, stride=strides)
        chunks.append(unfolded.reshape(len(part), groups, size, -1).permute(1, 2, 0, 3).reshape(groups, size, -1))
    return chunks


def _sparser(
    padded: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], wanted: int
) -> tuple[int, int]:
    """Strides with which a large map gives no more positions than are wanted of a feed, spread over all of it."""
    height, width = (
        (padded.shape[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1 for axis in range(2)
    )
    excess = max(len(padded) * height * width // max(wanted, _FEWEST_POSITIONS), 1)
    down = min(math.isqrt(excess), height)
    return strides[0] * down, strides[1] * min(excess // down, width)


def _two_dimensional(
    node: ir.Node, value: Tensor, kernel: tuple[int, ...]
) -> tuple[Tensor, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Pad the input of a 1-d or 2-d convolution, and give it and the geometry as 2-d."""
    rank = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * (2 * rank))
    strides, dilations = (list(node.attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations"))
    if rank == 1:
        value, kernel, pads = value[:, :, None], (1, *kernel), [0, pads[0], 0, pads[1]]
        strides, dilations = [1, *strides], [1, *dilations]
    padded = functional.pad(value, (pads[1], pads[3], pads[0], pads[2]))
    return padded, (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])
