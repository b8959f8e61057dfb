"""The generators ``zs-cgan``, ``gdfq`` and ``adadfq``: one network for all images, conditioned on the class of each.

It learns against the fixed network, which stands where a GAN has its discriminator: images are to be classified as the
class that was asked for, and to have the statistics that BatchNormalization remembers.

``zs-cgan``: Choi, El-Khamy, Lee, "Zero-shot learning of a conditional generative adversarial network for data-free
network quantization" (2022), the first of its two stages; the second is distillation. **A reconstruction**: of the
paper only the first page could be read. It gives the stages, the cross-entropy and that the statistics are matched;
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
along with the quantized one; here that is what ``SyntheticSet.trainer`` is for.

``adadfq``: Qian et al., "Adaptive Data-Free Quantization" (CVPR 2023): GDFQ's network and statistics, and in the place
of the cross-entropy the loss in adversarial/losses.py, against a quantized network.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from zsq_compile.config.conditional_generators import AdadfqConfig, ConditionalConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.synthesis.adversarial.conditional_trainer import ConditionalTrainer, ExtraLoss
from zsq_compile.synthesis.adversarial.student_loss import StudentLoss
from zsq_compile.synthesis.balanced_labels import BalancedLabels
from zsq_compile.synthesis.budget import NETWORKS, plan_budget
from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.generators.image_networks import join_pixels, too_much_work
from zsq_compile.synthesis.task import SynthesisTask, Tensors

_SHARE_OF_BATCH = 0.25


def learn_conditional(
    config: ConditionalConfig,
    student: Callable[[], TorchGraph] | None,
    task: SynthesisTask,
    count: int,
    rng: torch.Generator,
) -> Synthesized:
    """Train a conditional generator network, and draw a set from it with every class equally often.

    Raises:
        SynthesisError: there is no usable BatchNormalization, the network is no classifier, or it is too large for the
            effort.
        ConfigError: a class is asked for that the network does not have.

    """
    task.require_layers()
    scores, classes = task.find_scores(
        f"the {task.name} generator", "use --generator pixels, which asks for no classes"
    )
    chosen = _chosen_classes(config, classes)
    trainer = ConditionalTrainer(config, task, scores, classes, rng)
    curve = _train(trainer, config, task, student, rng)
    labels = chosen[task.balanced_labels(count, len(chosen), rng).cpu()]
    pixels = join_pixels(task, _draw(trainer, labels, config.batch_size, rng))
    return Synthesized(samples=pixels, loss_curve=curve, labels=labels, trainer=trainer)


def _chosen_classes(config: ConditionalConfig, classes: int) -> Tensor:
    """Numbers of the classes to draw."""
    chosen = config.classes
    if chosen is None:
        return torch.arange(classes)
    if max(chosen) >= classes:
        raise ConfigError(
            f"--classes (generator.classes) asks for class {max(chosen)}, and the network has {classes}, counted from "
            f"0: give numbers from 0 to {classes - 1}"
        )
    return torch.tensor(chosen)


def _train(
    trainer: ConditionalTrainer,
    config: ConditionalConfig,
    task: SynthesisTask,
    student: Callable[[], TorchGraph] | None,
    rng: torch.Generator,
) -> list[float]:
    """Train for as long as the effort allows; returns the loss of each step."""
    size = task.round_up(config.batch_size)
    budget = plan_budget(size, task.effort, trainer.cost, iterations=config.iterations, allowance=NETWORKS)
    if budget.iterations == 0:
        raise too_much_work(task, f"batches of {size}", "a smaller generator.batch_size")
    curve, extra = [], _student_loss(trainer, config, student, rng)
    with task.progress.stage("synthesis", budget.iterations) as advance:
        for _ in range(budget.iterations):
            curve.append(trainer.step(size, rng, extra).loss)
            advance(1)
    return curve


def _student_loss(
    trainer: ConditionalTrainer,
    config: ConditionalConfig,
    student: Callable[[], TorchGraph] | None,
    rng: torch.Generator,
) -> ExtraLoss | None:
    """Loss against a quantized network; None where there is none."""
    if student is None or not isinstance(config, AdadfqConfig):
        return None
    loss = StudentLoss(
        "adadfq",
        trainer.scores,
        temperature=1.0,
        weight=1.0,
        bounds=config,
        micro_batch_size=trainer.micro_batch_size,
    )
    return loss.extra(student().run, rng)


def _draw(trainer: ConditionalTrainer, labels: Tensor, size: int, rng: torch.Generator) -> list[Tensors]:
    """Batches of pixels, not clamped, one image for each label.

    An image is normalised by the moments of its batch, and comes out as learned only where all classes are in it:
    alone, a class of resnet20 was recognised in 2 to 98 % of its images. So the chosen classes are a quarter of a
    batch, or as much as they are of all classes, and the others fill it up.
    """
    chosen = torch.tensor(sorted(set(labels.tolist())))
    others = torch.tensor(sorted(set(range(trainer.classes)) - set(labels.tolist())), dtype=torch.int64)
    share = max(_SHARE_OF_BATCH, len(chosen) / trainer.classes)
    wanted = max(1, int(share * size))
    filling, own = BalancedLabels(len(others)), BalancedLabels(len(chosen))
    batches = []
    for start in range(0, len(labels), wanted):
        mine = labels[start : start + wanted]
        filled = torch.cat([mine, chosen[own.draw(wanted - len(mine), rng)]])
        batch = torch.cat([filled, others[filling.draw(size - wanted, rng)]])
        with torch.no_grad():
            drawn = trainer.generate(batch, rng)
        batches.append({name: values[: len(mine)] for name, values in drawn.items()})
    return batches
