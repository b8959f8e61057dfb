"""Let places count more from which a network's answers come.

A detector says nothing at 999 of 1000 places, and a range of least error over all of them cuts off what the few others
are answered by: on a face detector 7 of 163 boxes were lost by that, with ranges that reach as far as those of real
pictures. So half of the error is measured with each place weighed by the squared gradient of the answers, the share of
a place in the Fisher information (as BRECQ, Li et al. 2021, weighs outputs of blocks); the other half as ever. See
`benchmarks/results/answering.md`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.find_answers import AnsweringHead, find_answers, has_fixed_batch
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.calibration.observers import Extremes, Histogram
from zsq_compile.quantization.samples import Batch

_SHARE = 0.5  # of the error
_MOST_SAMPLES = 16


def weigh_by_answers(
    histograms: Mapping[str, Histogram], teacher: TorchGraph, batches: Sequence[Batch], groups: Mapping[str, str]
) -> None:
    """Replace half of the counts of every value in front of answers at places; others, and their sums, stay.

    Args:
        histograms: of every group, counted on all batches.
        teacher: the float network.
        batches: of calibration.
        groups: group by the name of each value.

    """
    heads = [head for head in find_answers(teacher, batches) if head.positions > 1]
    if not heads:
        return
    weighed = {group: Histogram(Extremes(low=one.low, high=one.high)) for group, one in histograms.items()}
    for feeds in _answering(teacher, batches, heads):
        for name, values, weights in _place_weights(teacher, feeds, heads, groups):
            weighed[groups[name]].weigh(values, weights)
    for group, one in histograms.items():
        total = weighed[group].counts.sum()
        if total > 0.0:
            own = weighed[group].counts * (one.counts.sum() / total)
            one.counts = (1.0 - _SHARE) * one.counts + _SHARE * own


def _answering(teacher: TorchGraph, batches: Sequence[Batch], heads: Sequence[AnsweringHead]) -> Iterator[Batch]:
    """Yield the samples, or whole batches of a fixed size, with the firmest answers of each head in turns."""
    names, feeds, said = list(dict.fromkeys(head.logits for head in heads)), list[Batch](), list[Tensor]()
    for batch in batches:
        count = min(map(len, batch.values()))
        step = count if has_fixed_batch(teacher) else 1
        feeds += [{name: x[at : at + step] for name, x in batch.items()} for at in range(0, count, step)]
        with torch.no_grad():
            values = teacher.run(batch, names)
        odds = torch.stack([head.strongest(values[head.logits]) for head in heads], 1).detach()
        said.append(odds.reshape(-1, step, len(heads)).amax(1))
    order = torch.cat(said).argsort(stable=True, dim=0, descending=True)  # (feeds, heads)
    most = max(_MOST_SAMPLES // len(next(iter(feeds[0].values()))), 1)
    for place in list(dict.fromkeys(order.flatten().tolist()))[:most]:
        yield feeds[place]


@dataclass(slots=True)
class _Kept:
    """Values of one run that wait for their gradients, by name."""

    names: Mapping[str, str]
    values: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, node: ir.Node, results: tuple[Tensor, ...]) -> None:
        """Keep what is named; see ``TorchGraph.run``."""
        for value, result in zip(node.outputs, results, strict=False):
            if value.name in self.names and result.requires_grad:
                self.values[str(value.name)] = result


def _place_weights(
    teacher: TorchGraph, feeds: Batch, heads: Sequence[AnsweringHead], groups: Mapping[str, str]
) -> list[tuple[str, Tensor, Tensor]]:
    """(name, values, weights) of every value that answers depend on; channels of a place of a map share a weight."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {
            name: value.clone().requires_grad_() if value.is_floating_point() else value
            for name, value in feeds.items()
        }
        kept = _Kept(groups, {name: leaf for name, leaf in leaves.items() if name in groups and leaf.requires_grad})
        made = teacher.run(leaves, list(dict.fromkeys(head.logits for head in heads)), visit=kept.keep)
        said = leaves[next(iter(leaves))].new_zeros(())
        for head in heads:
            answers = head.answers(made[head.logits])
            said = said + functional.softplus(answers[torch.isfinite(answers)]).sum()
        names = list(kept.values)
        if not names or not said.requires_grad:  # nothing that is quantized lies in front, or no gradient comes through
            return []
        gradients = torch.autograd.grad(said, [kept.values[name] for name in names], allow_unused=True)
    found = []
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            weights, values = gradient.square(), kept.values[name].detach()
            weights = weights.mean(1, keepdim=True).expand_as(weights) if weights.ndim == 4 else weights
            found.append((name, values, weights))
    return found
