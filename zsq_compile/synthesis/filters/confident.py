"""Make some samples of a set high-confidence: optimised until the network is confident of their class.

Synthetic samples lie closer to the borders between classes than real ones, so that their scores are smaller: on
MobileNet they reached 14 to 20, on photographs 32. A quantizer that reads the range of the outputs from such data clips
the scores of every clear image, and then they tie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.class_scores import class_logits, find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.budget import plan_budget
from zsq_compile.synthesis.filters.choose_feeds import choose_feeds
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.images.procedural import as_input
from zsq_compile.synthesis.match_statistics import ClassTargets, match_statistics
from zsq_compile.synthesis.probe import batches, measure_cost
from zsq_compile.synthesis.task import SynthesisTask, Tensors

_RATE = 0.05
_CONFIDENT = 1e-5  # nats of cross-entropy
_BATCH = 16


class ConfidentGenerator:
    """Another generator's set, of which an even share of feeds is moved towards the class that the network predicts.

    A set with labels, one for a network that is no classifier, and one without images stay as they are.

    Args:
        inner: makes the set.
        inputs: of the network.
        share: of the samples that are moved, 0 to 1.
        progress: receives the stage.

    """

    def __init__(self, inner: Generator, inputs: Sequence[InputSpec], share: float, progress: Progress) -> None:
        self._inner = inner
        self._inputs = inputs
        self._share = share
        self._progress = progress

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        made = self._inner.synthesize(teacher, statistics, count, rng)
        return made.with_each(lambda part: self._changed(part, teacher, rng))

    def _changed(self, made: SyntheticSet, teacher: TorchGraph, rng: torch.Generator) -> SyntheticSet:
        feed = fixed_batch(self._inputs) or 1
        chosen = choose_feeds(len(next(iter(made.inputs.values()))), feed, self._share)
        if made.labels is not None or not made.preprocessing or not chosen.any():
            return made
        feeds = {name: value[chosen].to(teacher.device) for name, value in made.inputs.items()}
        classes = _predict(teacher, feeds, fixed_batch(self._inputs) or _BATCH)
        moved = None if classes is None else self._move(teacher, made, feeds, classes, rng)
        if moved is None:
            return made
        inputs = {name: value.clone() for name, value in made.inputs.items()}
        for spec in self._inputs:
            inputs[spec.name][chosen] = as_input(spec, moved[spec.name])
        return replace(made, inputs=inputs, algorithm=f"{made.algorithm}, {int(chosen.sum())} of them confident")

    def _move(
        self,
        teacher: TorchGraph,
        made: SyntheticSet,
        feeds: Mapping[str, Tensor],
        classes: ClassTargets,
        rng: torch.Generator,
    ) -> Tensors | None:
        """Network inputs with high confidence; None where the network is too large for that."""
        task = SynthesisTask(
            name=made.algorithm,
            teacher=teacher,
            inputs=self._inputs,
            preprocessing=made.preprocessing,
            layers=(),
            effort="balanced",
            progress=self._progress,
        )
        cost = measure_cost(teacher, next(batches(feeds, task.fixed_batch or 1)), (classes.output,))
        budget = plan_budget(len(classes.labels), task.effort, cost, batch_size=task.fixed_batch)
        if budget.iterations == 0:
            return None
        moved, _ = match_statistics(
            task,
            {
                name: made.preprocessing[name].decode(value) if name in made.preprocessing else value
                for name, value in feeds.items()
            },
            rng,
            teacher=teacher,
            layers=(),
            classes=classes,
            learning_rate=_RATE,
            budget=budget,
            enough=_CONFIDENT,
            stage="confident samples",
        )
        with torch.no_grad():
            return task.encode(moved)


def _predict(teacher: TorchGraph, feeds: Mapping[str, Tensor], size: int) -> ClassTargets | None:
    """Class that the network predicts for each sample; None where no output has class scores."""
    with torch.no_grad():
        scores = find_scores(teacher.run(next(batches(feeds, size)), teacher.even_outputs))
        if scores is None:
            return None
        seen = [teacher.run(part, scores[:1])[scores[0]] for part in batches(feeds, size)]
    return ClassTargets(output=scores[0], labels=class_logits(torch.cat(seen)).argmax(1), weight=1.0)
