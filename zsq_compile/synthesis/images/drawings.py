"""Drawings: flat shapes, outlines and charts; and single signs of strokes, as readers of digits get them."""

import itertools
import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from zsq_compile.synthesis.images.canvas import (
    Pixels,
    as_bytes,
    as_channels,
    as_photographed,
    happens,
    ink_and_paper,
    numpy_random,
    random_colour,
    reduced,
    seen_askew,
    supersampling,
    to_batch,
)
from zsq_compile.synthesis.images.glyphs import curve_points, line_mask, random_word, sign_mask

_LIGHT_ON_DARK = 0.7


def drawings(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Make (count, channels, height, width) drawings in [0, 1], on the device of ``rng``."""
    gen = numpy_random(rng)
    drawn = [_draw_picture(gen, height, width) for _ in range(count)]
    images = as_photographed(to_batch(drawn, rng), rng, light=0.03, noise=0.02)
    return as_channels(images, channels)


def strokes(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Make (count, channels, height, width) pictures of one sign each in [0, 1], on the device of ``rng``.

    Most are light on black and leave a margin, as sets of handwritten signs do.
    """
    gen = numpy_random(rng)
    masks = to_batch([_draw_sign(gen, height, width) for _ in range(count)], rng)
    colours = []
    for _ in range(count):
        ink, paper = ink_and_paper(gen)
        on_black = happens(gen, _LIGHT_ON_DARK)
        colours.append(((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) if on_black else (ink, paper))
    inks, papers = torch.tensor(colours, device=rng.device)[..., None, None].unbind(1)
    images = papers + masks * (inks - papers)
    plain = torch.from_numpy(gen.random((count, 1, 1, 1)) < 0.7).to(rng.device)
    return as_channels(torch.where(plain, images.clamp(0.0, 1.0), as_photographed(images, rng)), channels)


def _draw_sign(gen: np.random.Generator, height: int, width: int) -> Pixels:
    """Mask of one letter, digit, sign on a grid, or scrawl, in the middle."""
    factor = supersampling(height, width)
    rows, columns = factor * height, factor * width
    side = round(min(rows, columns) * gen.uniform(0.55, 0.9))
    kind = gen.random()
    if kind < 0.45:
        mask = line_mask(gen, side, 0.4, 0.0)
    elif kind < 0.6:
        mask = sign_mask(gen, side)
    else:
        mask = _scrawl(gen, side)
    scale = side / max(mask.size)
    mask = mask.resize((max(1, round(mask.width * scale)), max(1, round(mask.height * scale))))
    sheet = Image.new("L", (columns, rows), 0)
    shift = 0.06 * min(rows, columns) * (2.0 * gen.random(2) - 1.0)
    sheet.paste(mask, (round((columns - mask.width) / 2 + shift[0]), round((rows - mask.height) / 2 + shift[1])))
    sheet = seen_askew(sheet.rotate(gen.normal(0.0, 8.0), Image.Resampling.BILINEAR), gen, 0.08)
    return reduced(sheet, width, height)


def _scrawl(gen: np.random.Generator, side: int) -> Image.Image:
    """Draw one to three smooth curves of one width of the pen."""
    mask = Image.new("L", (side, side), 0)
    draw, thick = ImageDraw.Draw(mask), max(1.0, side * gen.uniform(0.06, 0.16))
    for _ in range(int(gen.choice((1, 1, 2, 3)))):
        points = [(thick + x * (side - 2 * thick), thick + y * (side - 2 * thick)) for x, y in _curve(gen)]
        draw.line(points, 255, round(thick), joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), 255)
    return mask


def _curve(gen: np.random.Generator) -> list[tuple[float, float]]:
    """Points of a random curve, or of an ellipse that may be open, in the unit square."""
    if happens(gen, 0.6):
        return [(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)) for x, y in curve_points(gen, int(gen.integers(2, 6)))]
    start, turn, wide, tall = gen.uniform(0, 6.3), gen.uniform(3.0, 6.4), gen.uniform(0.15, 0.5), gen.uniform(0.2, 0.5)
    angles = np.linspace(start, start + turn, 40)
    return [(0.5 + wide * math.cos(angle), 0.5 + tall * math.sin(angle)) for angle in angles]


