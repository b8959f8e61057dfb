"""Pages: headings, paragraphs, columns and tables on paper, and scattered lines of writing on photographs."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from zsq_compile.synthesis.images.canvas import (
    Colour,
    as_bytes,
    as_channels,
    as_photographed,
    happens,
    ink_and_paper,
    letterboxed,
    numpy_random,
    random_colour,
    reduced,
    seen_askew,
    to_batch,
)
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.glyphs import line_mask

_FACTOR = 2  # drawn twice as large
_ON_PHOTOGRAPHS = 0.4
_SMALLEST = 10  # pixels of a line of writing as it is drawn


def pages(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Make (count, channels, height, width) pages in [0, 1], on the device of ``rng``."""
    gen = numpy_random(rng)
    leaves = prior_images(count, 3, height, width, rng)
    drawn = []
    for leaf in (255.0 * leaves).byte().permute(0, 2, 3, 1).cpu().numpy():
        size = (_FACTOR * width, _FACTOR * height)
        photograph = Image.fromarray(leaf).resize(size, Image.Resampling.BILINEAR)
        page = _scattered(gen, photograph) if happens(gen, _ON_PHOTOGRAPHS) else _typeset(gen, photograph)
        drawn.append(reduced(page, width, height))
    images = as_photographed(to_batch(drawn, rng), rng, noise=0.03)
    return as_channels(letterboxed(images, gen, 0.15), channels)


def _write(
    gen: np.random.Generator,
    page: Image.Image,
    place: tuple[float, float],
    size: float,
    room: float,
    ink: Colour,
    script: float,
) -> float:
    """Write a line whose upper left corner is ``place``, at most about ``room`` pixels long; returns its length."""
    mask = line_mask(gen, round(size), max(1.0, room / size), script)
    page.paste(as_bytes(ink), (round(place[0]), round(place[1])), mask)
    return mask.width


def _scattered(gen: np.random.Generator, page: Image.Image) -> Image.Image:
    """Write a few lines of any colour and size over a photograph."""
    width, height = page.size
    for _ in range(int(gen.integers(1, 6))):
        size = max(_SMALLEST, height * 0.03 * (8.0 ** gen.random()))
        place = gen.uniform(-0.05, 0.6) * width, gen.uniform(0.0, 0.9) * height
        ink = random_colour(gen, gen.random(), float(gen.choice((0.0, 0.2, 0.5))))
        if happens(gen, 0.2):
            box = (place[0] - size / 3, place[1] - size / 3, place[0] + gen.uniform(2, 8) * size, place[1] + 1.3 * size)
            ImageDraw.Draw(page).rectangle(box, as_bytes(random_colour(gen, 1.0 - float(np.mean(ink)), 0.1)))
        _write(gen, page, place, size, gen.uniform(0.3, 1.0) * width, ink, gen.random())
    return page


def _typeset(gen: np.random.Generator, photograph: Image.Image) -> Image.Image:
    """Set a page of writing in one or a few columns on paper, with headings, rules, tables and pictures."""
    width, height = photograph.size
    ink, paper = ink_and_paper(gen, dark_paper=0.12)
    page = Image.new("RGB", photograph.size, as_bytes(paper))
    columns = int(gen.choice((1, 1, 1, 2, 3)))
    size = max(_SMALLEST, height * 0.03 * 3.0 ** gen.random())
    margin, gap = width * gen.uniform(0.02, 0.12), width * 0.04
    wide = (width - 2 * margin - gap * (columns - 1)) / columns
    varied, script = happens(gen, 0.4), gen.random()
    for column in range(columns):
        left, top = margin + column * (wide + gap), height * gen.uniform(0.0, 0.12)
        while top < 0.95 * height:
            top += _set_block(gen, page, photograph, (left, top), size, wide, ink, script, varied)
    return seen_askew(page, gen, gen.choice((0.0, 0.03, 0.1)), int(gen.choice((0, 60, 255))))


def _set_block(
    gen: np.random.Generator,
    page: Image.Image,
    photograph: Image.Image,
    place: tuple[float, float],
    size: float,
    wide: float,
    ink: Colour,
    script: float,
    varied: bool,
) -> float:
    """Set a heading, a table, a picture or a paragraph; returns its height and that of the space behind it."""
    (left, top), kind = place, gen.random()
    if kind < 0.2:
        larger = size * gen.uniform(1.3, 2.5)
        _write(gen, page, place, larger, wide, random_colour(gen, float(np.mean(ink)), 0.15), script)
        return 1.7 * larger
    if kind < 0.3:
        return _set_table(gen, page, place, size, wide, ink)
    if kind < 0.38:
        tall = size * gen.uniform(3, 8)
        part = photograph.resize((max(1, round(wide)), max(1, round(tall))))
        page.paste(part, (round(left), round(top)))
        return tall + size
    leading, indent = size * gen.uniform(1.2, 2.2), 0.0
    lines = int(gen.integers(1, 7))
    for line in range(lines):
        own = size * (gen.uniform(0.6, 2.0) if varied else 1.0)
        colour = random_colour(gen, float(np.mean(ink)), 0.25) if varied else ink
        indent = gen.uniform(0.0, 0.3) * wide if varied else 0.0
        _write(gen, page, (left + indent, top + line * leading), own, wide - indent, colour, script)
    return lines * leading + size * gen.uniform(0.3, 1.5)


def _set_table(
    gen: np.random.Generator, page: Image.Image, place: tuple[float, float], size: float, wide: float, ink: Colour
) -> float:
    """Set a table of short entries between rules; returns its height and that of the space behind it."""
    draw, (left, top) = ImageDraw.Draw(page), place
    rows, columns, leading = int(gen.integers(2, 6)), int(gen.integers(2, 5)), 1.6 * size
    cell, rule = wide / columns, max(1, round(0.06 * size))
    for row in range(rows + 1):
        draw.line((left, top + row * leading, left + wide, top + row * leading), as_bytes(ink), rule)
    if happens(gen, 0.6):
        for column in range(columns + 1):
            across = left + column * cell
            draw.line((across, top, across, top + rows * leading), as_bytes(ink), rule)
    for row, column in np.ndindex(rows, columns):
        if happens(gen, 0.8):
            corner = left + (column + 0.1) * cell, top + (row + 0.3) * leading
            _write(gen, page, corner, 0.8 * size, 0.8 * cell, ink, 0.0)
    return rows * leading + size
