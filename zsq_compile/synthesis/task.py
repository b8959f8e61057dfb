"""What a synthesis algorithm is given: a network, what to match, how inputs are encoded, and how much work to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.config.compile import Effort
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.class_scores import find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.balanced_labels import BalancedLabels
from zsq_compile.synthesis.budget import Budget, plan_budget
from zsq_compile.synthesis.images.choose_families import FamilyChoice
from zsq_compile.synthesis.images.pictures import PHOTOGRAPHS, Shares
from zsq_compile.synthesis.probe import layer_inputs, measure_cost

Tensors = dict[str, Tensor]
"""Samples by input name: images as (N, C, H, W) pixels in [0, 1], other inputs before their preprocessing, if any."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SynthesisTask:
    """A network that samples are made for.

    Attributes:
        name: of the algorithm.
        teacher: the float network.
        inputs: of the network.
        preprocessing: by name of each image input, and of other inputs whose scale is known.
        layers: BatchNormalizations with usable statistics.
        effort: how much work to do.
        progress: receives stages, notes and warnings.
        families: of pictures, for image inputs that get others than photographs alone, or were tried on others.

    """

    name: str
    teacher: TorchGraph
    inputs: Sequence[InputSpec]
    preprocessing: Mapping[str, Preprocessing]
    layers: Sequence[BatchNorm]
    effort: Effort
    progress: Progress
    families: Mapping[str, FamilyChoice] = field(default_factory=dict)

    @property
    def fixed_batch(self) -> int | None:
        """Fixed batch size of the network, or None."""
        return fixed_batch(self.inputs)

    @property
    def pictures(self) -> frozenset[str]:
        """Names of the inputs that take pictures."""
        return frozenset(spec.name for spec in self.inputs if spec.is_image)

    @property
    def free(self) -> frozenset[str]:
        """Names of the inputs whose samples may be moved: not those that take stand-ins."""
        return frozenset(spec.name for spec in self.inputs if not spec.takes_stand_ins)

    def shares(self, name: str) -> Shares:
        """Families of pictures that an image input gets, with their shares."""
        return self.families[name].shares if name in self.families else PHOTOGRAPHS

    def require_layers(self) -> None:
        """Raise SynthesisError where there are no statistics to match."""
        if not self.layers:
            raise SynthesisError(
                f"the {self.name} generator needs BatchNormalization statistics, and the model has none that can be "
                "used: use --generator prior"
            )

    def round_up(self, count: int) -> int:
        """``count``, or the next multiple of a fixed batch."""
        return count if self.fixed_batch is None else -(-count // self.fixed_batch) * self.fixed_batch

    def plan_budget(self, samples: Mapping[str, Tensor], iterations: int | None, batch_size: int | None) -> Budget:
        """Measure the network on one sample, and plan the work on all; what is not None is kept."""
        one = {name: value[: self.fixed_batch or 1] for name, value in samples.items()}
        cost = measure_cost(self.teacher, self.encode(one), layer_inputs(self.layers) or self.teacher.output_names)
        count = len(next(iter(samples.values())))
        return plan_budget(count, self.effort, cost, iterations=iterations, batch_size=self.fixed_batch or batch_size)

    def zeros(self) -> Tensors:
        """Network inputs of zeros, of the smallest batch that the network takes."""
        types = {spec.name: spec.dtype if spec.takes_stand_ins else np.float32 for spec in self.inputs}
        size, device = self.fixed_batch or 1, self.teacher.device
        return {
            spec.name: torch.from_numpy(np.zeros(spec.batched(size), types[spec.name])).to(device)
            for spec in self.inputs
        }

    def find_scores(self, subject: str, advice: str) -> tuple[str, int]:
        """Name of the output with class scores, and the number of classes.

        Args:
            subject: what needs class scores, for the message.
            advice: what to do without.

        Raises:
            SynthesisError: no output has the shape (N, classes).

        """
        with torch.no_grad():
            outputs = self.teacher.run(self.zeros(), self.teacher.even_outputs)
        found = find_scores(outputs)
        if found is None:
            shapes = {name: tuple(value.shape) for name, value in outputs.items()}
            raise SynthesisError(f"{subject} needs an output of shape (N, classes), got {shapes}; {advice}")
        return found

    def balanced_labels(self, count: int, classes: int, rng: torch.Generator) -> Tensor:
        """(count,) labels in random order, each class as often as any other; which of them have one more is random."""
        return BalancedLabels(classes).draw(count, rng).to(self.teacher.device)

    def encode(self, samples: Mapping[str, Tensor]) -> Tensors:
        """Turn samples into network inputs; differentiable."""
        return {
            name: self.preprocessing[name].encode(value) if name in self.preprocessing else value
            for name, value in samples.items()
        }

    def clamp_pixels(self, samples: Mapping[str, Tensor]) -> None:
        """Clamp images to [0, 1], in place; other inputs are free."""
        with torch.no_grad():
            for name in self.pictures:
                samples[name].clamp_(0.0, 1.0)
