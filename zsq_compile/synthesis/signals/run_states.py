"""States that a network itself returns after some frames, for inputs that hand its state from one run to the next.

Calibrated on zeros alone, which is what a first frame has, ranges know nothing of all frames behind it.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.signals.sound import WINDOWS

_LARGEST = 1e4  # of a state: one that grows without bounds belongs to frames that do not follow each other


def pair_states(inputs: Sequence[InputSpec], outputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Pair the states among the inputs with outputs of the same shape, by name.

    Of several outputs, an input gets the one whose name has the longest beginning in common with its own, and where
    that does not tell, the one whose turn it is; no two get the same.

    Args:
        inputs: of the network; those of kind "state" that have a batch are paired.
        outputs: of one run with the smallest batch.

    """
    taken: dict[str, str] = {}
    for spec in inputs:
        if spec.kind != "state" or spec.batch_axis is None:
            continue
        shape = spec.batched(spec.shape[0] or 1)
        free = [name for name, value in outputs.items() if value.shape == shape and name not in taken.values()]
        if free:
            taken[spec.name] = max(free, key=lambda name: _alike(name, spec.name))
    return taken


def _alike(one: str, other: str) -> int:
    """Count the letters that two names begin with."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one.lower(), other.lower(), strict=False))))


def run_states(
    teacher: TorchGraph, inputs: Sequence[InputSpec], samples: Mapping[str, Tensor], windows: int = WINDOWS
) -> dict[str, Tensor]:
    """Return the samples with states that the network returned, where inputs are states and outputs give them.

    Each run of ``windows`` samples is taken for frames that follow one another, as ``draw_sounds`` makes them: the
    first has the state that it has, zeros, and every other the one that the network returned for the frame before it.
    A state that is not finite, or very large, leaves that of the frame as it is.

    Args:
        teacher: the float network.
        inputs: of the network.
        samples: network inputs (count, ...) by name.
        windows: frames of one sound.

    """
    if not any(spec.kind == "state" and spec.batch_axis is not None for spec in inputs):
        return dict(samples)
    count, feed = min(map(len, samples.values())), fixed_batch(inputs) or 1
    with torch.no_grad():
        first = _run(teacher, {name: value[:feed] for name, value in samples.items()})
        pairs = pair_states(inputs, first)
        carried = {name: value.clone() if name in pairs else value for name, value in samples.items()}
        groups = count // feed
        for frame in range(min(windows, groups) - 1 if pairs else 0):
            starts = torch.arange(frame, groups - 1, windows)
            for some in [starts] if fixed_batch(inputs) is None else list(starts[:, None]):
                rows = (some[:, None] * feed + torch.arange(feed)).reshape(-1)
                if not len(rows):
                    continue
                returned = _run(teacher, {name: value[rows] for name, value in carried.items()})
                for name, output in pairs.items():
                    state = returned[output].to(carried[name])
                    usable = (state.isfinite() & (state.abs() < _LARGEST)).flatten(1).all(1)
                    carried[name][rows[usable] + feed] = state[usable]
    return carried


def _run(teacher: TorchGraph, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    placed = {name: value.to(teacher.device) for name, value in feeds.items()}
    return {name: value.cpu() for name, value in teacher.run(placed, teacher.output_names).items()}
