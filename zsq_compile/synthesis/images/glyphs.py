"""Lines of writing as masks: Pillow's own font, and signs of strokes that stand for scripts that it does not have."""

import functools
import math
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zsq_compile.synthesis.images.canvas import happens

_VOWELS = "eeeeaaaiiioouuy"
_CONSONANTS = "ttttnnnnssssrrrrhhhllldddccmmmffpppggwwbbvvkxjqz"
_MARKS = ".,:;!?-/()%&$#@*+=\"'"
_LARGEST_FONT = 400


def random_word(gen: np.random.Generator) -> str:
    """Draw something that looks like a word, a number, a price or a code."""
    kind = gen.random()
    if kind < 0.72:
        first, length = int(gen.integers(2)), int(gen.integers(1, 11))
        letters = [str(gen.choice(list(_CONSONANTS if (place + first) % 2 else _VOWELS))) for place in range(length)]
        word = "".join(letters)
        styled = gen.random()
        word = word.upper() if styled < 0.12 else word.capitalize() if styled < 0.35 else word
        return word + (str(gen.choice(list(_MARKS))) if happens(gen, 0.12) else "")
    if kind < 0.93:
        digits = "".join(str(digit) for digit in gen.integers(0, 10, int(gen.integers(1, 8))))
        return digits if happens(gen, 0.5) else f"{gen.choice(list('$$#'))}{digits}.{gen.integers(10, 100)}"
    every = list(string.ascii_letters + string.digits + _MARKS)
    return "".join(str(one) for one in gen.choice(every, int(gen.integers(2, 9))))


def line_mask(gen: np.random.Generator, size: int, longest: float, script: float | None = None) -> Image.Image:
    """Draw a line of writing, cropped to its strokes: an "L" image, about ``size`` pixels high, 255 on strokes.

    ``longest`` is its width over its height at most, about; ``script`` in [0, 1) chooses letters (below 0.8), signs on
    a grid (below 0.92) or joined curves; None draws it.
    """
    script = gen.random() if script is None else script
    size = max(6, size)
    if script < 0.8:
        mask = _letters(gen, size, longest)
    elif script < 0.92:
        mask = _signs(gen, size, longest)
    else:
        mask = _joined_curves(gen, size, longest)
    if happens(gen, 0.3):
        mask = _slanted(mask, gen.uniform(-0.1, 0.35))
    box = mask.getbbox()
    return mask if box is None else mask.crop(box)


def sign_mask(gen: np.random.Generator, size: int) -> Image.Image:
    """Draw one sign of strokes on a grid, (size, size) "L": lines, boxes, arcs and dots, as ideographs have."""
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    cells = int(gen.integers(3, 7))
    step, thick = size / (cells + 1.0), max(1, round(size * gen.uniform(0.04, 0.11)))

    def node() -> tuple[float, float]:
        column, row = gen.integers(0, cells, 2) + 1.0
        return column * step, row * step

    for _ in range(int(gen.integers(4, 12))):
        (x, y), (u, v), kind = node(), node(), gen.random()
        if kind < 0.35:
            draw.line((x, y, u, y), 255, thick)
        elif kind < 0.6:
            draw.line((x, y, x, v), 255, thick)
        elif kind < 0.8:
            draw.line((x, y, u, v), 255, thick)
        elif kind < 0.93:
            draw.rectangle((min(x, u), min(y, v), max(x, u) + 1, max(y, v) + 1), None, 255, thick)
        else:
            start = int(gen.integers(360))
            box = (min(x, u) - step / 2, min(y, v) - step / 2, max(x, u) + step / 2, max(y, v) + step / 2)
            draw.arc(box, start, start + int(gen.integers(60, 270)), 255, thick)
    return mask


