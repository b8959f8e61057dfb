"""The ``pixels`` generator: procedural data, moved until the network's BatchNormalization statistics come out.

In the line of ZeroQ (Cai et al. 2020), Genie-D (Jeon et al. 2023) and DeepInversion (Yin et al. 2020), without a
generator network: the start is already natural, so few iterations are enough, and what was natural about it stays.
"""

from collections.abc import Sequence

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import Effort, PixelsConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.folded_teacher import fold_teacher
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.procedural import check_inputs, draw_samples
from zsq_compile.synthesis.matching import Classes, Objective, Samples, match_statistics
from zsq_compile.synthesis.picture_feeding import PictureFeeding
from zsq_compile.synthesis.preprocessing.find import find_preprocessing

# The training data themselves, in sets of a thousand, lie 0.01 to 0.04 away from the running statistics. Moving
# pictures closer than that makes them worse, as any fit beyond the noise does.
_NATURAL_DISTANCE = 0.018


class PixelsGenerator:
    """Images optimised against the BatchNormalization statistics, all of the set as one whole."""

    def __init__(
        self,
        config: PixelsConfig,
        inputs: Sequence[InputSpec],
        contract: Preprocessing | None,
        progress: Progress,
        *,
        effort: Effort,
    ) -> None:
        self._config = config
        self._inputs = check_inputs(inputs)
        self._contract = contract
        self._progress = progress
        self._effort = effort

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize.

        Raises:
            SynthesisError: there is neither a usable BatchNormalization nor a class target to work towards.

        """
        seed = rng.initial_seed()
        layers = statistics.usable
        contracts = find_preprocessing(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        work = PictureFeeding(self._inputs, contracts, layers, teacher)
        made = work.rounded(count)
        classes = self._classes(work, made, rng)
        if not layers and classes is None:
            raise SynthesisError(
                "the pixels generator needs BatchNormalization statistics, or a classifier and a class_weight above 0; "
                "the model has no such statistics: use --generator prior"
            )
        samples = {spec.name: draw_samples(spec, made, rng).to(teacher.device) for spec in self._inputs}
        samples, curve = self._optimize(work, samples, classes, rng)
        with torch.no_grad():
            inputs = {name: value[:count].float().cpu() for name, value in work.fed(samples).items()}
        return SyntheticSet(inputs=inputs, algorithm="pixels", seed=seed, loss_curve=curve, contracts=contracts)

    def _optimize(
        self, work: PictureFeeding, samples: Samples, classes: Classes | None, rng: torch.Generator
    ) -> tuple[Samples, tuple[float, ...]]:
        config = self._config
        budget = work.budget(samples, self._effort, iterations=config.iterations, batch_size=config.batch_size)
        if budget.iterations == 0:
            self._progress.warn(
                "the network is too large to optimise data for it at this effort: procedural data is used as it is"
            )
            return samples, ()
        count = len(next(iter(samples.values())))
        folded = fold_teacher(work.teacher, work.layers)
        objective = Objective(
            layers=folded.layers,
            view=work.view,
            smooth=work.smooth,
            rates=work.rates(config.learning_rate),
            project=work.project,
            classes=classes,
        )
        with self._progress.stage("synthesis", budget.iterations * -(-count // budget.batch_size)) as advance:
            return match_statistics(
                folded.teacher,
                objective,
                samples,
                rng,
                iterations=budget.iterations,
                batch_size=budget.batch_size,
                enough=_NATURAL_DISTANCE if classes is None else 0.0,
                advance=advance,
            )

    def _classes(self, work: PictureFeeding, count: int, rng: torch.Generator) -> Classes | None:
        """Balanced random labels, if classes are wanted and an output of the network looks like logits."""
        if self._config.class_weight == 0.0:
            return None
        output, classes = work.scores("class_weight", "set class_weight to 0")
        labels = work.balanced_labels(count, classes, rng)
        return Classes(output=output, labels=labels, weight=self._config.class_weight)
