"""Optimise samples until some places of some heads answer, as firmly as each was asked to.

Activation maximisation (Erhan et al. 2009) with what keeps it natural (Mahendran and Vedaldi 2016; Olah et al. 2017):
the start is a natural sample, places and classes are those that come nearest to an answer by themselves, gradients are
smoothed to the 1/f spectrum of images, the picture is shifted at random at every step, and a sample that has answered
is left alone, since real inputs are no farther from silence than they must be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.differentiable.find_answers import AnsweringHead
from zsq_compile.synthesis.images.spectral import power_law_filter
from zsq_compile.synthesis.task import SynthesisTask, Tensors

_WEAKEST, _FIRMEST = 0.5, 5.0  # log-odds that are asked for: probabilities of 0.62 to 0.993
_MOST_PLACES = 6
_PLACES_SHARE = 0.15  # of the positions of a head, where it has few
_SPREAD = 1.5  # of random numbers that are added where places are chosen, in deviations of the log-odds
_PIXEL_RATE = 0.02
_SIGNAL_RATE = 0.08  # of the deviation of a signal
_SHIFT = 0.01  # of the side of a picture
_TIMES = 2  # running that a sample answers before it is left alone


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Goal:
    """Log-odds that one head is to reach, (samples, positions, classes), -inf where nothing is asked for."""

    head: AnsweringHead
    odds: Tensor


def draw_goals(heads: Sequence[AnsweringHead], logits: Mapping[str, Tensor], rng: torch.Generator) -> list[Goal]:
    """Ask one head of each sample, in turns, for answers at a few places that are near to one.

    Args:
        heads: silent ones.
        logits: what they say now, by name.
        rng: of heads, places and firmness.

    """
    now = [head.answers(logits[head.logits]) for head in heads]
    count = len(now[0])
    turns = torch.randperm(count, generator=rng, device=rng.device) % len(heads)
    goals = [torch.full_like(odds, -torch.inf) for odds in now]
    for sample in range(count):
        odds = now[int(turns[sample])][sample]
        finite = torch.isfinite(odds)
        spread = odds[finite].std() if int(finite.sum()) > 1 else odds.new_zeros(())
        noise = torch.randn(odds.shape, generator=rng, device=rng.device)
        best, chosen = (odds + _SPREAD * spread * noise).max(-1)  # a class for each position
        most = max(1, min(_MOST_PLACES, round(_PLACES_SHARE * len(best))))
        places = best.topk(1 + int(torch.randint(most, (), generator=rng, device=rng.device))).indices
        firmness = _WEAKEST + (_FIRMEST - _WEAKEST) * torch.rand((), generator=rng, device=rng.device)
        goals[int(turns[sample])][sample, places, chosen[places]] = firmness
    return [Goal(head=head, odds=odds) for head, odds in zip(heads, goals, strict=True)]


def raise_answers(
    task: SynthesisTask,
    samples: Mapping[str, Tensor],
    movable: Sequence[str],
    goals: Sequence[Goal],
    rng: torch.Generator,
    iterations: int,
    *,
    together: bool = False,
) -> tuple[Tensors, int]:
    """Take at most ``iterations`` steps of Adam; a sample is left alone that answers at two shifts running.

    Args:
        task: says which inputs are images, and how they are encoded.
        samples: to start from, images as pixels; one batch.
        movable: names of the inputs that are changed. They keep within what the batch reaches; pixels within [0, 1].
        goals: of heads.
        rng: of the shifts.
        iterations: at most.
        together: samples must be run together: the batch is fixed, or they make up one sequence.

    Returns:
        The samples, and how many reached their goal.

    """
    leaves = {name: samples[name].clone().requires_grad_() for name in movable}
    limits = {name: _limits(task, name, samples[name]) for name in movable}
    groups = [{"params": [leaf], "lr": _rate(task, name, samples[name])} for name, leaf in leaves.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.9), eps=1e-12)
    steps = {spec.name: _largest_shift(spec) for spec in task.inputs if spec.name in movable and spec.is_image}
    times = torch.zeros(len(next(iter(samples.values()))), dtype=torch.long, device=task.teacher.device)
    for _ in range(iterations):
        moving = times < _TIMES
        if not bool(moving.any()):
            break
        run = torch.ones_like(moving) if together else moving
        view = {**samples, **{name: _shift(leaf, steps.get(name, 0), rng) for name, leaf in leaves.items()}}
        missing = _missing(task, {name: value[run] for name, value in view.items()}, goals, run)
        if not missing.requires_grad:  # what is rounded or looked up lets no gradient through
            break
        times[run] = torch.where(missing.detach() <= 0.0, times[run] + 1, 0)
        _step(task, optimizer, leaves, torch.autograd.grad(missing.sum(), list(leaves.values()), allow_unused=True))
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.clamp_(*limits[name])
    return {**samples, **{name: leaf.detach() for name, leaf in leaves.items()}}, int((times > 0).sum())


def _missing(task: SynthesisTask, samples: Tensors, goals: Sequence[Goal], run: Tensor) -> Tensor:
    """By how much log-odds are below what is asked for, summed over places, (samples,)."""
    asked = [goal for goal in goals if bool(torch.isfinite(goal.odds[run]).any())]
    values = task.teacher.run(task.encode(samples), list(dict.fromkeys(goal.head.logits for goal in asked)))
    missing = torch.zeros(int(run.sum()), device=task.teacher.device)
    for goal in asked:
        wanted = goal.odds[run]
        odds = goal.head.answers(values[goal.head.logits])
        missing = missing + torch.where(torch.isfinite(wanted), wanted - odds, 0.0).clamp_min(0.0).flatten(1).sum(1)
    return missing


def _step(
    task: SynthesisTask, optimizer: torch.optim.Optimizer, leaves: Tensors, gradients: Sequence[Tensor | None]
) -> None:
    """Move the samples that have a gradient."""
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    still = {}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        still[name] = gradient is None or (gradient.flatten(1) == 0.0).all(1)
        leaf.grad = power_law_filter(gradient) if gradient is not None and name in task.pictures else gradient
    optimizer.step()
    with torch.no_grad():
        for name, leaf in leaves.items():
            if isinstance(still[name], Tensor):  # Adam goes on where it was going
                leaf[still[name]] = before[name][still[name]]


def _shift(samples: Tensor, largest: int, rng: torch.Generator) -> Tensor:
    """Shift pictures by up to ``largest`` pixels down or up and across, all alike."""
    if not largest:
        return samples
    down, across = torch.randint(-largest, largest + 1, (2,), generator=rng, device=rng.device).tolist()
    return samples.roll((down, across), (-2, -1))


def _largest_shift(spec: InputSpec) -> int:
    return max(1, round(_SHIFT * min(spec.height, spec.width)))


def _rate(task: SynthesisTask, name: str, samples: Tensor) -> float:
    return _PIXEL_RATE if name in task.pictures else _SIGNAL_RATE * float(samples.std(correction=0))


def _limits(task: SynthesisTask, name: str, samples: Tensor) -> tuple[float, float]:
    return (0.0, 1.0) if name in task.pictures else (float(samples.min()), float(samples.max()))
