"""How the inputs of each weighted layer vary together: E[x x^T] over the columns that its weight multiplies.

For a convolution a column is what one output position sees of the input (im2col), per group; for Gemm and MatMul it is
a row of the input. A layer's squared output error under a weight error D is then tr(D H D^T), with no sample needed.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from passes.operators import DENSE
from passes.plan import QuantizationPlan, WeightSite
from passes.weight_layout import channel_count
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.calibration.calibrate import watch
from zsq_compile.quantization.samples import Batch, Population

GROUP_BYTES = 1 << 28
"""Of the moments that live at the same time: those of one layer whose columns have 8192 numbers, in float32."""
_CHUNK_ELEMENTS = 1 << 22
_PART_BYTES = 1 << 25  # of moments in float64 beside the whole in float32
_POSITIONS_PER_COLUMN = 16  # an estimate of K x K moments needs a few times K positions, not all of a large map
_FEWEST_POSITIONS = 1 << 14


class SecondMoments:
    """Running sum of x y^T over the columns x and y of one layer, y mostly being x, per group of channels.

    Sums are float32, (groups, K, K), and by far the largest thing that rounding holds: nothing here copies them whole
    but ``permuted``, which is what a factorisation overwrites.
    """

    def __init__(self, groups: int, size: int) -> None:
        self.groups, self.size = groups, size
        self.count = 0
        self._total = torch.zeros(groups, size, size)

    def observe(self, columns: Tensor, others: Tensor | None = None) -> None:
        """Add columns x of shape (groups, K, positions), and others y than x in the same shape, if any."""
        right = (columns if others is None else others).transpose(1, 2)
        for part in self._parts():
            self._total[:, part] += (columns[:, part] @ right).to(self._total.device)
        self.count += columns.shape[2]

    def add(self, other: "SecondMoments") -> None:
        """Add what another one has seen."""
        self._total += other._total
        self.count += other.count

    def mix(self, other: "SecondMoments", weight: float) -> None:
        """Add the mean of another one in units of its own power, so many times."""
        power = float(other.diagonal().mean())
        if power > 0.0:
            self._total.add_(other._total, alpha=weight / (max(other.count, 1) * power))
            self.count = 1

    def diagonal(self) -> Tensor:
        """E[x_i y_i], float64, (groups, K)."""
        return self._mean(self._total.diagonal(dim1=1, dim2=2))

    def matrix(self) -> Tensor:
        """E[x y^T], float64, (groups, K, K)."""
        return self._mean(self._total)

    def permuted(self, order: Tensor) -> Tensor:
        """E[x y^T] with rows and columns in another order, int64 (groups, K) of places; float64, (groups, K, K)."""
        made = torch.empty(self._total.shape, dtype=torch.float64)
        for part in self._parts():
            rows = self._total.gather(1, order[:, part, None].expand(-1, -1, self.size))
            made[:, part] = self._mean(rows.gather(2, order[:, None, :].expand_as(rows)))
        return made

    def times(self, rows: Tensor) -> Tensor:
        """Rows, float64 (groups, rows, K), multiplied by E[x y^T]."""
        made = torch.empty_like(rows)
        for part in self._parts():
            made[:, :, part] = rows @ self._mean(self._total[:, :, part])
        return made

    def error(self, change: Tensor) -> Tensor:
        """Mean squared error, (groups, rows), of each output under a change of its weights, (groups, rows, K)."""
        return (self.times(change) * change).sum(2)

    def _mean(self, total: Tensor) -> Tensor:
        return total.double() / max(self.count, 1)

    def _parts(self) -> list[slice]:
        """Cut an axis of K so that a part of the matrix takes a bounded part of memory in float64."""
        step = max(_PART_BYTES // (8 * self.groups * self.size), 1)
        return [slice(start, start + step) for start in range(0, self.size, step)]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurableLayer:
    """A layer whose columns are known: ``size`` numbers in each, for each of ``groups`` of channels.

    ``sites`` are several where layers share the weight: its moments are of the columns of all of them.
    """

    sites: tuple[WeightSite, ...]
    groups: int
    size: int

    @property
    def bytes(self) -> int:
        """Bytes that the sums of its moments take."""
        return 4 * self.groups * self.size**2


def find_measurable(plan: QuantizationPlan, teacher: TorchGraph) -> list[MeasurableLayer]:
    """Layers that have second moments, in the order of the graph.

    Left out are layers whose columns are not known (transposed and 3-d convolutions, activations multiplied by
    activations) or are so long that the K x K matrix would take more memory than its layer is worth.
    """
    nodes = {str(node.name): node for node in teacher.model.graph}
    found = []
    for name, sites in plan.sites_by_weight().items():
        node, weight = nodes[sites[0].node], teacher.initializers[name]
        known = tuple(
            site for site in sites if _is_dense(nodes[site.node], weight) or _is_unfolded(nodes[site.node], weight)
        )
        size = weight.numel() // channel_count(node, weight.shape)  # whether each channel has a scale or not
        layer = MeasurableLayer(sites=known, groups=node.attributes.get_int("group", 1), size=size)
        if known and layer.bytes <= GROUP_BYTES:
            found.append(layer)
    return found


def group_layers(layers: Sequence[MeasurableLayer], limit: int = GROUP_BYTES) -> list[list[MeasurableLayer]]:
    """Cut layers, in their order, into groups whose moments together take at most ``limit`` bytes, or one layer's."""
    groups: list[list[MeasurableLayer]] = []
    for layer in layers:
        if groups and sum(one.bytes for one in groups[-1]) + layer.bytes <= limit:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def measure_second_moments(
    layers: Collection[MeasurableLayer],
    teacher: TorchGraph,
    batches: Sequence[Batch],
    advance: Advance = ignore_steps,
) -> dict[str, SecondMoments]:
    """Second moments of some layers by initializer, in one pass over the data, which ends behind the last of them."""
    nodes = {str(node.name): node for node in teacher.model.graph}
    readers: dict[str, list[WeightSite]] = {}
    for site in (site for layer in layers for site in layer.sites):
        readers.setdefault(site.data_input, []).append(site)
    found = {layer.sites[0].initializer: SecondMoments(layer.groups, layer.size) for layer in layers}
    rng = torch.Generator().manual_seed(0)

    def observe(name: str, value: Tensor, _: ir.Node | None) -> None:
        phase = draw_phase(rng)
        for site in readers[name]:
            for columns in unfold_inputs(nodes[site.node], site, teacher.initializers, value, phase):
                found[site.initializer].observe(columns)

    watch(teacher, batches, {name: name for name in readers}, observe, advance, partial=True)
    return {name: moments for name, moments in found.items() if moments.count}


