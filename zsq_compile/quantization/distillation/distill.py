"""Distillation: train a whole quantized network towards the float one, without labels.

What learning block by block cannot do: all codes, steps, biases and activation scales of the QDQ graph move together,
for what comes out at its end (Hinton et al. 2015; as GDFQ, Xu et al. 2020, but without labels, which harm at few bits).
Every activation is quantized as it will ship. BatchNormalization is folded, so its statistics are frozen.
"""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from zsq_compile.config.distillation import DistillConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, QuantizationError
from zsq_compile.progress import Advance, Clock, ignore_steps
from zsq_compile.quantization.distillation.batches import Batches, LiveSamples, draw_batches, mix_in_live
from zsq_compile.quantization.distillation.checkpoint import Checkpoint, SavedState, fingerprint, patient_interrupts
from zsq_compile.quantization.distillation.losses import agreement, output_distance
from zsq_compile.quantization.distillation.trainer import CurvePoint, DistillationLoss, Trainer
from zsq_compile.quantization.reconstruction.block_student import BlockStudent, learnable_weights
from zsq_compile.quantization.reconstruction.block_work import count_block_work, run_counting
from zsq_compile.quantization.reconstruction.blocks import Block, find_blocks, whole_network
from zsq_compile.quantization.reconstruction.budget import BlockCost, LearningBudget, LearningConfig
from zsq_compile.quantization.reconstruction.values import QuantizedValues, prepare_learning, write_values
from zsq_compile.quantization.samples import Batch, Samples, count_kept_samples, find_batched_values
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, insert_quantizers

_BATCH, _MEASURED = 32, 8
_JUDGEMENTS = 20
_STEPS_BETWEEN = 25  # two judgements where the clock decides how many steps there are
_ALL_WIDTHS = 1 << 10
_KEPT_EVERY = 120.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRecord:
    """What became of a distillation.

    Attributes:
        steps: of the optimiser, those before an interruption included.
        batch: samples of a step.
        kept_step: step whose values are in the model; 0 where nothing was better than the start.
        agreement_before, agreement_after: share of common decisions on held-out samples, at the start and with what was
            kept; None where no output has classes.
        divergence_before, divergence_after: distance of the outputs on them.
        curve: all judgements.
        seconds: spent in this run.

    """

    steps: int
    batch: int
    kept_step: int
    agreement_before: float | None
    agreement_after: float | None
    divergence_before: float
    divergence_after: float
    curve: tuple[CurvePoint, ...]
    seconds: float

    def words(self) -> str:
        """Say in a line what came of it."""
        kept = f"kept step {self.kept_step} of {self.steps}" if self.kept_step else f"{self.steps} steps, start kept"
        shares = (self.agreement_before, self.agreement_after)
        before, after = (None if share is None else f"{share:.2%}" for share in shares)
        decisions = "" if before is None else f"held-out agreement {before} -> {after}, "
        return f"{kept}: {decisions}divergence {self.divergence_before:.3g} -> {self.divergence_after:.3g}"


def pace(budget: LearningBudget, steps: int | None, done: int, reached: float) -> Iterator[float]:
    """Progress, from 0 towards 1, at the start of each step that is left.

    The budget decides the number of ``steps`` where that is not given. ``done`` of them were done before an
    interruption, and the progress of the last was ``reached``.
    """
    count = budget.planned if steps is None else steps
    clock = itertools.repeat(0.0) if budget.deadline is None else budget.pace(0)
    for place, passed in zip(itertools.count(done), clock, strict=False):
        if count is not None and place >= count:
            return
        counted = 0.0 if count is None else place / count
        yield counted if budget.deadline is None else max(counted, reached + (1.0 - reached) * passed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distill:
    """Step: train the whole network towards the float one; the record is the DistillRecord."""

    name: ClassVar[str] = "distill"
    config: DistillConfig
    learning: LearningConfig
    live: LiveSamples | None = None

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, DistillRecord]:
        """See Step."""
        work = Distillation(network, state, self.config, self.learning.budget(clock), self.learning.seed, self.live)
        with clock.stage(self.name, work.total) as advance:
            return work.run(advance)


