"""How far a quantized network is from the float one, as distillation sees it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.class_scores import has_scores, log_probabilities
from zsq_compile.metrics import are_probabilities

_SMALLEST = 1e-12


def softened_divergence(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(wanted / T) || softmax(scores / T)), mean over samples (Hinton et al. 2015, section 2).

    T² keeps the size of the gradient, whatever the temperature. Where the float network ends in a softmax, the scores
    are the logarithms of both outputs: a softmax of probabilities is nearly the same for every sample. Both are
    (samples, classes), with or without axes of size 1.
    """
    scores, wanted = scores.flatten(1), wanted.flatten(1)
    logits = (log_probabilities(x) if are_probabilities(wanted.float()) else x.float() for x in (scores, wanted))
    mine, theirs = (torch.log_softmax(x / temperature, dim=1) for x in logits)
    return temperature**2 * functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def squared_error(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of an output of any shape, relative to the variance of what is wanted."""
    wanted = wanted.float()
    return (output.float() - wanted).square().mean() / wanted.var(correction=0).clamp_min(_SMALLEST)


def output_distance(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Sum over all float outputs: of the softened divergence for scores of classes, of the squared error for others."""
    return torch.stack(
        [
            softened_divergence(outputs[name], wanted, temperature)
            if has_scores(wanted)
            else squared_error(outputs[name], wanted)
            for name, wanted in targets.items()
            if wanted.is_floating_point()
        ]
    ).sum()


def channel_attention(feature: Tensor) -> Tensor:
    """Share of each channel in the energy of a map: mean of the squares over positions, of L2 norm 1.

    What HAST aligns (Li et al., "Hard Sample Matters a Lot in Zero-Shot Quantization", CVPR 2023). From (samples,
    channels, positions...) to (samples, channels), float32.
    """
    return functional.normalize(feature.float().square().flatten(2).mean(2), dim=1)


def attention_distance(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Sum over some maps of the mean squared error between the channel attentions of two networks."""
    return torch.stack(
        [functional.mse_loss(channel_attention(outputs[name]), channel_attention(targets[name])) for name in names]
    ).sum()


def agreement(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> float | None:
    """Share of common decisions, over all outputs with classes; None where there are none."""
    scores = [name for name, wanted in targets.items() if has_scores(wanted)]
    if not scores:
        return None
    same = [
        (outputs[name].flatten(1).argmax(1) == targets[name].flatten(1).argmax(1)).float().mean() for name in scores
    ]
    return float(torch.stack(same).mean())
