"""The generators ``zs-cgan``, ``gdfq`` and ``adadfq``: one network for all images, which is told the class of each.

It learns against the fixed network, which stands where a GAN has its discriminator: images are to be taken for the
class that was asked for, and their statistics to be those that BatchNormalization remembers.

``zs-cgan``: Choi, El-Khamy, Lee, "Zero-shot learning of a conditional generative adversarial network for data-free
network quantization" (2022), the first of its two stages; the second is distillation. **A reconstruction**: of the
paper only the first page could be read. It tells the stages, the cross-entropy and that the statistics are matched;
that they are matched by a Kullback-Leibler divergence is in the authors' patent and in their earlier work (DFAKD, Choi
et al. 2020); the network with conditional normalisation is GDFQ's. The loss is

    E[CE(teacher(g(z, y)), y)] + bn_weight * mean_channels KL(N(m, v) ‖ N(M, V))
    KL(N(m, v) ‖ N(M, V)) = ((m - M)² + v) / 2V - ln √(v/V) - 1/2

with the mean m and variance v of a channel over the batch, and M and V as the layer remembers them. The mean over the
channels of all layers stands in the place of the sum, which would grow with the network. Channels whose V is below
1e-5 of the layer's median are left out, and v counts as 1e-4 V at least.

``gdfq``: Xu et al., "Generative Low-bitwidth Data Free Quantization" (ECCV 2020), as their code has it:

    CE(teacher(g(z, y)), y) + 0.1 * mean_layers mean_channels (m - M)² + (v - V)²

where the label scales z for up to 100 classes, and normalises in the network above. In the paper the network learns
along with the quantized one; here that is what ``SyntheticSet.source`` is for.

``adadfq``: Qian et al., "Adaptive Data-Free Quantization" (CVPR 2023): GDFQ's network and statistics, and in the place
of the cross-entropy what adversarial.py has of it, against a quantized network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.config.conditional_generators import AdadfqConfig, ConditionalConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.adversarial.conditional_source import ConditionalSource
from zsq_compile.synthesis.adversarial.opponent import Opponent
from zsq_compile.synthesis.adversarial.source import Extra
from zsq_compile.synthesis.budget import NETWORKS, plan_budget
from zsq_compile.synthesis.feeding import Feeding, required_layers
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.generators.label_deck import LabelDeck
from zsq_compile.synthesis.generators.picture_networks import require_pictures, tell_cut
from zsq_compile.synthesis.images.procedural import check_inputs
from zsq_compile.synthesis.preprocessing.find import find_preprocessing

_SHARE_OF_BATCH = 0.25


class ConditionalGenerator:
    """Learns a ConditionalSource, and draws a set from it with every class equally often."""

    def __init__(
        self,
        name: str,
        config: ConditionalConfig,
        inputs: Sequence[InputSpec],
        contract: Preprocessing | None,
        progress: Progress,
        *,
        effort: Effort,
        student: Callable[[], TorchGraph] | None = None,
    ) -> None:
        self._name = name
        self._config = config
        self._inputs = require_pictures(check_inputs(inputs), name)
        self._contract = contract
        self._progress = progress
        self._effort = effort
        self._student = student

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize.

        Raises:
            SynthesisError: there is no usable BatchNormalization, the network is no classifier, or it is too large for
                the effort.
            ConfigError: a class is asked for that the network does not have.

        """
        seed = rng.initial_seed()
        layers = required_layers(statistics, self._name)
        contracts = find_preprocessing(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        feeding = Feeding(self._inputs, contracts, layers, teacher)
        scores, classes = feeding.scores(
            f"the {self._name} generator", "use --generator pixels, which asks for no classes"
        )
        asked = self._asked(classes)
        source = ConditionalSource(self._config, self._inputs, contracts, layers, teacher, scores, classes, rng)
        curve = self._learn(source, feeding.rounded(self._config.batch_size), rng)
        labels = asked[feeding.balanced_labels(count, len(asked), rng).cpu()]
        pixels = self._drawn(source, labels, rng)
        tell_cut(pixels, self._name, self._progress)
        inputs = {
            name: contract.encode(torch.cat(pixels[name]).clamp(0.0, 1.0)).float().cpu()
            for name, contract in contracts.items()
        }
        return SyntheticSet(
            inputs=inputs,
            algorithm=self._name,
            seed=seed,
            loss_curve=curve,
            contracts=contracts,
            labels=labels,
            source=source,
        )

    def _asked(self, classes: int) -> Tensor:
        """Numbers of the classes to draw."""
        asked = self._config.classes
        if asked is None:
            return torch.arange(classes)
        if max(asked) >= classes:
            raise ConfigError(
                f"--classes (generator.classes) asks for class {max(asked)}, and the network has {classes}, counted "
                f"from 0: give numbers from 0 to {classes - 1}"
            )
        return torch.tensor(asked)

    def _learn(self, source: ConditionalSource, size: int, rng: torch.Generator) -> tuple[float, ...]:
        """Train for as long as the effort allows; returns the loss of each step."""
        budget = plan_budget(size, self._effort, source.cost, iterations=self._config.iterations, allowance=NETWORKS)
        if budget.iterations == 0:
            raise SynthesisError(
                f"{self._name} starts from nothing and needs {NETWORKS.fewest} iterations at least, more than the "
                f"effort {self._effort!r} has time for with batches of {size} on this network: use --generator pixels, "
                "a higher --effort, or set generator.iterations or a smaller generator.batch_size"
            )
        curve, against = [], self._against(source, rng)
        with self._progress.stage("synthesis", budget.iterations) as advance:
            for _ in range(budget.iterations):
                curve.append(source.step(size, rng, against).loss)
                advance(1)
        return tuple(curve)

    def _against(self, source: ConditionalSource, rng: torch.Generator) -> Extra | None:
        """Return what a quantized network adds to the loss; None where there is none."""
        if self._student is None or not isinstance(self._config, AdadfqConfig):
            return None
        opponent = Opponent(
            "adadfq",
            source.scores,
            temperature=1.0,
            weight=1.0,
            numbers=self._config,
            piece=source.piece,
        )
        return opponent.extra(self._student().run, rng)

    def _drawn(self, source: ConditionalSource, labels: Tensor, rng: torch.Generator) -> dict[str, list[Tensor]]:
        """Pixels of every input, not cut yet, one picture for each label.

        A picture is normalised by the moments of its batch, and comes out as learned only where all classes are in it:
        alone, a class of resnet20 was recognised in 2 to 98 % of its pictures. So the classes asked for are a quarter
        of a batch, or as much as they are of all classes, and the others fill it up.
        """
        size = self._config.batch_size
        asked = torch.tensor(sorted(set(labels.tolist())))
        others = torch.tensor(sorted(set(range(source.classes)) - set(labels.tolist())), dtype=torch.int64)
        share = max(_SHARE_OF_BATCH, len(asked) / source.classes)
        wanted = max(1, int(share * size))
        company, own = LabelDeck(len(others)), LabelDeck(len(asked))
        pixels: dict[str, list[Tensor]] = {name: [] for name in source.contracts}
        for start in range(0, len(labels), wanted):
            mine = labels[start : start + wanted]
            filled = torch.cat([mine, asked[own.deal(wanted - len(mine), rng)]])
            batch = torch.cat([filled, others[company.deal(size - wanted, rng)]])
            with torch.no_grad():
                drawn = source.paint(batch, rng)
            for name, values in drawn.items():
                pixels[name].append(values[: len(mine)])
        return pixels
