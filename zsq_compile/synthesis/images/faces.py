"""People as detectors see them: shaded ovals with eyes, brows, nose and mouth, hair and shoulders, at many scales.

They look like nobody; a network for faces or bodies answers to their arrangement of light and dark.
"""

import math

import numpy as np
import torch
from torch import Tensor

from zsq_compile.synthesis.images.canvas import (
    Colour,
    Pixels,
    as_channels,
    as_photographed,
    happens,
    letterboxed,
    numpy_random,
    random_colour,
    to_batch,
)
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.shaded_shapes import Frame, blob, open_frame, paint, roundness, shade

_SMALLEST, _LARGEST = 1 / 30, 1.0  # height of a head, of the picture's smaller side
_GRAY = 0.15
_SKIN_DARK, _SKIN_LIGHT = np.array((0.24, 0.14, 0.10)), np.array((0.95, 0.78, 0.68))


def faces(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Make (count, channels, height, width) pictures of people in [0, 1], on the device of ``rng``."""
    gen = numpy_random(rng)
    backgrounds = prior_images(count, 3, height, width, rng).permute(0, 2, 3, 1).cpu().numpy()
    drawn = [_draw_people(gen, np.ascontiguousarray(one)) for one in backgrounds]
    images = letterboxed(as_photographed(to_batch(drawn, rng), rng), gen, 0.25)
    gray = torch.from_numpy(gen.random((count, 1, 1, 1)) < _GRAY).to(rng.device)
    return as_channels(torch.where(gray, images.mean(1, keepdim=True), images), channels)


def _draw_people(gen: np.random.Generator, picture: Pixels) -> Pixels:
    """Paint one person, a group of one scale, a crowd in rows, or people of any scale over a background, in place."""
    height, width = picture.shape[:2]
    side, kind = min(height, width), gen.random()
    if kind < 0.35 or side < 40:  # one that fills the picture, or a good part of it
        size = side * gen.uniform(0.3, 1.0)
        _draw_person(gen, picture, gen.uniform(0.3, 0.6) * height, gen.uniform(0.3, 0.7) * width, size)
        return picture
    if kind < 0.6:  # a crowd: rows, those behind first
        size = side * gen.uniform(0.06, 0.2)
        apart = size * gen.uniform(1.1, 2.2)
        for row in np.arange(gen.uniform(0.1, 0.5) * height, gen.uniform(0.5, 1.0) * height, apart):
            for column in np.arange(apart * gen.random(), width, apart):
                place = row + 0.2 * apart * gen.standard_normal(), column + 0.15 * apart * gen.standard_normal()
                _draw_person(gen, picture, *place, size * math.exp(gen.normal(0.0, 0.12)))
        return picture
    ratio = _LARGEST / _SMALLEST
    shares = np.sort(_SMALLEST * ratio ** (gen.random(int(gen.integers(1, 13))) * gen.uniform(0.5, 0.95)))
    for share in shares:  # the far ones first
        _draw_person(gen, picture, gen.random() * height, gen.random() * width, side * share)
    return picture


def _draw_person(gen: np.random.Generator, picture: Pixels, row: float, column: float, size: float) -> None:
    """Paint a person whose head, chin to crown, is ``size`` pixels high about a place, in place."""
    radius = size / 2.0
    angle = gen.normal(0.0, 0.15) if happens(gen, 0.85) else gen.uniform(-math.pi, math.pi)
    if happens(gen, 0.75):
        body = open_frame(picture, row, column, radius, 0.3 * angle, 7.0)
        if body is not None:
            _paint_body(gen, body)
    frame = open_frame(picture, row, column, radius, angle)
    if frame is not None:
        _paint_head(gen, frame)


def _paint_body(gen: np.random.Generator, frame: Frame) -> None:
    """Paint shoulders, trunk, arms and legs below a head, in colours of clothes with folds or stripes."""
    shirt, trousers = (random_colour(gen, gen.uniform(0.05, 0.95), 0.2) for _ in range(2))
    folds = 1.0 + 0.25 * np.sin(frame.x * gen.uniform(1, 5) + frame.y * gen.uniform(-2, 2) + gen.uniform(0, 6.3))
    wide = gen.uniform(1.3, 1.9)
    if happens(gen, 0.5):
        for side in (-0.5, 0.5):
            paint(frame, blob(frame, side * wide, 5.6, 0.5 * wide, 1.8, power=4.0), trousers, folds)
    for side in (-1.0, 1.0):
        arm = blob(frame, side * wide * 1.02, 2.9, 0.36, 1.5, power=3.0, turn=side * gen.uniform(-0.1, 0.4))
        paint(frame, arm, shirt, 0.85 * folds)
    trunk = blob(frame, 0.0, 3.0, wide, 1.9, power=gen.uniform(2.5, 5.0))
    paint(frame, trunk, shirt, folds)
    if happens(gen, 0.2):
        stripes = 0.5 + 0.5 * np.sign(np.sin((frame.y if happens(gen, 0.5) else frame.x) * gen.uniform(6, 14)))
        shade(frame, trunk, (1.0 - 0.5 * stripes).astype(np.float32))


def _paint_head(gen: np.random.Generator, frame: Frame) -> None:
    """Paint a neck, hair, a face with its parts, and what some wear, seen from somewhat aside."""
    share, any_colour = gen.random(), happens(gen, 0.1)
    mixed = _SKIN_DARK + share * (_SKIN_LIGHT - _SKIN_DARK) + 0.03 * gen.standard_normal(3)
    skin = random_colour(gen, gen.random(), 0.2) if any_colour else _as_colour(mixed)
    hair = _as_colour(
        np.array((0.12, 0.08, 0.06)) if happens(gen, 0.6) else gen.uniform(0.2, 0.9) * np.array((1.0, 0.8, 0.55))
    )
    wide, yaw = gen.uniform(0.68, 0.82), float(np.clip(gen.normal(0.0, 0.25), -0.7, 0.7))
    light = roundness(frame, (gen.uniform(-0.7, 0.7), gen.uniform(-0.6, 0.1)), gen.uniform(0.2, 0.7))
    paint(frame, blob(frame, 0.0, 1.05, 0.42 * wide + 0.1, 0.5, power=3.0), skin, 0.7 * light)
    long_hair = happens(gen, 0.4)
    if long_hair:
        paint(frame, blob(frame, 0.0, 0.1, wide * 1.25, 1.2, power=2.6), hair, light)
    else:
        paint(frame, blob(frame, -0.1 * yaw, -0.22, wide * 1.1, 0.86), hair, light)
        for side in (-1.0, 1.0):
            paint(frame, blob(frame, side * wide, 0.08, 0.1, 0.2), skin, 0.8 * light)
    face = blob(frame, 0.0, 0.08, wide, 0.9, power=2.2, soft=0.02)
    paint(frame, face, skin, light)
    fringe = blob(frame, gen.uniform(-0.3, 0.3), -0.95, wide * 1.1, gen.uniform(0.25, 0.6), soft=0.05)
    paint(frame, fringe * np.clip(face + blob(frame, 0.0, -0.4, wide * 1.1, 0.75), 0.0, 1.0), hair, light)
    _paint_features(gen, frame, skin, yaw * wide)
    if happens(gen, 0.15):
        hat = blob(frame, 0.0, -0.85, wide * 1.15, 0.45, power=3.0)
        paint(frame, hat, random_colour(gen, gen.random(), 0.2), light)


def _paint_features(gen: np.random.Generator, frame: Frame, skin: Colour, aside: float) -> None:
    """Paint brows, eyes, nose, mouth, and beard or glasses of some; ``aside`` moves them to where the face looks."""
    apart, row = gen.uniform(0.28, 0.36) * (1.0 - 0.3 * abs(aside)), gen.uniform(-0.14, -0.02)
    iris, lips = random_colour(gen, gen.uniform(0.05, 0.3), 0.05), _as_colour(np.array(skin) * (0.8, 0.5, 0.5))
    if happens(gen, 0.2):
        shade(frame, blob(frame, aside, 0.62, 0.55, 0.4, soft=0.15), gen.uniform(0.3, 0.7))
    glasses = happens(gen, 0.2)
    for side in (-1.0, 1.0):
        x = aside + side * apart
        shade(frame, blob(frame, x, row, 0.24, 0.15, soft=0.12), 0.75)
        shade(frame, blob(frame, x, row - 0.19, 0.2, 0.045, soft=0.03, turn=side * gen.uniform(-0.1, 0.3)), 0.35)
        paint(frame, blob(frame, x, row, 0.14, gen.uniform(0.05, 0.09), soft=0.02), (0.85, 0.83, 0.8))
        paint(frame, blob(frame, x, row, 0.07, 0.075, soft=0.02), iris)
        if glasses:
            rim = blob(frame, x, row, 0.26, 0.2, power=3.0) - blob(frame, x, row, 0.21, 0.15, power=3.0)
            paint(frame, np.clip(rim, 0.0, 1.0), (0.1, 0.1, 0.1))
    shade(frame, blob(frame, 1.2 * aside + 0.07, 0.18, 0.07, 0.24, soft=0.08), 0.8)
    shade(frame, blob(frame, 1.25 * aside, 0.35, 0.14, 0.05, soft=0.05), 0.5)
    smile, wide = gen.uniform(0.04, 0.14), gen.uniform(0.2, 0.32)
    paint(frame, blob(frame, aside, 0.58, wide, smile, soft=0.03), lips)
    if happens(gen, 0.5):
        teeth = (0.92, 0.9, 0.86) if happens(gen, 0.6) else (0.15, 0.05, 0.05)
        paint(frame, blob(frame, aside, 0.575, 0.75 * wide, 0.5 * smile, soft=0.02), teeth)
    shade(frame, blob(frame, aside, 0.74, 0.2, 0.05, soft=0.06), 0.85)


def _as_colour(numbers: Pixels) -> Colour:
    red, green, blue = np.clip(numbers, 0.0, 1.0)
    return float(red), float(green), float(blue)