def mix_second_moments(
    layers: Collection[MeasurableLayer],
    teacher: TorchGraph,
    populations: Sequence[Population],
    advance: Advance = ignore_steps,
) -> dict[str, SecondMoments]:
    """Second moments over several populations of data, each in units of its power, or those of the only one as is.

    A weight that is rounded for the sum suits the population with small values as well as that with large ones.
    """
    if len(populations) == 1:
        return measure_second_moments(layers, teacher, populations[0].batches, advance)
    mixed = {layer.sites[0].initializer: SecondMoments(layer.groups, layer.size) for layer in layers}
    for one in populations:
        for name, moments in measure_second_moments(layers, teacher, one.batches, advance).items():
            mixed[name].mix(moments, one.probability)
    return {name: moments for name, moments in mixed.items() if moments.count}


def draw_phase(rng: torch.Generator) -> tuple[float, float]:
    """Draw where a grid of positions starts, as shares, 0 to 1, of its two steps."""
    down, right = torch.rand(2, generator=rng).tolist()
    return down, right


def _is_dense(node: ir.Node, weight: Tensor) -> bool:
    return node.op_type in DENSE and weight.ndim == 2 and not node.attributes.get_int("transA", 0)


def _is_unfolded(node: ir.Node, weight: Tensor) -> bool:
    padding = node.attributes.get_string("auto_pad", "NOTSET")
    return node.op_type == "Conv" and weight.ndim in (3, 4) and padding == "NOTSET"


