"""Distillation: train a whole quantized network towards the float one, without labels.

What learning block by block cannot do: all codes, steps, biases and activation scales of the QDQ graph move together,
for what comes out at its end (Hinton et al. 2015; as GDFQ, Xu et al. 2020, but without labels, which harm at few bits).
Every activation is quantized as it will ship. BatchNormalization is folded, so its statistics are frozen.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from passes.plan import QuantizationPlan
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, QuantizationError
from zsq_compile.quantization.closed_form import insert_quantizers
from zsq_compile.quantization.distillation.batches import Batches, LiveSamples, accompanied, drawn
from zsq_compile.quantization.distillation.checkpoint import Checkpoint, SavedState, fingerprint, patient_interrupts
from zsq_compile.quantization.distillation.trainer import CurvePoint, Judge, Objective, Trainer
from zsq_compile.quantization.reconstruction.block_student import BlockStudent
from zsq_compile.quantization.reconstruction.block_work import block_work
from zsq_compile.quantization.reconstruction.blocks import Block, find_blocks, whole_network
from zsq_compile.quantization.reconstruction.budget import BlockCost, LearningBudget
from zsq_compile.quantization.reconstruction.learning import learnable_start
from zsq_compile.quantization.reconstruction.samples import Samples, batched_values
from zsq_compile.quantization.reconstruction.values import QuantizedValues, written

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
        agreement_before: share of common decisions at the start, on samples apart; None where no output has classes.
        agreement_after: the same with what was kept.
        divergence_before: distance of the outputs at the start, on the same samples.
        divergence_after: the same with what was kept.
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
        decisions = "" if before is None else f"decisions unchanged on samples apart {before} -> {after}, "
        return f"{kept}: {decisions}divergence {self.divergence_before:.3g} -> {self.divergence_after:.3g}"


def pace(budget: LearningBudget, steps: int | None, done: int, reached: float) -> Iterator[float]:
    """Progress, from 0 towards 1, at the start of each step that is left.

    Args:
        budget: of time; it decides the number of steps where that is not given.
        steps: to do in all, if time allows.
        done: steps done before an interruption.
        reached: progress of the last of them.

    """
    count = budget.planned if steps is None else steps
    clock = itertools.repeat(0.0) if budget.deadline is None else budget.pace(0)
    for place, passed in zip(itertools.count(done), clock, strict=False):
        if count is not None and place >= count:
            return
        counted = 0.0 if count is None else place / count
        yield counted if budget.deadline is None else max(counted, reached + (1.0 - reached) * passed)


class Distillation:
    """One distillation, made ready.

    Args:
        model: the float model; ``teacher`` runs it.
        rounded: the same with weights on the grids of the plan.
        quantized: the QDQ model of both, as everything before has left it.
        plan: with all its scales.
        teacher: the float graph; its device is where all happens.
        samples: calibration data; a part of them judges.
        config: what to do.
        budget: how long.
        seed: start of all randomness.
        live: makes samples while the student learns, to be learned on beside those of the set, or in their place. The
            samples that judge are of the set all the same.

    Attributes:
        total: steps that are planned; None where the clock decides.
        record: what came of it; None before ``run``.

    """

    def __init__(
        self,
        model: ir.Model,
        rounded: ir.Model,
        quantized: ir.Model,
        plan: QuantizationPlan,
        teacher: TorchGraph,
        samples: Samples,
        *,
        config: DistillConfig,
        budget: LearningBudget,
        seed: int,
        live: LiveSamples | None = None,
    ) -> None:
        self._model, self._plan, self._teacher, self._samples = model, plan, teacher, samples
        self._config, self._budget, self._live = config, budget, live
        _check_inputs(samples, config)
        few = {name: value[: samples.feed].to(teacher.device) for name, value in samples.inputs.items()}
        batched = batched_values(teacher, replace(samples, inputs=few))
        self._block = whole_network(model, plan, batched)
        self._base, self._start = learnable_start(rounded, quantized, plan)
        self._student = TorchGraph(insert_quantizers(self._base, plan, final=False), device=teacher.device)
        trained, judged = samples.parted()
        self._batch = samples.feed if samples.fixed else min(_BATCH, len(trained))
        self._feeds = [
            {name: value[index] for name, value in samples.inputs.items()}
            for index in torch.split(judged, samples.feed)
        ]
        self._rng = torch.Generator().manual_seed(seed)
        self._batches = drawn(samples, trained, self._batch, self._rng)
        self._features = self._measure(few, find_blocks(model, plan, batched))
        self._settings = {**asdict(replace(config, checkpoint=None)), "seed": seed, "effort": budget.effort}
        self._settings["source"] = "" if live is None else live.description
        self.record: DistillRecord | None = None

    def _measure(self, few: Mapping[str, Tensor], blocks: tuple[Block, ...]) -> tuple[str, ...]:
        """Plan the steps by a run of the float network; returns the maps whose channel attentions are compared."""
        count = self._samples.feed if self._samples.fixed else min(_MEASURED, self._samples.count)
        made: dict[str, int] = {}

        def measure(node: ir.Node, outputs: tuple[Tensor, ...]) -> None:
            made.update({str(node.outputs[0].name): sum(output.numel() for output in outputs)})

        ends = [name for block in blocks for name in block.outputs]
        wanted = tuple(dict.fromkeys((*ends, *self._block.outputs)))
        with torch.inference_mode():
            values = self._teacher.run({name: x[:count] for name, x in few.items()}, wanted, visit=measure)
        if not any(values[name].is_floating_point() for name in self._block.outputs):
            raise QuantizationError(
                "distillation wants an output of real numbers whose first axis counts samples, got none among "
                f"{', '.join(self._teacher.output_names)}: leave --distill out"
            )
        nodes = {str(node.name): node for node in self._model.graph}
        multiplications, elements = block_work(self._block, nodes, self._teacher.initializers, made)
        cost = BlockCost(
            multiplications=multiplications // count, elements=elements // count, batch=self._batch, error=1.0
        )
        self._budget.plan([cost])
        self.total = self._config.steps or self._budget.planned
        maps = [name for name in ends if values[name].ndim > 2 and name not in self._block.outputs]
        if self._config.feature_weight and not maps:
            raise ConfigError(
                "distill.feature_weight compares maps between blocks, and this model has none: set it to 0"
            )
        return tuple(maps) if self._config.feature_weight else ()

    def run(self, advance: Callable[[int], None] = lambda steps: None) -> tuple[ir.Model, QuantizationPlan]:
        """Train; returns the float model with weights on the grids of the returned plan, and that plan.

        Raises:
            ConfigError: the checkpoint is of something else, or cannot be written.

        """
        began, device = time.perf_counter(), self._teacher.device
        path = self._config.checkpoint
        mark = "" if path is None else fingerprint(self._model, self._plan, self._settings)
        checkpoint = None if path is None else Checkpoint(Path(path), mark)
        saved = None if checkpoint is None else checkpoint.read(device)
        start = self._start.to(device) if saved is None else saved.start
        weights, none = self._teacher.initializers, frozenset[str]()
        student = BlockStudent(self._student, self._block, self._plan, start, weights, none, "lsq", below=_ALL_WIDTHS)
        objective = Objective(student, self._teacher, self._block.outputs, self._features, self._config)
        judge = Judge(self._student, self._teacher, self._plan, self._block, self._feeds)
        measured = (lambda: None) if self._live is None else self._live.measured
        trainer = Trainer(student, objective, judge, start, self._config, device, self._rng, measured)
        if saved is not None:
            trainer.restore(saved.training, saved.best)
            if self._live is not None:
                self._live.restore(saved.training["live"])
            advance(trainer.step)
        self._train(trainer, self._accompanied(student), start, checkpoint, advance)
        self.record = _recorded(trainer, self._batch, time.perf_counter() - began)
        return written(self._base, self._plan, trainer.best)

    def _accompanied(self, student: BlockStudent) -> Batches:
        if self._live is None:
            return self._batches
        share = self._config.live_share
        return accompanied(self._batches, self._batch, self._live, share, student.run_frozen, self._rng)

    def _train(
        self,
        trainer: Trainer,
        batches: Batches,
        start: QuantizedValues,
        checkpoint: Checkpoint | None,
        advance: Callable[[int], None],
    ) -> None:
        """Train to the end, and write the state now and then, at the end, and before an interruption is obeyed."""
        written_at = time.perf_counter()

        def write() -> None:
            if checkpoint is not None:
                live = {} if self._live is None else {"live": dict(self._live.state())}
                checkpoint.write(SavedState(start=start, best=trainer.best, training={**trainer.state(), **live}))

        def between() -> None:
            nonlocal written_at
            if asked():
                write()
                raise KeyboardInterrupt
            if time.perf_counter() - written_at > _KEPT_EVERY:
                write()
                written_at = time.perf_counter()

        interval = _STEPS_BETWEEN if self.total is None else max(math.ceil(self.total / _JUDGEMENTS), 1)
        with _never_asked() if checkpoint is None else patient_interrupts() as asked:
            left = pace(self._budget, self._config.steps, trainer.step, trainer.reached)
            trainer.train(batches, left, interval, advance, between)
            write()
            if asked():
                raise KeyboardInterrupt


@contextmanager
def _never_asked() -> Iterator[Callable[[], bool]]:
    yield lambda: False


def _check_inputs(samples: Samples, config: DistillConfig) -> None:
    """Refuse what cannot be done with inputs that are not all numbers on a scale."""
    discrete = [f"{name} ({value.dtype})" for name, value in samples.inputs.items() if not value.is_floating_point()]
    if config.mixup and discrete:
        raise ConfigError(f"distill.mixup wants inputs of real numbers, got {', '.join(discrete)}: leave it out")
    if config.perturbation and len(discrete) == len(samples.inputs):
        raise ConfigError(
            f"distill.perturbation wants an input of real numbers, got {', '.join(discrete)}: leave it out"
        )


def _recorded(trainer: Trainer, batch: int, seconds: float) -> DistillRecord:
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
