"""Take the mean error of quantized layers back out of their biases: int32 codes, or floats where the data stay float.

Rounding the weights of a channel shifts the mean of its output by (W_q - W) E[x], which no later layer can undo and
which depthwise layers, with few weights per channel, suffer most from (DFQ, Nagel et al. 2019, section 4.2).

A bias that several layers share is corrected by the mean of what each of them would want.

``correct_analytically`` knows E[x] from BatchNormalization statistics and needs no data. ``correct_empirically``
measures the shift on data, layer by layer in order, each behind layers that are corrected already.
Both return changed initializers of the QDQ graph.

Where the data come from several populations, of which only one will be met in use, a shift is taken out as far as all
agree: nothing where they differ in sign, else the smallest. More would shift the outputs of the others.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from passes.analysis.find_uneven_values import find_uneven_values
from passes.plan import QuantizationPlan, WeightSite
from passes.qdq_names import codes_name
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias.moment_propagation import ValueMoments, per_channel_sum

_INT32_LIMIT = 2**31 - 1
_PART_ELEMENTS = 1 << 22


def correct_analytically(
    plan: QuantizationPlan, quantized: TorchGraph, teacher: TorchGraph, moments: Mapping[str, ValueMoments]
) -> dict[str, Tensor]:
    """Correct every layer whose input moments are known; returns new biases by initializer name.

    ``plan`` is that of ``quantized``, the QDQ graph; ``moments`` are those of the float graph's values, by name.
    """
    nodes = {node.name: node for node in teacher.model.graph}
    changed = {}
    for name, sites in _by_bias(_correctable(plan, quantized), quantized).items():
        shifts = []
        for site in sites:
            known = moments.get(site.data_input)
            error = (dequantize_weight(plan, site, quantized) - teacher.initializers[site.initializer]).double()
            shifts.append(None if known is None else _mean_shift(nodes[site.node], error, known.mean))
        found = [-shift for shift in shifts if shift is not None]
        if len(found) == len(sites):
            changed[name] = _shift_bias(plan, sites[0], quantized, torch.stack(found).mean(0))
    return changed


def correct_empirically(
    plan: QuantizationPlan,
    quantized: TorchGraph,
    teacher: TorchGraph,
    batches: Sequence[Mapping[str, Tensor]],
    layers: Collection[str] | None = None,
    populations: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """Correct layers one after the other by the shift of their outputs' channel means on data.

    One batch goes through both graphs once. Several batches cost a run up to each layer, because a layer is to be
    measured on all of them before the next one is. ``layers`` are names of nodes; None means all. Left out are layers
    that make as many rows as the data decide: there may be others in both graphs, or none. ``populations``, for each
    batch an int64 (count,), number that of every sample; layers whose outputs have no axis of samples in front are left
    out then. Returns new biases by initializer name.
    """
    uneven = find_uneven_values(teacher.model)
    sites = {site.node: site for site in _correctable(plan, quantized) if layers is None or site.node in layers}
    parted = [_Parted(len(next(iter(batch.values()))), None) for batch in batches]
    if populations is not None:
        known = sorted({number for one in populations for number in one.tolist()})
        parted = [_Parted(len(one), torch.searchsorted(torch.tensor(known), one), len(known)) for one in populations]
    wanted: dict[str, list[Tensor]] = {name: [] for name in sites}
    outputs: dict[str, str] = {}

    with torch.no_grad():
        for batch, one in zip(batches, parted, strict=True):

            def remember(node: ir.Node, made: tuple[Tensor, ...], one: _Parted = one) -> None:
                known = node.name in sites and made[0].numel() and node.outputs[0].name not in uneven
                if known and one.fits(made[0]):
                    wanted[str(node.name)].append(one.channel_means(made[0]))
                    outputs[str(node.name)] = str(node.outputs[0].name)

            teacher.run(batch, visit=remember)
        means = {name: _mean(found, parted) for name, found in wanted.items() if found}
        in_order = [(sites[name], means[name], outputs[name]) for name in outputs]
        shared = _correct_shared(plan, quantized, batches, parted, [(sites[name], wanted[name]) for name in outputs])
        in_order = [layer for layer in in_order if _bias_name(layer[0], quantized) not in shared]
        if len(batches) == 1:
            return shared | _correct_in_one_run(plan, quantized, batches[0], parted[0], in_order, shared)
        return _correct_in_turn(plan, quantized, batches, parted, in_order, shared)


def _correct_shared(
    plan: QuantizationPlan,
    quantized: TorchGraph,
    batches: Sequence[Mapping[str, Tensor]],
    parted: Sequence["_Parted"],
    layers: Sequence[tuple[WeightSite, Sequence[Tensor]]],
) -> dict[str, Tensor]:
    """Correct the biases that layers share, by what each layer lacks where all in front of it lack nothing.

    ``layers`` come with the means of their channels in the float network, batch by batch.
    """
    wanted = {site.node: means for site, means in layers}
    groups = _by_bias([site for site, _ in layers], quantized)
    shifts: dict[str, list[Tensor]] = {site.node: [] for sites in groups.values() if len(sites) > 1 for site in sites}
    for place, batch in enumerate(batches if shifts else ()):

        def correct(node: ir.Node, made: tuple[Tensor, ...], place: int = place) -> tuple[Tensor, ...] | None:
            if node.name not in wanted:
                return None
            shift = wanted[node.name][place] - parted[place].channel_means(made[0])
            if node.name in shifts:
                shifts[str(node.name)].append(shift)
            return (made[0] + parted[place].along_channels(shift, made[0]), *made[1:])

        quantized.run(batch, visit=correct)
    changed = {}
    for name, sites in groups.items():
        if len(sites) > 1:
            mean = torch.stack([agreed(_mean(shifts[site.node], parted)) for site in sites]).mean(0)
            changed[name] = _shift_bias(plan, sites[0], quantized, mean)
    return changed


def _correct_in_one_run(
    plan: QuantizationPlan,
    quantized: TorchGraph,
    batch: Mapping[str, Tensor],
    parted: "_Parted",
    layers: Sequence[tuple[WeightSite, Tensor, str]],
    replaced: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Correct each layer as it runs, and hand its corrected output on to the layers behind it."""
    wanted = {site.node: (site, mean) for site, mean, _ in layers}
    changed: dict[str, Tensor] = {}

    def correct(node: ir.Node, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if node.name not in wanted:
            return None
        site, mean = wanted[node.name]
        name = _bias_name(site, quantized)
        shift = agreed(mean - parted.channel_means(outputs[0]))
        changed[name] = _shift_bias(plan, site, quantized, shift)
        step = bias_step(plan, site).to(outputs[0]) if name != site.bias else outputs[0].new_ones(())
        moved = (changed[name] - quantized.initializers[name]).to(step.dtype) * step
        return (outputs[0] + _along_channels(moved, outputs[0]), *outputs[1:])

    quantized.run(batch, visit=correct, replace=replaced)
    return changed


def _correct_in_turn(
    plan: QuantizationPlan,
    quantized: TorchGraph,
    batches: Sequence[Mapping[str, Tensor]],
    parted: Sequence["_Parted"],
    layers: Sequence[tuple[WeightSite, Tensor, str]],
    replaced: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    changed = dict(replaced)
    found: dict[str, list[Tensor]] = {site.node: [] for site, _, _ in layers}
    for site, mean, output in layers:
        for batch, one in zip(batches, parted, strict=True):
            # by node: a quantized graph output has its layer's name, but is not what the layer makes
            def remember(node: ir.Node, made: tuple[Tensor, ...], wanted: str = site.node, one: _Parted = one) -> None:
                if node.name == wanted:
                    found[wanted].append(one.channel_means(made[0]))

            quantized.run(batch, [output], replace=changed, visit=remember)
        shift = agreed(mean - _mean(found[site.node], parted))
        changed[_bias_name(site, quantized)] = _shift_bias(plan, site, quantized, shift)
    return changed


def agreed(shifts: Tensor) -> Tensor:
    """Return the part of shifts, (populations, channels), that all populations share: (channels,)."""
    if len(shifts) == 1:
        return shifts[0]
    alike = (shifts > 0).all(0) | (shifts < 0).all(0)
    smallest = shifts.gather(0, shifts.abs().argmin(0, keepdim=True))[0]
    return torch.where(alike, smallest, torch.zeros_like(smallest))


@dataclass(frozen=True, slots=True, eq=False)
class _Parted:
    """The samples of one batch by population: ``numbers`` is int64 (count,); None where all are of the same."""

    count: int
    numbers: Tensor | None
    populations: int = 1

    @property
    def sizes(self) -> list[int]:
        """Samples of each population."""
        if self.numbers is None:
            return [self.count]
        return [int((self.numbers == number).sum()) for number in range(self.populations)]

    def fits(self, output: Tensor) -> bool:
        """Whether the parts of an output are known: there is one, or its first axis counts samples."""
        return self.numbers is None or len(output) == self.count

    def channel_means(self, output: Tensor) -> Tensor:
        """Mean over everything but axis 1 for each population, float64, (populations, channels)."""
        if self.numbers is None:
            return _channel_means(output)[None]
        parts = (output[self.numbers == number] for number in range(self.populations))
        return torch.stack([_channel_means(one) if len(one) else one.new_zeros(one.shape[1]).double() for one in parts])

    def along_channels(self, shifts: Tensor, output: Tensor) -> Tensor:
        """Lay (populations, channels) numbers out so that each sample of an output gets those of its population."""
        if self.numbers is None:
            return _along_channels(shifts[0], output)
        each = shifts.to(output)[self.numbers]
        return each.reshape(*each.shape, *[1] * (output.ndim - 2))


def dequantize_weight(plan: QuantizationPlan, site: WeightSite, quantized: TorchGraph) -> Tensor:
    """Real values of a quantized weight, float32, in the shape of the float one."""
    codes = quantized.initializers[codes_name(site.initializer)]
    step = torch.from_numpy(plan.weight_scales[site.initializer].scale).to(codes.device)
    if site.axis is None:
        return codes.float() * step
    shape = [1] * codes.ndim
    shape[site.axis] = -1
    return codes.float() * step.reshape(shape)


def bias_step(plan: QuantizationPlan, site: WeightSite) -> Tensor:
    """Step of a layer's int32 bias, float32, (channels,)."""
    group = next(activation.group for activation in plan.activations if activation.value == site.data_input)
    data_step = torch.from_numpy(plan.activation_scales[group].scale)
    return data_step * torch.from_numpy(plan.weight_scales[site.initializer].scale)


def dequantize_biases(plan: QuantizationPlan, quantized: TorchGraph) -> dict[str, Tensor]:
    """Real values of the int32 biases of a QDQ graph, float32, by the name of the float bias."""
    return {
        str(site.bias): quantized.initializers[codes_name(site.bias)].float() * bias_step(plan, site)
        for site in plan.weights
        if codes_name(site.bias) in quantized.initializers
    }


def _correctable(plan: QuantizationPlan, quantized: TorchGraph) -> list[WeightSite]:
    return [site for site in plan.weights if site.bias and _bias_name(site, quantized) in quantized.initializers]


def _by_bias(sites: Sequence[WeightSite], quantized: TorchGraph) -> dict[str, list[WeightSite]]:
    found: dict[str, list[WeightSite]] = {}
    for site in sites:
        found.setdefault(_bias_name(site, quantized), []).append(site)
    return found


def _bias_name(site: WeightSite, quantized: TorchGraph) -> str:
    """Name the initializer that holds a layer's bias: int32 codes, or the float one where its data stay float."""
    codes = codes_name(site.bias)
    return codes if codes in quantized.initializers else str(site.bias)


def _shift_bias(plan: QuantizationPlan, site: WeightSite, quantized: TorchGraph, shift: Tensor) -> Tensor:
    codes = quantized.initializers[_bias_name(site, quantized)]
    if codes.is_floating_point():
        return codes + shift.to(codes).reshape(codes.shape)
    step = bias_step(plan, site).double().to(codes.device)
    moved = codes.double() + torch.round(shift.double() / step)
    return moved.clamp(-_INT32_LIMIT, _INT32_LIMIT).to(codes.dtype)


def _along_channels(numbers: Tensor, output: Tensor) -> Tensor:
    """Lay (channels,) numbers out so that they are added to an output of a layer."""
    return numbers.to(output).reshape(1, -1, *[1] * (output.ndim - 2))


def _channel_means(output: Tensor) -> Tensor:
    """Mean over everything but axis 1, float64, (channels,); a large output is made float64 in parts."""
    others = [axis for axis in range(output.ndim) if axis != 1]
    samples = max(_PART_ELEMENTS * len(output) // max(output.numel(), 1), 1)
    sums = [part.double().sum(others) for part in torch.split(output, samples)]
    return torch.stack(sums).sum(0) / max(output.numel() // output.shape[1], 1)


def _mean(means: Sequence[Tensor], parted: Sequence[_Parted]) -> Tensor:
    """Mean of (populations, channels) numbers over batches with different numbers of samples."""
    sizes = [one.sizes for one in parted]
    rows = []
    for number in range(len(means[0])):
        own = [size[number] for size in sizes]
        weights = torch.tensor(own, dtype=torch.float64, device=means[0].device)
        rows.append(torch.stack([mean[number] for mean in means]).T @ (weights / weights.sum()))
    return torch.stack(rows)


def _mean_shift(node: ir.Node, error: Tensor, mean: Tensor) -> Tensor | None:
    """Predict the shift of a layer's output channels from a weight error and input means, (channels,)."""
    if node.op_type == "Gemm":
        error = error if node.attributes.get_int("transB", 0) else error.T
        if error.shape[1] != len(mean) or node.attributes.get_int("transA", 0) == 1:
            return None
        return node.attributes.get_float("alpha", 1.0) * (error @ mean)
    if node.op_type == "ConvTranspose":  # which taps reach an output position depends on the position
        return None
    count = node.attributes.get_int("group", 1)
    if error.ndim < 3 or error.shape[1] * count != len(mean):
        return None
    coverage = _tap_coverage(node, tuple(error.shape[2:]))
    if coverage is None:
        return None
    return per_channel_sum((error * coverage).flatten(2).sum(2), mean, count)


def _tap_coverage(node: ir.Node, kernel: tuple[int, ...]) -> Tensor | None:
    """Share of the output positions at which each tap of a kernel reads the image and not its zero border.

    On a 7x7 map with padding 1 every outer tap misses a seventh of the positions. Each axis has its share, and a tap
    the product of them. None where padding meets an unknown size.
    """
    rank = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * (2 * rank))
    strides, dilations = (node.attributes.get_ints(name, [1] * rank) for name in ("strides", "dilations"))
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    coverage = torch.ones(kernel, dtype=torch.float64)
    for axis, taps in enumerate(kernel):
        before, after = pads[axis], pads[axis + rank]
        if not before and not after:
            continue
        size = None if shape is None else shape[axis + 2]
        if not isinstance(size, int):
            return None
        positions = (before + size + after - dilations[axis] * (taps - 1) - 1) // strides[axis] + 1
        first = torch.arange(positions) * strides[axis] - before
        read = first[None, :] + torch.arange(taps)[:, None] * dilations[axis]
        share = ((read >= 0) & (read < size)).double().mean(1)
        coverage = coverage * share.reshape([-1 if other == axis else 1 for other in range(rank)])
    return coverage
