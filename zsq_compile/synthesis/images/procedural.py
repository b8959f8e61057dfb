"""Procedural data for every kind of input: dead leaves for images, noise for signals, stand-ins for the rest."""

from collections.abc import Sequence

import numpy as np
import torch

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing, unit_preprocessing
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.images.pictures import PHOTOGRAPHS, Shares, draw_pictures
from zsq_compile.synthesis.signals.draw import signals
from zsq_compile.synthesis.stand_ins import draw_stand_ins


def check_inputs(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the inputs if data can be synthesized for all of them.

    Raises:
        SynthesisError: there is no input, or one takes what is no number, such as texts.

    """
    if not inputs:
        raise SynthesisError("the network has no input, so there is no data to be made for it")
    for spec in inputs:
        if not spec.can_be_made:
            raise SynthesisError(
                f"input {spec.name!r} takes {spec.dtype} of shape {spec.shape}, which cannot be synthesized: give real "
                "samples with --calib FILE.npz"
            )
    return tuple(inputs)


def as_input(spec: InputSpec, values: torch.Tensor) -> torch.Tensor:
    """Network input as it is handed on, on the CPU: float32, or of the input's own type if that is no float."""
    if not values.is_floating_point():
        return values.cpu()
    if np.issubdtype(spec.dtype, np.integer):
        return torch.from_numpy(spec.typed(values.float().cpu().numpy()))
    return values.float().cpu()


def draw_samples(
    spec: InputSpec,
    count: int,
    rng: torch.Generator,
    preprocessing: Preprocessing | None = None,
    shares: Shares = PHOTOGRAPHS,
) -> torch.Tensor:
    """``count`` samples of an input: images (N, C, H, W) in [0, 1], or signals; before their preprocessing, if any.

    Images are of a mixture of families with these ``shares``.
    What takes stand-ins gets them as it takes them (see ``draw_stand_ins``).
    """
    if spec.takes_stand_ins:
        seed = int(torch.randint(1 << 31, (), generator=rng, device=rng.device))
        return torch.from_numpy(draw_stand_ins(spec, count, np.random.default_rng(seed))).to(rng.device)
    if spec.is_image:
        return draw_pictures(spec, count, rng, shares)
    return signals(spec.batched(count), (preprocessing and preprocessing.family) or "noise", rng)


def draw_feed(spec: InputSpec, count: int, rng: torch.Generator) -> torch.Tensor:
    """``count`` samples of an input as it takes them; of images whose preprocessing is not known, plain pixels."""
    samples = draw_samples(spec, count, rng)
    return as_input(spec, unit_preprocessing(spec).encode(samples)) if spec.is_image else samples
