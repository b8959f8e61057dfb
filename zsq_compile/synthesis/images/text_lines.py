"""Text lines as recognisers get them: one line that fills the height, in its colours on paper, padded at the right."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zsq_compile.synthesis.images.canvas import (
    Pixels,
    as_channels,
    as_photographed,
    happens,
    ink_and_paper,
    numpy_random,
    reduced,
    seen_askew,
    supersampling,
    to_batch,
)
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.glyphs import line_mask

_UPSIDE_DOWN = 0.15
_PADDED = 0.5
_TEXTURED = 0.4
_STRETCHED = 0.4  # of the lines that are short, some are stretched to the width instead of padded


def text_lines(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Make (count, channels, height, width) text lines in [0, 1], on the device of ``rng``."""
    gen = numpy_random(rng)
    drawn = [_draw_line(gen, height, width) for _ in range(count)]
    strokes = to_batch([mask for mask, _ in drawn], rng)
    colours = torch.tensor([ink_and_paper(gen) for _ in drawn], dtype=torch.float32, device=rng.device)
    ink, paper = colours[..., None, None].unbind(1)
    amount = torch.from_numpy((gen.random(count) < _TEXTURED) * 0.5 * gen.random(count) ** 2).float().to(rng.device)
    leaves = prior_images(count, 3, height, width, rng)
    texture = amount[:, None, None, None] * (leaves - leaves.mean((2, 3), keepdim=True))
    images = as_photographed(paper + texture + strokes * (ink - paper - texture), rng)
    for index, (_, filled) in enumerate(drawn):
        if happens(gen, _UPSIDE_DOWN):
            images[index, :, :, :filled] = images[index, :, :, :filled].flip(1, 2)
        images[index, :, :, filled:] = float(gen.choice((0.5, 0.5, 0.0, 1.0)))
    return as_channels(images, channels)


def _draw_line(gen: np.random.Generator, height: int, width: int) -> tuple[Pixels, int]:
    """Mask of the strokes of one line, and the column from which the picture is padding; ``width`` without."""
    factor = supersampling(height, width)
    rows, columns = factor * height, factor * width
    share = gen.uniform(0.5, 0.85) if width >= 2 * height else gen.uniform(0.3, 0.95)
    longest = columns / rows / share
    mask = line_mask(gen, round(rows * share), longest * gen.uniform(0.35, 1.25))
    # Lines are cut out by their box: what has no ascender is enlarged as what has one is.
    tall = max(1, round(rows * share))
    wide = max(1, round(mask.width * tall / mask.height))
    margin = round(0.5 * (rows - tall) * gen.uniform(0.3, 1.5))
    filled = min(columns, wide + 2 * margin)
    if width >= 2 * height and happens(gen, _STRETCHED):
        filled = columns
    tall, wide = min(tall, rows), max(1, filled - 2 * margin)
    sheet = Image.new("L", (filled, rows), 0)
    top = round((rows - tall) * gen.uniform(0.3, 0.7))
    sheet.paste(mask.resize((wide, tall), Image.Resampling.BILINEAR), (margin, top))
    sheet = seen_askew(sheet, gen, gen.choice((0.0, 0.02, 0.06)))
    end = filled if happens(gen, _PADDED) else columns
    left = 0 if end == filled else int(gen.integers(0, columns - filled + 1))
    whole = Image.new("L", (columns, rows), 0)
    whole.paste(sheet, (left, 0))
    return reduced(whole, width, height), max(1, min(width, end // factor))
