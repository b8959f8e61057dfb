"""Which numbers does a network expect of an image when no statistics tell? What the rest of it lets expect, in words.

Of the contracts in common use, three make numbers of about 1 and two raw pixels. A graph that scales its input itself
tells which of both it wants; biases tell, where they dwarf small pictures; and so do a classifier's decisions, which
are firm on each picture and various over all where the numbers are right, and all the same where they are far too
large. Which of the three small ones it is, nothing tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch

from passes.operators import WEIGHTED
from zsq_compile.data.conventions import RAW_PRODUCERS
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.differentiable.class_scores import class_probabilities, find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ZsqError
from zsq_compile.synthesis.generator import InputContract
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import batch_moments

Feeds = Mapping[str, torch.Tensor]

_DWARFED = 10.0
_RAW_FROM = 16.0
_SCALING = ("Add", "Sub", "Mul", "Div")
_RAW = ("byte", "byte_bgr")
_PICTURES = 16
_PLAUSIBLE, _NOTHING = 1.5, 1e-3


def assumed_contract(
    teacher: TorchGraph, spec: InputSpec, candidates: Sequence[InputContract], rng: torch.Generator, others: Feeds
) -> InputContract:
    """Contract that the graph lets expect, with ``inferred=False`` and no margin, and the reason.

    Mean and std of ImageNet are assumed in the end: most published classifiers and backbones expect them, and they span
    the widest range of the small ones. A range too wide costs some resolution, one too narrow clips.

    Args:
        teacher: the network.
        spec: its image input, (N, C, H, W).
        candidates: contracts by the names that ``InputContract`` lists, all but "given".
        rng: of the pictures to try them on.
        others: feeds for the other inputs, of at least one batch.

    """
    named = {candidate.name: candidate for candidate in candidates}
    usual = named["imagenet"]
    batch, channels, height, width = (int(size or 1) for size in spec.shape)
    pictures = prior_images(batch, channels, height, width, rng).to(teacher.device)
    shared = {name: value[: len(pictures)] for name, value in others.items()}
    divisor, response = _opening(teacher, spec.name, {spec.name: usual.encode(pictures), **shared})
    if divisor is not None:
        raw = divisor >= _RAW_FROM
        return replace(named["byte" if raw else "unit"], reason=f"the graph scales its input by {divisor:.4g} itself")
    if response is not None and response.ndim == 4:
        moments = batch_moments(response)
        if float((moments.mean.abs() / moments.variance.sqrt().clamp_min(1e-12)).median()) > _DWARFED:
            return replace(named["byte"], reason="biases of the first layer dwarf what smaller numbers would give")
    margin = _small_over_raw(teacher, spec, candidates, rng, others)
    if margin >= _PLAUSIBLE:
        reason = f"its decisions are {min(margin, 99):.1f} times more telling on small numbers than on raw pixels"
        return replace(usual, reason=f"{reason}; of the small ones the commonest")
    if teacher.model.producer_name in RAW_PRODUCERS:
        return replace(named["byte"], reason=f"raw pixels are usual with {teacher.model.producer_name}")
    return replace(usual, reason="the commonest, as nothing in the model tells")


def _small_over_raw(
    teacher: TorchGraph, spec: InputSpec, candidates: Sequence[InputContract], rng: torch.Generator, others: Feeds
) -> float:
    """How many times more a classifier's decisions tell of pictures in small numbers than of raw pixels; else 1.

    The reverse proves nothing: a network of any kind tells more of pictures that are blown up.
    """
    batch, channels, height, width = (int(size or 0) for size in spec.shape)
    count = -(-_PICTURES // batch) * batch if batch else _PICTURES
    pictures = prior_images(count, channels, height, width, rng).to(teacher.device)
    size = batch or min((len(value) for value in others.values()), default=count)
    best = {True: 0.0, False: 0.0}
    for candidate in candidates:
        information = _information(teacher, spec.name, torch.split(candidate.encode(pictures), size), others)
        if information is None:
            return 1.0
        raw = candidate.name in _RAW
        best[raw] = max(best[raw], information)
    return best[False] / max(best[True], _NOTHING)


def _information(teacher: TorchGraph, name: str, parts: Sequence[torch.Tensor], others: Feeds) -> float | None:
    """Nats that a decision tells of its picture: the logarithm of the Inception score (Salimans et al. 2016, sec. 4).

    That is the entropy of the mean probabilities less the mean entropy; None where no output looks like class scores.
    """
    found = []
    for part in parts:
        shared = {other: value[: len(part)] for other, value in others.items()}
        try:
            with torch.no_grad():
                outputs = teacher.run({name: part, **shared})
        except (RuntimeError, ZsqError):
            return None
        scores = find_scores(outputs)
        if scores is None:
            return None
        found.append(class_probabilities(outputs[scores[0]]))
    each = torch.cat(found)
    entropies = torch.special.entr(torch.cat((each.mean(0, keepdim=True), each))).sum(1)
    return float(entropies[0] - entropies[1:].mean())


def _opening(teacher: TorchGraph, name: str, feeds: Feeds) -> tuple[float | None, torch.Tensor | None]:
    """Look at what happens to input ``name`` first.

    Returns the largest constant by which the graph shifts or divides it before the first weighted node, and what that
    node makes of it; None for what is not there.
    """
    follows = {name}
    found: list[float] = []
    response: torch.Tensor | None = None

    def look(node: ir.Node, results: tuple[torch.Tensor, ...]) -> None:
        nonlocal response
        names = [value.name for value in node.inputs if value is not None and value.name]
        if response is not None or not follows.intersection(names):
            return
        if node.op_type in WEIGHTED or node.op_type == "BatchNormalization":
            response = results[0]
            return
        follows.update(value.name for value in node.outputs if value.name)
        for constant in (teacher.initializers[name] for name in names if name in teacher.initializers):
            if node.op_type in _SCALING and constant.is_floating_point() and constant.numel():
                size = float(constant.abs().max())
                found.append(1.0 / max(size, 1e-9) if node.op_type == "Mul" else size)

    with torch.no_grad():
        teacher.run(feeds, visit=look)
    return (max(found) if found else None), response
