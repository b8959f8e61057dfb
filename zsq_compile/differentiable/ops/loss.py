"""Losses that a graph computes itself."""

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Input, Kernel, Row, integer, text

_IGNORED = -100  # torch's own default; no label has it


def _negative_log_likelihood(node: ir.Node) -> Kernel:
    reduction, ignored = text(node, "reduction", "mean"), integer(node, "ignore_index", _IGNORED)

    def run(scores: Tensor, labels: Tensor, weight: Input = None) -> Tensor:
        return functional.nll_loss(scores, labels.to(torch.int64), weight, ignore_index=ignored, reduction=reduction)

    return run


def _softmax_cross_entropy(node: ir.Node) -> Kernel:
    loss = _negative_log_likelihood(node)

    def run(scores: Tensor, labels: Tensor, weight: Input = None) -> tuple[Tensor, ...]:
        logarithms = functional.log_softmax(scores, 1)
        made = loss(logarithms, labels, weight)
        assert isinstance(made, Tensor)
        return made, logarithms

    return run


ROWS: tuple[Row, ...] = (
    ("NegativeLogLikelihoodLoss", (12, 13, 22), _negative_log_likelihood),
    ("SoftmaxCrossEntropyLoss", (12, 13), _softmax_cross_entropy),
)
