"""Procedural data for any float input: dead leaves for images, noise for everything else."""

from collections.abc import Sequence

import numpy as np
import torch

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.signal import prior_signals


def check_inputs(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the inputs if data can be synthesized for all of them.

    Raises:
        SynthesisError: there is no input, or one takes integers, strings or booleans.

    """
    if not inputs:
        raise SynthesisError("the network has no input, so there is no data to be made for it")
    for spec in inputs:
        if not np.issubdtype(spec.dtype, np.floating):
            raise SynthesisError(
                f"input {spec.name!r} takes {spec.dtype} of shape {spec.shape}: values such as token ids or masks have "
                "a meaning that cannot be synthesized; give real samples with --calib FILE.npz"
            )
    return tuple(inputs)


def draw_samples(spec: InputSpec, count: int, rng: torch.Generator) -> torch.Tensor:
    """``count`` samples of an input: images with pixels in [0, 1], or signals in the network's own units."""
    shape = spec.batched(count)
    if not spec.is_image:
        return prior_signals(shape, rng)
    _, channels, height, width = shape
    return prior_images(count, channels, height, width, rng)
