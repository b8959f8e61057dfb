"""What a network's outputs say about classes: some end in a softmax, others in the scores in front of it."""

import torch
from torch import Tensor

_SMALLEST_PROBABILITY = 1e-30
_SUM_TOLERANCE = 1e-3


def class_logits(scores: Tensor) -> Tensor:
    """(N, classes) logits: the scores, or their logarithms where they are probabilities (see are_probabilities)."""
    flat = scores.float().flatten(1)
    return log_probabilities(flat) if are_probabilities(flat) else flat


def class_probabilities(scores: Tensor) -> Tensor:
    """(N, classes) probabilities: the softmax of scores, or the scores themselves where they are probabilities.

    (N, classes, 1, 1) is accepted too. Probabilities are not negative and sum to 1 within a thousandth.
    """
    flat = scores.float().flatten(1)
    return flat if are_probabilities(flat) else flat.softmax(1)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logarithms in float32, of the same shape; a class without a chance has a very small one."""
    return probabilities.float().clamp_min(_SMALLEST_PROBABILITY).log()


@torch.no_grad()
def are_probabilities(scores: Tensor) -> bool:
    """Tell whether (N, classes) scores are not negative and sum to 1 within a thousandth."""
    return bool((scores >= 0.0).all() and ((scores.sum(1) - 1.0).abs() < _SUM_TOLERANCE).all())
