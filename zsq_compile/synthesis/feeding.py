"""How samples meet a network: the batch it insists on, its own units, what it costs, and its class scores."""

from collections.abc import Mapping, Sequence

import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.class_scores import find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.budget import Budget, plan_budget
from zsq_compile.synthesis.generators.label_deck import LabelDeck
from zsq_compile.synthesis.probe import layer_inputs, measure_cost


def required_layers(statistics: BatchNormStatistics, generator: str) -> Sequence[BatchNorm]:
    """Return the usable BatchNormalizations, which the ``generator`` of this name cannot do without.

    Raises:
        SynthesisError: there are none.

    """
    if not statistics.usable:
        raise SynthesisError(
            f"the {generator} generator needs BatchNormalization statistics, and the model has none that can be used: "
            "use --generator prior"
        )
    return statistics.usable


class Feeding:
    """One network and the samples that are made for it: pictures as pixels in [0, 1], others in the network's units."""

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        contracts: Mapping[str, Preprocessing],
        layers: Sequence[BatchNorm],
        teacher: TorchGraph,
    ) -> None:
        self.inputs = inputs
        self.contracts = contracts
        self.layers = layers
        self.teacher = teacher
        self.fixed_batch = fixed_batch(inputs)

    def rounded(self, count: int) -> int:
        """``count``, or the next multiple of the batch that the network insists on."""
        return count if self.fixed_batch is None else -(-count // self.fixed_batch) * self.fixed_batch

    def budget(
        self, samples: Mapping[str, torch.Tensor], effort: Effort, *, iterations: int | None, batch_size: int | None
    ) -> Budget:
        """Measure the network on one sample and plan the work on all; what is not None is kept."""
        one = {name: value[: self.fixed_batch or 1] for name, value in samples.items()}
        cost = measure_cost(self.teacher, self.fed(one), layer_inputs(self.layers) or self.teacher.output_names)
        count = len(next(iter(samples.values())))
        return plan_budget(count, effort, cost, iterations=iterations, batch_size=self.fixed_batch or batch_size)

    def blank(self) -> dict[str, torch.Tensor]:
        """Make feeds of zeros, of the smallest batch that the network takes."""
        shapes = {spec.name: spec.batched(self.fixed_batch or 1) for spec in self.inputs}
        return {name: torch.zeros(shape, device=self.teacher.device) for name, shape in shapes.items()}

    def scores(self, subject: str, advice: str) -> tuple[str, int]:
        """Name of the output that looks like class scores, and the number of classes.

        Raises:
            SynthesisError: no output has the shape (N, classes); says that ``subject`` needs one, and ``advice``.

        """
        with torch.no_grad():
            outputs = self.teacher.run(self.blank())
        found = find_scores(outputs)
        if found is None:
            shapes = {name: tuple(value.shape) for name, value in outputs.items()}
            raise SynthesisError(f"{subject} needs an output of shape (N, classes), got {shapes}; {advice}")
        return found

    def balanced_labels(self, count: int, classes: int, rng: torch.Generator) -> torch.Tensor:
        """(count,) labels in random order, each class as often as any other; which of them have one more is random."""
        return LabelDeck(classes).deal(count, rng).to(self.teacher.device)

    def fed(self, samples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Express samples in the network's own units."""
        return {
            name: self.contracts[name].encode(value) if name in self.contracts else value
            for name, value in samples.items()
        }

    def project(self, samples: Mapping[str, torch.Tensor]) -> None:
        """Cut pixels to [0, 1], in place; other inputs are free."""
        with torch.no_grad():
            for name in self.contracts:
                samples[name].clamp_(0.0, 1.0)
