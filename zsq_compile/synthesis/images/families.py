"""Families of synthetic inputs that calibration has not seen, for estimating the agreement of a finished file.

Pictures start from dead leaves of a seed of their own: as they are, with more and with less contrast, and with halves
of two images side by side. Signals are varied alike, but all except the first are of other families than calibration
had. By how much the agreement on such images is too low differs little between networks, less than on 1/f fields, and
less than on samples that were optimised for the network's own statistics (`benchmarks/results/confidence.md`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.procedural import as_input, draw_samples
from zsq_compile.synthesis.signals.draw import other_families, signals
from zsq_compile.synthesis.signals.noise import prior_signals

_PIXELS = 48 * 224 * 224
_MOST, _FEWEST = 256, 8
_MIDDLE, _MORE, _LESS = 0.45, 1.7, 0.5  # mean of photographs; factors of contrast around it

FAMILIES = ("prior", "high contrast", "low contrast", "joined halves")


def family_size(inputs: Sequence[InputSpec]) -> int:
    """Count the samples of a family: 256 of small inputs, down to 8 of large ones, and whole feeds of a fixed batch."""
    area = max((spec.height * spec.width for spec in inputs if spec.is_image), default=1)
    count, fixed = min(max(_PIXELS // area, _FEWEST), _MOST), fixed_batch(inputs) or 1
    return -(-count // fixed) * fixed


def input_families(
    inputs: Sequence[InputSpec], preprocessing: Mapping[str, Preprocessing], rng: torch.Generator
) -> dict[str, dict[str, Tensor]]:
    """Network inputs (count, ...) by name of the family and of the input; for ``count`` see ``family_size``.

    Args:
        inputs: of the network; there are synthetic values for all of them.
        preprocessing: by name of the input; one without gets signals.
        rng: all randomness. Its seed must not be the one that calibration data was made with.

    """
    count = family_size(inputs)
    families: dict[str, dict[str, Tensor]] = {}
    for spec in inputs:
        one = preprocessing.get(spec.name)
        if spec.takes_stand_ins:
            varied = {name: draw_samples(spec, count, rng) for name in FAMILIES}
        elif spec.is_image and one is not None:
            varied = _vary(prior_images(*spec.pictures(count), rng), _MIDDLE)
            varied = {name: one.encode(pixels.clamp(0.0, 1.0)) for name, pixels in varied.items()}
        elif one is not None:
            varied = _vary_signals(spec, count, rng, one.family)
            varied = {name: one.encode(values) for name, values in varied.items()}
        else:
            varied = _vary(prior_signals(spec.batched(count), rng), 0.0)
        for name, values in varied.items():
            families.setdefault(name, {})[spec.name] = as_input(spec, values)
    return families


def _vary_signals(spec: InputSpec, count: int, rng: torch.Generator, family: SignalFamily | None) -> dict[str, Tensor]:
    """Signals of a family, and of others louder, quieter and in halves; by name of the family."""
    shape = spec.batched(count)
    own = signals(shape, family or "noise", rng)
    loud, quiet, *left = (signals(shape, other, rng) for other in other_families(family))
    made = [own, _MORE * loud, _LESS * quiet, _join_halves(left[0] if left else own)]
    if family == "sound":  # recordings are cut at full scale
        made = [one.clamp(-1.0, 1.0) for one in made]
    return dict(zip(FAMILIES, made, strict=True))


def _vary(samples: Tensor, middle: float) -> dict[str, Tensor]:
    """Vary the contrast of samples around ``middle``; by name of the family."""
    made = (
        samples,
        middle + _MORE * (samples - middle),
        middle + _LESS * (samples - middle),
        _join_halves(samples),
    )
    return dict(zip(FAMILIES, made, strict=True))


def _join_halves(values: Tensor) -> Tensor:
    """Put the first half of each sample, along its last axis, beside the second half of the sample before it."""
    middle = values.shape[-1] // 2
    return torch.cat([values[..., :middle], values.roll(1, 0)[..., middle:]], -1)
