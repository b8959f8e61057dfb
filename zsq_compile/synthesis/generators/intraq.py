"""The ``intraq`` generator: noise, optimised to images that differ from each other within their class.

Zhong et al., "IntraQ: Learning Synthetic Images with Intra-Class Heterogeneity for Zero-Shot Network Quantization"
(CVPR 2022): the network sees parts of images, some images aim at less than full confidence, and features keep their
distance from the centre of their class. The statistics are those of a batch.
"""

import torch

from zsq_compile.config.generators import IntraqConfig
from zsq_compile.differentiable.class_scores import class_probabilities
from zsq_compile.synthesis.generators.baseline_losses import marginal_distance_loss, moment_errors, soft_label_loss
from zsq_compile.synthesis.generators.noise_descent import Loss, run_teacher
from zsq_compile.synthesis.images.local_parts import local_parts
from zsq_compile.synthesis.probe import find_features, flat_features, layer_inputs, layer_moments, layer_targets
from zsq_compile.synthesis.task import SynthesisTask, Tensors

# Least confidence, least and most distance by the largest number of classes that they are published for.
_PUBLISHED = ((10, 0.95, 0.05, 0.8), (100, 0.6, 0.02, 1.0))
_MEMORY = 0.9


def intraq_loss(config: IntraqConfig, task: SynthesisTask, noise: Tensors, rng: torch.Generator) -> Loss:
    """Match the statistics of each batch, and a class for each image.

    Raises:
        SynthesisError: the network is no classifier.

    """
    scores, classes = task.find_scores("the intraq generator", "use --generator zeroq, which asks for no classes")
    features = find_features(task.teacher, task.zeros(), scores)
    count = len(next(iter(noise.values())))
    confidence, lowest, highest = _goals(config, classes)
    labels = task.balanced_labels(count, classes, rng)
    wanted = confidences(count, confidence, rng).to(task.teacher.device)
    targets = layer_targets(task.layers, task.teacher.device)
    centres = ClassCentres(classes)
    outputs = (*layer_inputs(task.layers), scores, *([] if features is None else [features]))

    def loss(samples: Tensors, members: range) -> torch.Tensor:
        values = run_teacher(task, _with_parts(config, task, samples, rng), outputs)
        mine = slice(members.start, members.stop)
        total = moment_errors(layer_moments(task.layers, values), targets)
        total = total + soft_label_loss(class_probabilities(values[scores]), labels[mine], wanted[mine])
        if features is None:
            return total
        rows = flat_features(values[features])
        return total + marginal_distance_loss(rows, centres.update(rows, labels[mine]), lowest, highest)

    return loss


def _with_parts(config: IntraqConfig, task: SynthesisTask, samples: Tensors, rng: torch.Generator) -> Tensors:
    """Replace some images by enlarged parts of them."""
    return {
        name: local_parts(value, rng, smallest=config.smallest_part, share=config.local_share)
        if name in task.pictures
        else value
        for name, value in samples.items()
    }


class ClassCentres:
    """Running means of the features of each class: a new batch counts for a tenth."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._centres: torch.Tensor | None = None
        self._known: torch.Tensor | None = None

    def update(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add (N, F) features of images with these (N,) labels; returns the (N, F) centres of their classes.

        A class's first features are its centre. No gradient flows into centres.
        """
        rows = features.detach()
        if self._centres is None or self._known is None:
            self._centres = rows.new_zeros(self._classes, rows.shape[1])
            self._known = torch.zeros(self._classes, dtype=torch.bool, device=rows.device)
        members = torch.nn.functional.one_hot(labels, self._classes).to(rows.dtype)
        sizes = members.sum(0)
        fresh = members.T @ rows / sizes.clamp_min(1.0)[:, None]
        kept = torch.where(self._known, _MEMORY, 0.0)[:, None]
        seen = sizes > 0
        self._centres = torch.where(seen[:, None], kept * self._centres + (1.0 - kept) * fresh, self._centres)
        self._known = self._known | seen
        return self._centres[labels]


def confidences(count: int, least: float, rng: torch.Generator) -> torch.Tensor:
    """(count,) target probabilities: uniform between ``least`` and 1 for half of the images, at random, else 1."""
    draw = torch.rand(2, count, generator=rng, device=rng.device)
    return torch.where(draw[0] < 0.5, least + (1.0 - least) * draw[1], 1.0)


def _goals(config: IntraqConfig, classes: int) -> tuple[float, float, float]:
    """Least confidence, least and most distance: as configured, else as published for so many classes."""
    published = next((row[1:] for row in _PUBLISHED if classes <= row[0]), (1.0, 0.0, 2.0))
    given = (config.least_confidence, config.least_distance, config.most_distance)
    confidence, lowest, highest = (
        one if one is not None else other for one, other in zip(given, published, strict=True)
    )
    return confidence, lowest, highest
