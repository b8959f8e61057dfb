"""Losses of a generator against a quantized student: samples that the student gets wrong are worth more.

With the teacher's scores P and the student's scores Q of one sample, C classes and a temperature T:

    discrepancy      D = T² KL(softmax(P / T) ‖ softmax(Q / T))
    margin           mean max(0, m - D) / μ,  m ~ N(μ, (μ / 4)²) cut at 0, drawn anew for each batch, μ = 1.2 mean D
    gaussian         mean exp(-D² / 2s²),     s = mean D
    adadfq           mean max(0, λl - H') + mean max(0, H' - λu) + αds CE(P - Q, y) + αas CE(P + Q, y)
                     H' = (H(softmax(P - Q)) - least H) / (ln C - least H), the least over the batch

The margin is a reconstruction of the adversarial Gaussian margin of Luo et al. (IEEE TCSVT 2024): from its abstract we
know that the discrepancy supervises the generator, and more so where it is small; the formula could not be read. Here
samples with too small a discrepancy are pushed, up to a margin that varies from batch to batch, and the others are left
alone. The gaussian form has the same property without an edge. Both are relative to the mean discrepancy of the batches
before, so that they weigh the same for any number of bits and at any time of the training.

AdaDFQ (Qian et al., "Adaptive Data-Free Quantization", CVPR 2023) bounds the disagreement from both sides: samples that
are too easy teach nothing, and those that are too hard cannot be learned.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.config.conditional_generators import AdadfqConfig

_MARGIN_SHARE = 1.2  # of the mean discrepancy
_MARGIN_SPREAD = 0.25  # deviation of the margin, as a share of its mean
_SMALLEST = 1e-8


def discrepancy(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) ‖ softmax(student / T)) of each sample; differentiable to both.

    Args:
        teacher: scores, (samples, classes), with sizes of 1 behind them or not.
        student: the same shape.
        temperature: T.

    Returns:
        (samples,), float32.

    """
    wanted, made = (torch.log_softmax(x.float().flatten(1) / temperature, dim=1) for x in (teacher, student))
    return temperature**2 * functional.kl_div(made, wanted, reduction="none", log_target=True).sum(1)


def draw_margin(mean: float, rng: torch.Generator) -> float:
    """Draw m ~ N(μ, (μ / 4)²), cut at 0, with μ = 1.2 times the mean discrepancy."""
    middle = _MARGIN_SHARE * mean
    noise = float(torch.randn((), generator=rng, device=rng.device))
    return max(middle * (1.0 + _MARGIN_SPREAD * noise), 0.0)


def margin_loss(discrepancies: Tensor, margin: float, mean: float) -> Tensor:
    """Mean of max(0, margin - D) / μ, μ = 1.2 times the mean discrepancy; without gradient where D is above.

    Args:
        discrepancies: D, (samples,).
        margin: see ``draw_margin``.
        mean: discrepancy of the batches before.

    """
    return functional.relu(margin - discrepancies).mean() / max(_MARGIN_SHARE * mean, _SMALLEST)


def gaussian_loss(discrepancies: Tensor, mean: float) -> Tensor:
    """Mean of exp(-D² / 2s²) with s the mean discrepancy of the batches before; D is (samples,)."""
    return (-0.5 * (discrepancies / max(mean, _SMALLEST)).square()).exp().mean()


def disagreement_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """H' of AdaDFQ: entropy of softmax(P - Q), from 0 for the least of the batch to 1 for ln(classes).

    It is high where both networks agree. The least entropy of the batch counts as a constant. Where all samples
    have the highest entropy there is, as for equal networks, H' is 1.

    Args:
        teacher: scores P, (samples, classes), with sizes of 1 behind them or not.
        student: scores Q, the same shape.

    Returns:
        (samples,), float32.

    """
    logs = torch.log_softmax(teacher.float().flatten(1) - student.float().flatten(1), dim=1)
    entropy = -(logs.exp() * logs).sum(1)
    highest = math.log(logs.shape[1])
    room = highest - entropy.detach().min()
    return 1.0 - (highest - entropy) / room.clamp_min(_SMALLEST)


def two_sided_loss(teacher: Tensor, student: Tensor, labels: Tensor, config: AdadfqConfig) -> Tensor:
    """Loss of AdaDFQ's generator but for the BatchNormalization term, see the module.

    Args:
        teacher: scores P, (samples, classes).
        student: scores Q, the same shape.
        labels: the asked classes y, (samples,).
        config: bounds and weights.

    """
    entropy = disagreement_entropy(teacher, student)
    bounds = functional.relu(config.lower - entropy).mean() + functional.relu(entropy - config.upper).mean()
    theirs, mine = teacher.float().flatten(1), student.float().flatten(1)
    difference = functional.cross_entropy(theirs - mine, labels)
    sum_ = functional.cross_entropy(theirs + mine, labels)
    return bounds + config.disagreement_weight * difference + config.agreement_weight * sum_