class Distillation:
    """One distillation, on the calibration samples, some of which judge.

    ``live`` makes samples while the student learns, to be learned on beside those of the set, or in their place.

    Attributes:
        total: steps that are planned; None where the clock decides.

    """

    def __init__(
        self,
        network: FloatNetwork,
        state: QuantizedState,
        config: DistillConfig,
        budget: LearningBudget,
        seed: int,
        live: LiveSamples | None = None,
    ) -> None:
        samples, self._plan, self._teacher = network.calibration, state.plan, network.learner()
        self._samples, self._config, self._budget, self._live = samples, config, budget, live
        _check_inputs(samples, config)
        device = self._teacher.device
        self._feed = samples.feed_of(network.model)
        few = {name: value[: self._feed].to(device) for name, value in samples.inputs.items()}
        batched = find_batched_values(self._teacher, replace(samples, inputs=few))
        self._block = whole_network(network.model, state.plan, batched)
        self._base, self._start = prepare_learning(state)
        self._student = TorchGraph(insert_quantizers(self._base, state.plan, final=False), device=device)
        self._trained, self._judged = samples.split()
        self._batch = samples.fixed or min(_BATCH, len(self._trained))
        self._rng = torch.Generator().manual_seed(seed)
        self._features = self._measure(few, find_blocks(network.model, state.plan, batched))
        self._settings = {**asdict(replace(config, checkpoint=None)), "seed": seed, "effort": budget.effort}
        self._settings["source"] = "" if live is None else live.description

    def _measure(self, few: Batch, blocks: tuple[Block, ...]) -> tuple[str, ...]:
        """Plan the steps by a run of the float network; returns the maps whose channel attentions are compared."""
        count = self._samples.fixed or min(_MEASURED, self._samples.count)
        outputs, ends = self._block.outputs, [name for block in blocks for name in block.outputs]
        values, made = run_counting(self._teacher, {name: x[:count] for name, x in few.items()}, (*ends, *outputs))
        if not any(values[name].is_floating_point() for name in outputs):
            raise QuantizationError(
                "distillation wants an output of real numbers whose first axis counts samples, got none among "
                f"{', '.join(self._teacher.output_names)}: leave --distill out"
            )
        multiplications, elements = count_block_work(self._block, self._teacher, made)
        cost = BlockCost(
            multiplications=multiplications // count, elements=elements // count, batch=self._batch, error=1.0
        )
        self._budget.plan([cost])
        self._part = self._samples.fixed or count_kept_samples(4 * elements // count)
        self.total = self._config.steps or self._budget.planned
        maps = [name for name in ends if values[name].ndim > 2 and name not in outputs]
        if self._config.feature_weight and not maps:
            raise ConfigError(
                "distill.feature_weight compares maps between blocks, and this model has none: set it to 0"
            )
        return tuple(maps) if self._config.feature_weight else ()

    def run(self, advance: Advance = ignore_steps) -> tuple[QuantizedState, DistillRecord]:
        """Train; ConfigError where the checkpoint is of something else, or cannot be written."""
        began, path = time.perf_counter(), self._config.checkpoint
        checkpoint = None
        if path is not None:
            checkpoint = Checkpoint(Path(path), fingerprint(self._teacher.model, self._plan, self._settings))
        saved = None if checkpoint is None else checkpoint.read(self._teacher.device)
        start = self._start.to(self._teacher.device) if saved is None else saved.start
        codes = learnable_weights(self._block, start, self._teacher.initializers, "lsq", below=_ALL_WIDTHS)
        student = BlockStudent(self._student, self._block, self._plan, start, codes, below=_ALL_WIDTHS)
        loss = DistillationLoss(
            student=student,
            teacher=self._teacher,
            outputs=self._block.outputs,
            features=self._features,
            config=self._config,
        )
        trainer = Trainer(loss, self._check, start, self._rng, self._live, part=self._part)
        if saved is not None:
            trainer.restore(saved.training, saved.best)
            advance(trainer.step)
        self._train(trainer, self._batches(student), start, checkpoint, advance)
        record = _make_record(trainer, self._batch, time.perf_counter() - began)
        return write_values(self._base, self._plan, trainer.best), record

    def _check(self, values: QuantizedValues) -> tuple[float | None, float]:
        """Share of common decisions on the samples that judge, None without classes, and distance of the outputs.

        In full precision and with all numbers rounded.
        """
        shares, distances, sizes = [], [], []
        outputs, constants = self._block.outputs, values.feeds(self._block.layers, self._plan)
        for index in torch.split(self._judged, self._feed):
            with torch.inference_mode():
                inputs = {name: x[index].to(self._teacher.device) for name, x in self._samples.inputs.items()}
                targets = self._teacher.run(inputs, outputs)
                made = self._student.run({**inputs, **constants}, outputs, replace=values.replacements())
                shares.append(agreement(made, targets))
                distances.append(float(output_distance(made, targets, 1.0)))
                sizes.append(len(index))
        known = [share * size for share, size in zip(shares, sizes, strict=True) if share is not None]
        mean = sum(distance * size for distance, size in zip(distances, sizes, strict=True)) / sum(sizes)
        return (sum(known) / sum(sizes) if known else None), mean

    def _batches(self, student: BlockStudent) -> Batches:
        fixed = draw_batches(self._samples, self._trained, self._batch, self._rng)
        if self._live is None:
            return fixed
        return mix_in_live(fixed, self._batch, self._live, self._config.live_share, student.run_frozen, self._rng)

    def _train(
        self,
        trainer: Trainer,
        batches: Batches,
        start: QuantizedValues,
        checkpoint: Checkpoint | None,
        advance: Advance,
    ) -> None:
        """Train to the end, and write the state now and then, at the end, and before an interruption is obeyed."""
        written_at = time.perf_counter()

        def write() -> None:
            if checkpoint is not None:
                checkpoint.write(SavedState(start=start, best=trainer.best, training=trainer.state()))

        def between() -> None:
            nonlocal written_at
            if asked():
                write()
                raise KeyboardInterrupt
            if time.perf_counter() - written_at > _KEPT_EVERY:
                write()
                written_at = time.perf_counter()

        interval = _STEPS_BETWEEN if self.total is None else max(math.ceil(self.total / _JUDGEMENTS), 1)
        with nullcontext(_never) if checkpoint is None else patient_interrupts() as asked:
            left = pace(self._budget, self._config.steps, trainer.step, trainer.reached)
            trainer.train(batches, left, interval, advance, between)
            write()
            if asked():
                raise KeyboardInterrupt


def _never() -> bool:
    return False


def _check_inputs(samples: Samples, config: DistillConfig) -> None:
    """Refuse what cannot be done with inputs that are not all numbers on a scale."""
    discrete = [f"{name} ({value.dtype})" for name, value in samples.inputs.items() if not value.is_floating_point()]
    if config.mixup and discrete:
        raise ConfigError(f"distill.mixup wants inputs of real numbers, got {', '.join(discrete)}: leave it out")
    if config.perturbation and len(discrete) == len(samples.inputs):
        raise ConfigError(
            f"distill.perturbation wants an input of real numbers, got {', '.join(discrete)}: leave it out"
        )


def _make_record(trainer: Trainer, batch: int, seconds: float) -> DistillRecord:
    first, best = trainer.curve[0], trainer.best_point
    assert best is not None
    return DistillRecord(
        steps=trainer.step,
        batch=batch,
        kept_step=best.step,
        agreement_before=first.agreement,
        agreement_after=best.agreement,
        divergence_before=first.divergence,
        divergence_after=best.divergence,
        curve=tuple(trainer.curve),
        seconds=seconds,
    )
