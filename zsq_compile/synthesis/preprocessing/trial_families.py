"""Other pictures than dead leaves to try preprocessings on, where the shape of an input points to them.

What a network was trained on has a contrast of its own: text lines and signs have more of it than photographs, which a
network that is tried on photographs alone would take for a larger scale.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.synthesis.images.drawings import strokes
from zsq_compile.synthesis.images.text_lines import text_lines
from zsq_compile.synthesis.preprocessing.trials import DrawImages

MakePictures = Callable[[int, int, int, int, torch.Generator], torch.Tensor]
"""(count, channels, height, width, randomness) -> pictures (count, channels, height, width) in [0, 1]."""

_WIDE = 2.0  # width over height of a text line


def other_families(spec: InputSpec, rng: torch.Generator) -> tuple[DrawImages, ...]:
    """Return what else to try: signs for gray pictures, text lines for wide ones."""
    makers = [strokes] if spec.channels == 1 else []
    if spec.width >= _WIDE * spec.height:
        makers.append(text_lines)
    return tuple(drawing(make, spec, rng) for make in makers)


def drawing(make: MakePictures, spec: InputSpec, rng: torch.Generator) -> DrawImages:
    """Draw pictures for the trials of an input."""

    def draw_images(count: int, height: int, width: int) -> NDArray[np.float32]:
        images: NDArray[np.float32] = make(count, spec.channels, height, width, rng).cpu().numpy()
        return images

    return draw_images