def unfold_inputs(
    node: ir.Node,
    site: WeightSite,
    initializers: Mapping[str, Tensor],
    value: Tensor,
    phase: tuple[float, float] = (0.0, 0.0),
) -> Iterator[Tensor]:
    """Yield the columns that a weight multiplies, in chunks of (groups, K, positions); none where they are not known.

    Of a large map a grid of positions stands for all, which starts where ``draw_phase`` says: borders differ from the
    middle, and a convolution with strides behind this one sees some positions only.
    """
    weight = initializers[site.initializer]
    if _is_dense(node, weight):
        yield value.reshape(-1, value.shape[-1]).T[None]
        return
    if not _is_unfolded(node, weight):
        return
    groups, size = node.attributes.get_int("group", 1), weight[0].numel()
    value, pads, kernel, strides, dilations = _two_dimensional(node, value, tuple(weight.shape[2:]))
    sizes = len(value), value.shape[2] + pads[2] + pads[3], value.shape[3] + pads[0] + pads[1]
    sparser = _sparser(sizes, kernel, strides, dilations, _POSITIONS_PER_COLUMN * size)
    starts = [int(share * (step // own)) * own for share, step, own in zip(phase, sparser, strides, strict=True)]

    def pad(part: Tensor) -> Tensor:
        return functional.pad(part, pads)[:, :, starts[0] :, starts[1] :]

    for part in _small_parts(value, pad, kernel, sparser, dilations):
        unfolded = functional.unfold(part, kernel, dilation=dilations, stride=sparser)
        yield unfolded.reshape(len(part), groups, size, -1).permute(1, 2, 0, 3).reshape(groups, size, -1)


def _small_parts(
    value: Tensor,
    pad: Callable[[Tensor], Tensor],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Iterator[Tensor]:
    """Cut a map into padded samples, and large samples into strips, each of which unfolds into a bounded size."""
    one = pad(value[:1])
    per_image = max(one.numel() * kernel[0] * kernel[1] // (strides[0] * strides[1]), 1)
    reach = dilations[0] * (kernel[0] - 1) + 1
    lines = (one.shape[2] - reach) // strides[0] + 1
    taken = max(lines * _CHUNK_ELEMENTS // per_image, 1)
    for samples in torch.split(value, max(_CHUNK_ELEMENTS // per_image, 1)):
        part = pad(samples)
        if taken >= lines:
            yield part
            continue
        for first in range(0, lines, taken):
            last = min(first + taken, lines) - 1
            yield part[:, :, first * strides[0] : last * strides[0] + reach]


def _sparser(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], wanted: int
) -> tuple[int, int]:
    """Strides with which large maps give no more positions than are wanted of a feed, spread over all of it.

    ``sizes`` are (count, height, width) of the padded maps.
    """
    height, width = (
        (sizes[axis + 1] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1 for axis in range(2)
    )
    excess = max(sizes[0] * height * width // max(wanted, _FEWEST_POSITIONS), 1)
    down = min(math.isqrt(excess), height)
    return strides[0] * down, strides[1] * min(excess // down, width)


def _two_dimensional(
    node: ir.Node, value: Tensor, kernel: tuple[int, ...]
) -> tuple[Tensor, tuple[int, int, int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Give the input of a 1-d or 2-d convolution, the padding that torch takes, and the rest of its geometry as 2-d."""
    rank = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * (2 * rank))
    strides, dilations = (list(node.attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations"))
    if rank == 1:
        value, kernel, pads = value[:, :, None], (1, *kernel), [0, pads[0], 0, pads[1]]
        strides, dilations = [1, *strides], [1, *dilations]
    around = pads[1], pads[3], pads[0], pads[2]
    return value, around, (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])
