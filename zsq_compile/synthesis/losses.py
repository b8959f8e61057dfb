"""How far measured activations are from BatchNormalization statistics: pure functions of tensors.

With a measured mean m and variance v and the running mean M and variance V of one channel:

    wasserstein:  ((m - M)² + (√v - √V)²) / V     squared 2-Wasserstein distance of the Gaussians, in units of V
    kl:           ((m - M)² + v) / 2V - ln √(v/V) - 1/2     = KL(N(m, v) ‖ N(M, V)), the form of DFAKD and ZS-CGAN
    difference:   (m - M)² + (√v - √V)²           the form of Genie, in the layer's own units

The first two do not depend on the layer's scale, so the mean over a layer's channels can be averaged over layers.
"""

from torch import Tensor
from torch.nn import functional

from zsq_compile.synthesis.channel_moments import ActivationMoments

_VARIANCE_FLOOR = 1e-12
_DEVIATION_FLOOR = 1e-6  # of a variance, as published with Genie


def wasserstein(measured: ActivationMoments, target: ActivationMoments) -> Tensor:
    """(C,) squared 2-Wasserstein distances in units of the target's variance."""
    deviation = (measured.variance.clamp_min(0.0) + _VARIANCE_FLOOR).sqrt()
    wanted = target.variance.clamp_min(_VARIANCE_FLOOR)
    return ((measured.mean - target.mean).square() + (deviation - wanted.sqrt()).square()) / wanted


def gaussian_kl(measured: ActivationMoments, target: ActivationMoments) -> Tensor:
    """(C,) KL(N(measured) ‖ N(target)); a variance counts as at least a ten-thousandth of the target's."""
    wanted = target.variance.clamp_min(_VARIANCE_FLOOR)
    ratio = (measured.variance / wanted).clamp_min(1e-4)
    shift = (measured.mean - target.mean).square() / wanted
    return 0.5 * (shift + ratio - ratio.log() - 1.0)


def moment_difference(measured: ActivationMoments, target: ActivationMoments) -> Tensor:
    """(C,) squared differences of the means, plus those of the standard deviations."""
    deviations = [(one.variance.clamp_min(0.0) + _DEVIATION_FLOOR).sqrt() for one in (measured, target)]
    return (measured.mean - target.mean).square() + (deviations[0] - deviations[1]).square()


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (N, classes) logits against (N,) labels; (N, classes, 1, 1) is accepted too."""
    return functional.cross_entropy(logits.float().flatten(1), labels)
