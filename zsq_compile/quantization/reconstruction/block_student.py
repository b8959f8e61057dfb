"""Learn the codes, steps and biases of one block, so that what it makes comes near what the float network makes.

Inputs come from the quantized network before the block, targets from the float network. With QDrop (Wei et al. 2022,
algorithm 1) every quantized activation, the block's inputs included, is replaced by the float one in half of its
elements, drawn anew at each step: what is learned must not lean on one pattern of activation errors.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from passes.plan import QuantizationPlan, WeightSite
from passes.qdq_names import dequantized_name, float_name, scale_name
from zsq_compile.config.compile import LearnedRounding
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.reconstruction.blocks import Block
from zsq_compile.quantization.reconstruction.learned_weights import LearnedWeight, grow, make_learnable
from zsq_compile.quantization.reconstruction.values import QuantizedValues

_POOL = 1 << 22
_REGULARISER = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRates:
    """Step sizes of Adam at the start; all go down to 0 along half a cosine, but for soft codes.

    Soft codes are pushed to one side hardest at the end: at a rate of 0 they would be left where they are.

    Attributes:
        codes: in units of a code.
        weight_steps: relative to each step.
        scales: relative to the activation's step.
        biases: relative to the error that rounding a channel's weights makes in its output.

    """

    codes: float = 1e-2
    weight_steps: float = 2e-3
    scales: float = 2e-2
    biases: float = 1e-2


class Dropper:
    """Random 0s and 1s of any shape, cut from a pool: drawing fresh ones costs more than the convolution behind."""

    def __init__(
        self, rng: torch.Generator, keep: float, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self._rng = rng
        self._pool = (torch.rand(_POOL, generator=rng) < keep).to(device, dtype)

    def like(self, tensor: Tensor) -> Tensor:
        """Return 0s and 1s in the shape and type of a tensor, in the memory order of images with channels last."""
        size = tensor.numel()
        pool = self._pool.repeat(-(-size // _POOL) + 1) if size >= _POOL else self._pool
        start = int(torch.randint(len(pool) - size + 1, (1,), generator=self._rng))
        flat = pool[start : start + size]
        if tensor.ndim < 3:
            return flat.view(tensor.shape).to(tensor.dtype)
        return flat.view(len(tensor), *tensor.shape[2:], tensor.shape[1]).movedim(-1, 1).to(tensor.dtype)


class BlockStudent:
    """A block of the QDQ graph with its learnable numbers.

    Args:
        graph: the whole QDQ graph of ``plan``.
        block: to learn.
        start: values of all its constants.
        codes: the weights to be learned, by initializer, see ``learnable_weights``.
        learned_scales: groups whose activation step has been learned by a block before.
        below: activations of fewer bits than this are learned.

    """

    def __init__(
        self,
        graph: TorchGraph,
        block: Block,
        plan: QuantizationPlan,
        start: QuantizedValues,
        codes: Mapping[str, LearnedWeight],
        learned_scales: Collection[str] = (),
        *,
        below: int = 8,
    ) -> None:
        self._graph, self._block, self._plan, self._start, self.codes = graph, block, plan, start, codes
        self._sites = {
            site.value: site for site in plan.activations if site.moved_from is None and site.value in block.read
        }
        self.shifts = {
            str(site.bias): nn.Parameter(torch.zeros_like(start.biases[str(site.bias)]))
            for site in block.layers
            if site.bias in start.biases
        }
        self._units = {str(site.bias): self._bias_unit(site) for site in block.layers if site.bias in self.shifts}
        self.growths = {
            site.group: nn.Parameter(torch.zeros_like(start.scales[site.group]))
            for site in self._sites.values()
            if site.number_format.bits < below and site.group not in learned_scales
        }

    def _bias_unit(self, site: WeightSite) -> Tensor:
        """About the deviation of a layer's outputs that the rounding of its weights causes, (channels,)."""
        group = next(activation for activation in self._plan.activations if activation.value == site.data_input)
        size = self._start.scales[group.group] * 2.0 ** (group.number_format.bits - 2)
        step = self._start.steps[site.initializer].flatten()
        columns = self._start.weights[site.initializer].numel() / len(self._start.biases[str(site.bias)])
        return step * size * math.sqrt(columns / 12.0)

    def _biases(self) -> dict[str, Tensor]:
        return {name: self._start.biases[name] + self._units[name] * shift for name, shift in self.shifts.items()}

    def _scales(self) -> dict[str, Tensor]:
        return {group: grow(self._start.scales[group], growth) for group, growth in self.growths.items()}

    @property
    def is_coarse(self) -> bool:
        """Whether no activation grid is so fine that bfloat16, with 8 bits itself, would drown its errors."""
        return all(site.number_format.bits < 8 for site in self._sites.values())

    @property
    def learnable(self) -> bool:
        """Whether the block has anything to learn: at 8 bits the closed forms leave nothing to a single block."""
        return bool(self.codes or self.growths)

    def run(self, quantized: Mapping[str, Tensor], floats: Mapping[str, Tensor], dropper: Dropper) -> dict[str, Tensor]:
        """Run the block, differentiably, on its inputs as both networks in front of it make them.

        ``dropper`` draws which elements are quantized; see the module about what is dropped.
        """
        real = dict(floats)

        def drop(node: ir.Node, made: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            real.update({str(v.name): x for v, x in zip(node.outputs, made, strict=False) if v.name in self._sites})
            value = float_name(node.outputs[0].name)
            if node.op_type != "DequantizeLinear" or value not in self._sites:
                return None
            x = real.pop(value)
            if self._sites[value].number_format.bits >= 8 and value not in quantized:
                return (x,)  # such fine steps only slow the learning down
            return (torch.lerp(x, made[0].to(x.dtype), dropper.like(x)),)

        feeds, scales = self._constants()
        return self._graph.run({**quantized, **feeds}, self._block.outputs, replace=scales, visit=drop)

    def run_quantized(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Run up to some values of the block, differentiably, with every activation quantized as it will ship."""
        feeds, scales = self._constants()
        return self._graph.run({**inputs, **feeds}, outputs, replace=scales)

    def run_frozen(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Do the same with all numbers as they are now: differentiable to the inputs, and to nothing that is learned.

        Samples that are made against a student so leave no gradient in it.
        """
        with torch.no_grad():
            feeds, scales = self._constants()
        return self._graph.run({**inputs, **feeds}, outputs, replace=scales)

    def _constants(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what the graph is fed in the place of its constants, and the initializers it runs with."""
        feeds = self._start.feeds(self._block.layers, self._plan)
        feeds |= {dequantized_name(name): code.values() for name, code in self.codes.items()}
        feeds |= {dequantized_name(name): bias for name, bias in self._biases().items()}
        scales = {scale_name(group): scale for group, scale in self._scales().items()}
        return feeds, {**self._start.replacements(), **scales}

    def optimizer(self, rates: LearningRates) -> torch.optim.Optimizer:
        """Adam with a rate of its own for each kind of number, relative to its size."""
        growths = [code.growth for code in self.codes.values() if code.growth is not None]
        soft = self.regulariser(1.0) is not None
        kinds = (
            ([code.logits for code in self.codes.values()], rates.codes, soft),
            (growths, rates.weight_steps, False),
            (list(self.growths.values()), rates.scales, False),
            (list(self.shifts.values()), rates.biases, False),
        )
        return torch.optim.Adam(
            [{"params": numbers, "lr": rate, "steady": steady} for numbers, rate, steady in kinds if numbers]
        )

    def regulariser(self, progress: float) -> Tensor | None:
        """Mean push of undecided codes to one side; None when there is none."""
        pushes = [push for code in self.codes.values() if (push := code.regulariser(progress)) is not None]
        return (
            sum(pushes, torch.zeros(())) / sum(code.logits.numel() for code in self.codes.values()) if pushes else None
        )

    def values(self) -> QuantizedValues:
        """Return what has been learned, codes rounded for good."""
        with torch.no_grad():
            steps = {name: code.step().clone() for name, code in self.codes.items()}
            return QuantizedValues(
                weights={name: code.codes() * steps[name] for name, code in self.codes.items()},
                steps=steps,
                biases=self._biases(),
                scales=self._scales(),
            )

    def unsettled(self) -> float:
        """Share of all codes that learning left between two integers."""
        count = sum(code.logits.numel() for code in self.codes.values())
        return sum(code.unsettled() * code.logits.numel() for code in self.codes.values()) / max(count, 1)


def learnable_weights(
    block: Block, start: QuantizedValues, weights: Mapping[str, Tensor], rounding: LearnedRounding, *, below: int = 8
) -> dict[str, LearnedWeight]:
    """Make the weights of a block that have fewer bits than ``below`` learnable, from their codes at the start on.

    Those that layers outside the block share keep their codes. ``weights`` are those of the float network, by
    initializer.
    """
    made = {}
    for site in block.layers:
        if site.number_format.bits < below and site.initializer in block.weights:
            name, step = site.initializer, start.steps[site.initializer]
            codes = torch.round(start.weights[name] / step)
            made[name] = make_learnable(rounding, weights[name], codes, step, site.number_format)
    return made


def learn(
    student: BlockStudent,
    draw: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]]],
    error: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor],
    pace: Iterator[float],
    dropper: Dropper,
    rates: LearningRates,
    advance: Advance = ignore_steps,
) -> int:
    """Train a block in place; returns the number of optimiser steps.

    Args:
        student: the block.
        draw: gives (inputs from the quantized network, inputs from the float network, targets) of some samples.
        error: of (outputs, targets); about 1 at the start, so that one weight of the regulariser suits all blocks.
        pace: progress from 0 to 1 at the start of each step.
        dropper: of activations.
        rates: of the optimiser.
        advance: called after each step.

    """
    optimizer = student.optimizer(rates)
    first = [group["lr"] for group in optimizer.param_groups]
    steps = 0
    for steps, progress in enumerate(pace, 1):  # noqa: B007 - the count is the result
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate if group["steady"] else rate * 0.5 * (1 + math.cos(math.pi * progress))
        quantized, floats, targets = draw()
        loss = error(student.run(quantized, floats, dropper), targets)
        push = student.regulariser(progress)
        optimizer.zero_grad(set_to_none=True)
        (loss if push is None else loss + _REGULARISER * push).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(1)
    return steps