def curve_points(gen: np.random.Generator, knots: int) -> list[tuple[float, float]]:
    """Points of a smooth curve through so many random places of the unit square (Catmull-Rom)."""
    places = gen.random((knots, 2))
    padded = np.concatenate([places[:1], places, places[-1:]])
    time = np.linspace(0.0, 1.0, 12, endpoint=False)[:, None]
    parts = []
    for index in range(knots - 1):
        a, b, c, d = padded[index : index + 4]
        parts.append(b + 0.5 * time * (c - a + time * (2 * a - 5 * b + 4 * c - d + time * (3 * (b - c) + d - a))))
    return [(float(x), float(y)) for x, y in np.concatenate([*parts, places[-1:]])]


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # which it is where a size is given
    return font


def _letters(gen: np.random.Generator, size: int, longest: float) -> Image.Image:
    """Draw words in Pillow's own font: thin to heavy, narrow to wide, close or spaced, some hollow."""
    font = _font(min(size, _LARGEST_FONT))
    squeeze = math.exp(gen.uniform(-0.35, 0.2))
    weight = round(size * max(0.0, gen.uniform(-0.04, 0.045)))
    text, spaced = random_word(gen), " " * int(happens(gen, 0.1))
    room = longest * size / squeeze
    for _ in range(64):
        more = f"{text} {random_word(gen)}"
        if font.getlength(more) + 2 * weight > room:
            break
        text = more
    while len(text) > 1 and font.getlength(text) + 2 * weight > room:
        text = text[:-1]
    text = spaced.join(text)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text, stroke_width=weight))
    mask = Image.new("L", (max(1, right - left + 2), max(1, bottom - top + 2)), 0)
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, 255, font, stroke_width=weight)
    return mask.resize((max(1, round(mask.width * squeeze)), mask.height), Image.Resampling.BILINEAR)


def _signs(gen: np.random.Generator, size: int, longest: float) -> Image.Image:
    count = max(1, min(40, int(longest * gen.uniform(0.4, 1.0))))
    gap = round(size * gen.uniform(-0.1, 0.15))
    mask = Image.new("L", (count * (size + gap) + size // 8, size), 0)
    for index in range(count):
        if happens(gen, 0.93):
            mask.paste(255, (index * (size + gap), 0), sign_mask(gen, size))
    return mask


def _joined_curves(gen: np.random.Generator, size: int, longest: float) -> Image.Image:
    """Draw writing whose letters are joined along a line: curves of one width of the pen, with dots about them."""
    width = max(size, round(size * longest * gen.uniform(0.5, 1.0)))
    mask = Image.new("L", (width, size), 0)
    draw = ImageDraw.Draw(mask)
    thick = max(1, round(size * gen.uniform(0.05, 0.12)))
    letter = size * gen.uniform(0.3, 0.6)
    places = np.arange(0.0, width, letter / 12)
    low, high, phase = gen.uniform(0.55, 0.8), gen.uniform(0.1, 0.35), gen.random(2) * 6.3
    swing = np.sin(2 * np.pi * places / letter + phase[0]) * (0.6 + 0.4 * np.sin(places / letter * 1.7 + phase[1]))
    rows = size * (low - high * np.clip(swing, -0.3, 1.0))
    across = places + 0.3 * letter * np.cos(2 * np.pi * places / letter)
    start = 0
    while start < len(places):
        stop = start + int(gen.integers(12, 90))
        points = [(float(x), float(y)) for x, y in zip(across[start:stop], rows[start:stop], strict=True)]
        if len(points) > 1:
            draw.line(points, 255, thick, joint="curve")
        start = stop + int(gen.integers(3, 10))
    for _ in range(int(width / size)):
        x, y = gen.random() * width, size * float(gen.choice((0.08, 0.92)))
        draw.ellipse((x - thick, y - thick, x + thick, y + thick), 255)
    return mask


def _slanted(mask: Image.Image, shear: float) -> Image.Image:
    """Slant letters to the right by ``shear`` times their height."""
    reach = round(abs(shear) * mask.height)
    offset = -shear * mask.height if shear > 0 else 0.0
    return mask.transform(
        (mask.width + reach, mask.height),
        Image.Transform.AFFINE,
        (1.0, shear, offset, 0.0, 1.0, 0.0),
        Image.Resampling.BILINEAR,
    )