def _draw_picture(gen: np.random.Generator, height: int, width: int) -> Pixels:
    factor = supersampling(height, width)
    ink, paper = ink_and_paper(gen, dark_paper=0.2)
    page = Image.new("RGB", (factor * width, factor * height), as_bytes(paper))
    draw, thick = ImageDraw.Draw(page), max(1, round(0.006 * min(page.size) * 4.0 ** gen.random()))
    kind = gen.random()
    if kind < 0.4:
        _flat_shapes(gen, draw, page.size, as_bytes(ink) if happens(gen, 0.6) else None, thick)
    elif kind < 0.7:
        _outlines(gen, draw, page.size, as_bytes(ink), thick)
    else:
        _chart(gen, page, draw, as_bytes(ink), thick)
    return reduced(page, width, height)


def _flat_shapes(
    gen: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    outline: tuple[int, int, int] | None,
    thick: int,
) -> None:
    """Paint shapes of one colour each, with an outline or without."""
    for _ in range(int(gen.integers(3, 16))):
        fill = as_bytes(random_colour(gen, gen.random(), 0.3))
        reach = min(size) * 0.05 * 8.0 ** gen.random()
        x, y = gen.random() * size[0], gen.random() * size[1]
        wide, tall = reach * gen.uniform(0.4, 1.4), reach * gen.uniform(0.4, 1.4)
        box, kind = (x - wide, y - tall, x + wide, y + tall), gen.random()
        if kind < 0.35:
            draw.ellipse(box, fill, outline, thick)
        elif kind < 0.6:
            draw.rounded_rectangle(box, float(gen.choice((0.0, 0.3))) * min(wide, tall), fill, outline, thick)
        else:
            corners = int(gen.integers(3, 8))
            angles = np.sort(gen.random(corners)) * 2 * math.pi
            points = [(x + wide * math.cos(angle), y + tall * math.sin(angle)) for angle in angles]
            draw.polygon(points, fill, outline, thick)


def _outlines(
    gen: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    ink: tuple[int, int, int],
    thick: int,
) -> None:
    """Draw curves and lines of a pen, some of them hatched."""
    for _ in range(int(gen.integers(4, 20))):
        scale, (left, top) = gen.uniform(0.15, 0.9), gen.uniform(-0.1, 0.8, 2)
        points = [(size[0] * (left + scale * x), size[1] * (top + scale * y)) for x, y in _curve(gen)]
        draw.line(points, ink, thick, joint="curve")
    if happens(gen, 0.4):
        x, y, apart = gen.random() * size[0], gen.random() * size[1], thick * gen.uniform(2.5, 6.0)
        for line in range(int(gen.integers(5, 20))):
            draw.line((x + line * apart, y, x + (line - 6) * apart, y + 12 * apart), ink, thick)


def _chart(
    gen: np.random.Generator,
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    ink: tuple[int, int, int],
    thick: int,
) -> None:
    """Draw axes with bars, with a line, or a pie, and words beside it."""
    (width, height), values = page.size, gen.random(int(gen.integers(3, 12)))
    left, bottom, right, top = 0.1 * width, 0.88 * height, 0.95 * width, 0.1 * height
    kind, colour = gen.random(), as_bytes(random_colour(gen, gen.random(), 0.3))
    if kind < 0.25:
        angles = np.concatenate([[0.0], np.cumsum(values) / values.sum() * 360.0])
        box = (0.5 * width - 0.35 * min(page.size), 0.15 * height, 0.5 * width + 0.35 * min(page.size), 0.85 * height)
        for start, stop in itertools.pairwise(angles):
            draw.pieslice(box, start, stop, as_bytes(random_colour(gen, gen.random(), 0.3)), ink, thick)
    else:
        draw.line((left, top, left, bottom, right, bottom), ink, thick)
        places = np.linspace(left, right, len(values) + 1)
        tops = bottom - values * (bottom - top)
        if kind < 0.6:
            for start, stop, level in zip(places[:-1], places[1:], tops, strict=True):
                draw.rectangle((start + 0.15 * (stop - start), level, stop, bottom), colour)
        else:
            draw.line([(float(x), float(y)) for x, y in zip(places[:-1], tops, strict=True)], colour, 2 * thick)
    size = round(0.05 * min(page.size))
    for _ in range(int(gen.integers(0, 5))):
        mask = line_mask(gen, size, len(random_word(gen)), 0.0)
        page.paste(ink, (round(gen.random() * 0.7 * width), round(gen.choice((0.02, 0.92)) * height)), mask)
