"""The ``pixels`` generator: procedural images, optimised until they match the BatchNormalization statistics.

In the line of ZeroQ (Cai et al. 2020), Genie-D (Jeon et al. 2023) and DeepInversion (Yin et al. 2020), without a
generator network: the start is already natural, so few iterations are enough, and what was natural about it stays.
"""

import torch

from zsq_compile.config.generators import PixelsConfig
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.fold_teacher import fold_teacher
from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.generators.prior import draw_start
from zsq_compile.synthesis.match_statistics import ClassTargets, match_statistics
from zsq_compile.synthesis.task import SynthesisTask

# The training data themselves, in sets of a thousand, lie 0.01 to 0.04 away from the running statistics. Moving
# images closer than that makes them worse, as any fit beyond the noise does.
_NATURAL_DISTANCE = 0.018


def optimize_pixels(config: PixelsConfig, task: SynthesisTask, count: int, rng: torch.Generator) -> Synthesized:
    """Optimise a set as one whole against the statistics, and against class targets if there are any.

    Raises:
        SynthesisError: there is neither a usable BatchNormalization nor a class target.

    """
    size = task.round_up(count)
    classes = _draw_classes(config, task, size, rng)
    if not task.layers and classes is None:
        raise SynthesisError(
            "the pixels generator needs BatchNormalization statistics, or a classifier and a class_weight above 0; the "
            "model has no such statistics: use --generator prior"
        )
    samples = {name: values.to(task.teacher.device) for name, values in draw_start(task, size, rng).items()}
    budget = task.plan_budget(samples, config.iterations, config.batch_size)
    if budget.iterations == 0:
        task.progress.warn(
            "the network is too large to optimise data for it at this effort: procedural data is used as it is"
        )
        return Synthesized(samples=samples)
    teacher, layers = fold_teacher(task.teacher, task.layers)
    samples, curve = match_statistics(
        task,
        samples,
        rng,
        teacher=teacher,
        layers=layers,
        classes=classes,
        learning_rate=config.learning_rate,
        budget=budget,
        enough=_NATURAL_DISTANCE if classes is None else 0.0,
    )
    return Synthesized(samples=samples, loss_curve=curve)


def _draw_classes(config: PixelsConfig, task: SynthesisTask, count: int, rng: torch.Generator) -> ClassTargets | None:
    """Balanced random labels, where class targets are asked for."""
    if config.class_weight == 0.0:
        return None
    output, classes = task.find_scores("class_weight", "set class_weight to 0")
    labels = task.balanced_labels(count, classes, rng)
    return ClassTargets(output=output, labels=labels, weight=config.class_weight)
