"""Reconstruction: learn a quantized network block by block on calibration data, without labels.

The order of BRECQ (Li et al. 2021): each block is learned on what the quantized network in front of it makes, towards
what the float network makes, and the next one sees the result. Before it is learned its layers are rounded anew on what
they read (see ``sequential``). A block keeps what lowered its error on samples that it was not learned on.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from passes.plan import QuantizationPlan, WeightSite
from passes.qdq_names import QdqNames
from zsq_compile.config.compile import LearnedRounding
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision, reduced_type
from zsq_compile.progress import Advance, Clock, ignore_steps
from zsq_compile.quantization.reconstruction.activation_cache import ActivationCache
from zsq_compile.quantization.reconstruction.block_student import (
    BlockStudent,
    Dropper,
    LearningRates,
    learn,
    learnable_weights,
)
from zsq_compile.quantization.reconstruction.block_work import column_length, count_block_work, run_counting
from zsq_compile.quantization.reconstruction.blocks import Block, find_blocks
from zsq_compile.quantization.reconstruction.budget import BlockCost, LearningBudget, LearningConfig
from zsq_compile.quantization.reconstruction.values import QuantizedValues, prepare_learning, write_values
from zsq_compile.quantization.rounding.second_moments import draw_phase, unfold_inputs
from zsq_compile.quantization.rounding.sequential import LONGEST_COLUMN, InputPair, round_layer
from zsq_compile.quantization.samples import count_fitting_samples, count_kept_samples, find_batched_values
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, insert_quantizers

_BATCH, _SMALLEST_BATCH = 32, 8
_POSITIONS = 1 << 14  # of a map, over all samples of a step: more say the same again
_MEASURED = 8
_QUANTIZED_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRecord:
    """What became of a block.

    Attributes:
        name: of its last layer.
        layers: names of its weighted nodes.
        before: squared error of its outputs relative to their variance, on samples that it is judged on, as the closed
            forms leave it.
        after: the same with the best of what was tried.
        kept: what was rounded anew or learned is in the model; else what the closed forms had left is.
        unsettled: share of the codes that learning left between two integers.
        steps: of the optimiser.
        batch: samples of a step.
        seconds: spent on all steps.

    """

    name: str
    layers: tuple[str, ...]
    before: float
    after: float
    kept: bool
    unsettled: float
    steps: int
    batch: int
    seconds: float


def is_learnable(plan: QuantizationPlan) -> bool:
    """Whether anything has fewer than 8 bits; from 8 on the closed forms leave nothing to gain."""
    formats = [*(site.number_format for site in plan.weights), *(site.number_format for site in plan.activations)]
    return any(number_format.bits < 8 for number_format in formats)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruct:
    """Step: learn codes, steps and biases block by block; the record has what became of each.

    Attributes:
        rounding: how codes are learned.
        learning: how long, in how much memory, and from which seed.
        share: of the time that is left, where time is limited.

    """

    name: ClassVar[str] = "reconstruct"
    rounding: LearnedRounding
    learning: LearningConfig
    share: float = 1.0

    def run(
        self, network: FloatNetwork, state: QuantizedState, clock: Clock
    ) -> tuple[QuantizedState, tuple[BlockRecord, ...]]:
        """See Step."""
        if not is_learnable(state.plan):
            return state, ()
        budget, rng = self.learning.budget(clock, self.share), torch.Generator().manual_seed(self.learning.seed)
        if budget.is_spent:
            return state, ()
        with ActivationCache(self.learning.memory) as cache:
            work = Reconstruction(network, state, self.rounding, budget, cache, rng)
            with clock.stage(self.name, budget.planned) as advance:
                return work.run(advance), tuple(work.records)


class Reconstruction:
    """Learns the blocks of one network, one after the other, on the calibration samples, some of which judge.

    Attributes:
        blocks: in order.
        records: what became of each, as far as it is done.

    """

    def __init__(
        self,
        network: FloatNetwork,
        state: QuantizedState,
        rounding: LearnedRounding,
        budget: LearningBudget,
        cache: ActivationCache,
        rng: torch.Generator,
    ) -> None:
        self._teacher, self._samples, self._plan = network.learner(), network.calibration, state.plan
        self._rounding, self._budget, self._cache, self._rng = rounding, budget, cache, rng
        self._base, start = prepare_learning(state)
        self._start = start.to(self._teacher.device)
        student = insert_quantizers(self._base, state.plan, final=False)
        self._student, names = TorchGraph(student, device=self._teacher.device), QdqNames(student)
        self._behind_grid = {site.value: names.behind_grid(site) for site in state.plan.activations}
        self.blocks = find_blocks(network.model, state.plan, find_batched_values(self._teacher, self._samples))
        self.records: list[BlockRecord] = []
        self._nodes = {str(node.name): node for node in network.model.graph}
        self._learned_scales: set[str] = set()
        self._longest, self._phases = 0.0, torch.Generator().manual_seed(0)
        self._dropper = Dropper(rng, _QUANTIZED_SHARE, reduced_type(self._teacher.device), self._teacher.device)
        self._feed = self._samples.feed_of(network.model)
        self._trained, self._judged = self._samples.split()
        self._fitted, self._tuned = self._samples.split(self._trained)  # dampings are not to be judged as blocks are
        self._costs = self._measure_costs()
        budget.plan(self._costs)

    def run(self, advance: Advance = ignore_steps) -> QuantizedState:
        """Learn all blocks; ``advance`` is called with the optimiser steps done, ``records`` what became of the blocks.

        A block is as it was before where that was better.
        """
        values = self._start
        for name, tensor in self._samples.inputs.items():
            self._write(("float", name), 0, tensor[: self._samples.count])
            self._write(("quantized", name), 0, tensor[: self._samples.count])
        for place, block in enumerate(self.blocks):
            self._forward("float", block, None)
            values = values.merge(self._learn(place, block, values, advance))
            self._forward("quantized", block, values)
            needed = {name for later in self.blocks[place + 1 :] for name in later.inputs}
            self._cache.keep({(side, name) for side in ("float", "quantized") for name in needed})
        return write_values(self._base, self._plan, values)

    def _measure_costs(self) -> list[BlockCost]:
        """Measure on a few samples what a step on each block takes, and what the closed forms have lost behind it."""
        device = self._teacher.device
        few = self._samples.fixed or min(_MEASURED, count_fitting_samples(self._teacher.model))
        samples = {name: value[:few].to(device) for name, value in self._samples.inputs.items()}
        count = len(next(iter(samples.values())))
        names = [name for block in self.blocks for name in (*block.inputs, *block.outputs)]
        values, made = run_counting(self._teacher, samples, names)
        costs, quantized = [], dict(samples)
        for block in self.blocks:
            outputs = self._outputs(block, {name: quantized[name] for name in block.inputs}, self._start)
            quantized.update(outputs)
            error = float(self._distance(outputs, {name: values[name] for name in block.outputs}).mean())
            multiplications, elements = count_block_work(block, self._teacher, made)
            learnable = self._block_student(block, self._start).learnable
            costs.append(
                BlockCost(
                    multiplications=multiplications // count,
                    elements=elements // count,
                    batch=self._batch([values[name] for name in (*block.inputs, *block.outputs)], elements // count),
                    error=error if learnable else 0.0,
                )
            )
        return costs

    def _batch(self, outputs: Sequence[Tensor], elements: int) -> int:
        """Choose the samples of one step on a block with these values, and so many numbers in all that it makes.

        Few where each has a large map, and no more than fit in memory.
        """
        if self._samples.fixed:
            return self._samples.fixed
        positions = max((value[0, 0].numel() for value in outputs if value.ndim > 2), default=1)
        wanted = min(max(_POSITIONS // positions, _SMALLEST_BATCH), _BATCH, self._samples.count)
        return min(wanted, count_kept_samples(4 * elements))

    def _write(self, key: tuple[str, str], start: int, part: Tensor) -> None:
        self._cache.write(key, start, self._samples.count, part.float() if part.is_floating_point() else part)

    def _forward(self, side: str, block: Block, values: QuantizedValues | None) -> None:
        """Run all samples through a block, and keep what it makes."""
        for start in range(0, self._samples.count, self._feed):
            feeds = self._take(side, block.inputs, slice(start, start + self._feed))
            for name, value in self._outputs(block, feeds, values).items():
                self._write((side, name), start, value)

    def _outputs(
        self,
        block: Block,
        feeds: Mapping[str, Tensor],
        values: QuantizedValues | None,
        wanted: tuple[str, ...] | None = None,
    ) -> dict[str, Tensor]:
        """Run a block in full precision, ``values`` None standing for the float network; ``wanted`` for its outputs."""
        names = block.outputs if wanted is None else wanted
        with torch.inference_mode():
            if values is None:
                return self._teacher.run(feeds, names)
            constants = values.feeds(block.layers, self._plan)
            return self._student.run({**feeds, **constants}, names, replace=values.replacements())

    def _learn(self, place: int, block: Block, values: QuantizedValues, advance: Advance) -> QuantizedValues:
        """Round one block anew and learn it; return its best values, those of before among them."""
        tried = [(self._error(block, values), values)]
        if tried[0][0] > 0 and self._budget.has_time(place, self._longest):
            began = time.perf_counter()
            rounded = self._round_anew(block, values)
            tried.append((self._error(block, rounded), rounded))
            self._longest = max(self._longest, time.perf_counter() - began)
        error, start = min(tried, key=_error_first)
        student = self._block_student(block, start)
        steps, seconds = 0, 0.0
        if student.learnable and error > 0:
            started = time.perf_counter()
            drawn = self._samples.deal(self._trained, self._costs[place].batch, self._rng)
            with reduced_precision(self._teacher.device):
                steps = learn(
                    student,
                    lambda: self._draw(block, next(drawn)),
                    lambda outputs, targets: self._distance(outputs, targets).mean() / error,
                    self._budget.pace(place),
                    self._dropper,
                    LearningRates(),
                    advance,
                )
            seconds = time.perf_counter() - started
        if steps:
            learned = start.merge(student.values())
            tried.append((self._error(block, learned), learned))
        after, best = min(tried, key=_error_first)
        self._learned_scales.update(student.growths)  # what the next block reads is made with those of now
        self.records.append(
            BlockRecord(
                name=block.name,
                layers=tuple(site.node for site in block.layers),
                before=tried[0][0],
                after=after,
                kept=best is not values,
                unsettled=student.unsettled(),
                steps=steps,
                batch=self._costs[place].batch,
                seconds=seconds,
            )
        )
        return best

    def _round_anew(self, block: Block, values: QuantizedValues) -> QuantizedValues:
        """Round the layers below 8 bits of a block one after the other, each on what it reads behind those before.

        A weight that several layers share stays as it was rounded for all of them.
        """
        weights, sites = self._teacher.initializers, self._plan.sites_by_weight()
        for site in block.layers:
            if site.number_format.bits >= 8 or site.axis is None or len(sites[site.initializer]) > 1:
                continue
            weight, step = weights[site.initializer].cpu(), self._start.steps[site.initializer].cpu()
            if column_length(site, weights) > LONGEST_COLUMN:
                continue
            layer = round_layer(site, weight, step.flatten(), self._input_pairs(block, site, values))
            if layer is None:
                continue
            biases = {str(site.bias): weights[str(site.bias)].cpu() + layer.shift} if site.bias in values.biases else {}
            newer = QuantizedValues(
                weights={site.initializer: layer.weight},
                steps={site.initializer: layer.step.reshape(step.shape)},
                biases=biases,
                scales={},
            )
            values = values.merge(newer.to(self._teacher.device))
        return values

    def _input_pairs(self, block: Block, site: WeightSite, values: QuantizedValues) -> Iterator[InputPair]:
        """Run all samples through a block up to one of its layers, in both networks."""
        node, name = self._nodes[site.node], site.data_input
        made = self._behind_grid.get(name, name)
        for judged, samples in ((False, self._fitted), (True, self._tuned)):
            for index in torch.split(samples, self._feed):
                found = []
                for side, value, constants in (("quantized", made, values), ("float", name, None)):
                    feeds = self._take(side, block.inputs, index)
                    found.append(self._outputs(block, feeds, constants, (value,))[value].float())
                phase, weights = draw_phase(self._phases), self._teacher.initializers
                columns = zip(*(unfold_inputs(node, site, weights, x, phase) for x in found), strict=True)
                yield from (InputPair(quantized=left, real=right, judged=judged) for left, right in columns)

    def _block_student(self, block: Block, values: QuantizedValues) -> BlockStudent:
        codes = learnable_weights(block, values, self._teacher.initializers, self._rounding)
        return BlockStudent(self._student, block, self._plan, values, codes, self._learned_scales)

    def _draw(self, block: Block, index: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Return some samples: inputs from both networks, and targets."""
        quantized, floats = (self._take(side, block.inputs, index) for side in ("quantized", "float"))
        return quantized, floats, self._take("float", block.outputs, index)

    def _take(self, side: str, names: Sequence[str], index: Tensor | slice) -> dict[str, Tensor]:
        """Return some samples of some values, where the networks run."""
        return {name: self._cache.take((side, name), index).to(self._teacher.device) for name in names}

    def _error(self, block: Block, values: QuantizedValues) -> float:
        """Mean distance of the outputs on the samples that judge, with codes rounded for good."""
        parts = []
        for index in torch.split(self._judged, self._feed):
            feeds, targets = self._take("quantized", block.inputs, index), self._take("float", block.outputs, index)
            parts.append(self._distance(self._outputs(block, feeds, values), targets))
        return float(torch.cat(parts).mean())

    @staticmethod
    def _distance(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Squared error of each sample, relative to the variance of the targets, over all float outputs."""
        device = next((target.device for target in targets.values()), None)
        total = torch.zeros(max(map(len, targets.values()), default=1), device=device)
        for name, target in targets.items():
            if target.is_floating_point():
                wanted, known = target.float(), target.isfinite()  # an infinite logit masks a class
                wanted = torch.where(known, wanted, 0.0)
                error = torch.where(known, outputs[name].float() - wanted, 0.0).square().reshape(len(wanted), -1)
                spread = wanted.var(correction=0) if wanted.numel() > 1 else wanted.square().mean()
                total = total + error.mean(1) / spread.clamp_min(1e-12)
        return total


def _error_first(tried: tuple[float, QuantizedValues]) -> float:
    return tried[0]
