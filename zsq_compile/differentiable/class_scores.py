"""Class scores of a torch network, as logits or as probabilities, whichever of the two its output holds."""

from collections.abc import Mapping

from torch import Tensor

from zsq_compile.metrics import SMALLEST_PROBABILITY, Output, are_probabilities, score_count, score_output


def tensor_output(tensor: Tensor) -> Output:
    """Describe an output for the functions of ``metrics``."""
    return Output(tuple(tensor.shape), tensor.is_floating_point())


def find_scores(outputs: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Name and number of classes of the first output with one row of class scores for each sample."""
    described = {name: tensor_output(tensor) for name, tensor in outputs.items()}
    name = score_output(described)
    classes = None if name is None else score_count(described[name])
    return None if name is None or classes is None else (name, classes)


def has_scores(tensor: Tensor) -> bool:
    """Whether an output has one row of class scores for each sample (see ``metrics.score_count``)."""
    return score_count(tensor_output(tensor)) is not None


def class_logits(scores: Tensor) -> Tensor:
    """(N, classes) logits in float32: the scores, or their logarithms where they are probabilities."""
    flat = scores.float().flatten(1)
    return log_probabilities(flat) if are_probabilities(flat.detach()) else flat


def class_probabilities(scores: Tensor) -> Tensor:
    """(N, classes) probabilities in float32: the softmax of scores, or the scores where they are probabilities."""
    flat = scores.float().flatten(1)
    return flat if are_probabilities(flat.detach()) else flat.softmax(1)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logarithms in float32, of the same shape; 0 counts as the smallest probability."""
    return probabilities.float().clamp_min(SMALLEST_PROBABILITY).log()
