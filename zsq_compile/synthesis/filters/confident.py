"""Some samples of any generator, moved until the network is sure of what it sees in them.

Synthetic samples lie nearer to the borders between classes than real ones, so that their scores are smaller: on
MobileNet they reached 14 to 20, on photographs 32. A quantizer that reads the range of the outputs from such data cuts
off the scores of every clear picture, and then they tie.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.class_scores import class_logits, find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.budget import plan_budget
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.matching import Classes, Objective, Samples, match_statistics
from zsq_compile.synthesis.picture_feeding import PictureFeeding
from zsq_compile.synthesis.probe import batches, measure_cost

_RATE = 0.05
_SURE = 1e-5  # nats of cross-entropy
_BATCH = 16


class ConfidentGenerator:
    """Another generator's set, of which every so many feeds are moved towards the class that the network sees there.

    A set of known classes, one for a network that is no classifier, and one without pictures stay as they are.

    Args:
        inner: makes the set.
        inputs: of the network.
        share: of the samples that are moved, 0 to 1.
        progress: is told of the stage.

    """

    def __init__(self, inner: Generator, inputs: Sequence[InputSpec], share: float, progress: Progress) -> None:
        self._inner = inner
        self._inputs = inputs
        self._share = share
        self._progress = progress

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        made = self._inner.synthesize(teacher, statistics, count, rng)
        chosen = self._chosen(made)
        if made.labels is not None or not made.contracts or not chosen.any():
            return made
        feeds = {name: value[chosen].to(teacher.device) for name, value in made.inputs.items()}
        classes = _seen(teacher, feeds, fixed_batch(self._inputs) or _BATCH)
        moved = None if classes is None else self._moved(teacher, made, feeds, classes, rng)
        if moved is None:
            return made
        inputs = {name: value.clone() for name, value in made.inputs.items()}
        for name, value in moved.items():
            inputs[name][chosen] = value.float().cpu()
        return replace(made, inputs=inputs, algorithm=f"{made.algorithm}, {int(chosen.sum())} of them confident")

    def _chosen(self, made: SyntheticSet) -> torch.Tensor:
        """(count,) truth values: whole feeds, spread evenly over the set."""
        feed, count = fixed_batch(self._inputs) or 1, len(next(iter(made.inputs.values())))
        places = torch.arange(count) // feed
        return ((places + 1) * self._share).floor() > (places * self._share).floor()

    def _moved(
        self, teacher: TorchGraph, made: SyntheticSet, feeds: Samples, classes: Classes, rng: torch.Generator
    ) -> Samples | None:
        """Make samples of which the network is sure, in its own units; None where it is too large for that."""
        work = PictureFeeding(self._inputs, made.contracts, (), teacher)
        cost = measure_cost(teacher, next(batches(feeds, work.fixed_batch or 1)), (classes.output,))
        budget = plan_budget(len(classes.labels), "balanced", cost, batch_size=work.fixed_batch)
        if budget.iterations == 0:
            return None
        samples = {
            name: made.contracts[name].decode(value) if name in made.contracts else value
            for name, value in feeds.items()
        }
        objective = Objective(
            layers=(),
            view=work.view,
            smooth=work.smooth,
            rates=work.rates(_RATE),
            project=work.project,
            classes=classes,
        )
        turns = budget.iterations * -(-len(classes.labels) // budget.batch_size)
        with self._progress.stage("confident samples", turns) as advance:
            moved, _ = match_statistics(
                teacher,
                objective,
                samples,
                rng,
                iterations=budget.iterations,
                batch_size=budget.batch_size,
                enough=_SURE,
                advance=advance,
            )
        with torch.no_grad():
            return work.fed(moved)


def _seen(teacher: TorchGraph, feeds: Samples, size: int) -> Classes | None:
    """Class that the network sees in each sample; None where no output looks like class scores."""
    with torch.no_grad():
        scores = find_scores(teacher.run(next(batches(feeds, size))))
        if scores is None:
            return None
        seen = [teacher.run(part, scores[:1])[scores[0]] for part in batches(feeds, size)]
    return Classes(output=scores[0], labels=class_logits(torch.cat(seen)).argmax(1), weight=1.0)
