"""Things as detectors see them: closed, shaded shapes with parts, texture and a shadow, at many scales."""

import math

import numpy as np
import torch
from torch import Tensor

from zsq_compile.synthesis.images.canvas import (
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

_SMALLEST, _LARGEST = 1 / 30, 1.0  # size of a thing, of the picture's smaller side


def objects(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Make (count, channels, height, width) pictures of things in [0, 1], on the device of ``rng``."""
    gen = numpy_random(rng)
    backgrounds = prior_images(count, 3, height, width, rng).permute(0, 2, 3, 1).cpu().numpy()
    drawn = [_draw_things(gen, np.ascontiguousarray(one)) for one in backgrounds]
    images = letterboxed(as_photographed(to_batch(drawn, rng), rng), gen, 0.25)
    return as_channels(images, channels)


def _draw_things(gen: np.random.Generator, picture: Pixels) -> Pixels:
    """Paint one thing or several over a background, half of which is made plain, in place."""
    height, width = picture.shape[:2]
    side = min(height, width)
    if happens(gen, 0.5):  # a wall and a floor, or the sky and the ground
        horizon = round(height * gen.uniform(0.2, 0.9))
        for part in (picture[:horizon], picture[horizon:]):
            plain = np.asarray(random_colour(gen, gen.uniform(0.1, 0.95), 0.08), np.float32)
            part += np.float32(gen.uniform(0.5, 0.95)) * (plain - part)
    single = happens(gen, 0.4)
    count, ratio = 1 if single else int(gen.integers(2, 12)), _LARGEST / _SMALLEST
    shares = gen.uniform(0.35, 1.0, 1) if single else _SMALLEST * ratio ** (gen.random(count) * gen.uniform(0.5, 0.95))
    for share in np.sort(shares):
        spread = 0.12 if single else 0.4
        row, column = (length * (0.5 + spread * gen.uniform(-1.0, 1.0)) for length in (height, width))
        angle = gen.normal(0.0, 0.1) if happens(gen, 0.7) else gen.uniform(-math.pi, math.pi)
        frame = open_frame(picture, row, column, 0.5 * side * share, angle)
        if frame is not None:
            _paint_thing(gen, frame)
    return picture


def _paint_thing(gen: np.random.Generator, frame: Frame) -> None:
    """Paint a shadow, a body, its texture, and parts in and about it, some of them twice as mirror images."""
    colour = random_colour(gen, gen.uniform(0.1, 0.9), float(gen.choice((0.05, 0.15, 0.3))))
    aspect = math.exp(gen.normal(0.0, 0.45))
    wide, tall = min(1.0, aspect), min(1.0, 1.0 / aspect)
    light = roundness(frame, (gen.uniform(-0.7, 0.7), gen.uniform(-0.7, 0.2)), gen.uniform(0.2, 0.9))
    if happens(gen, 0.6):
        shade(frame, blob(frame, gen.uniform(-0.2, 0.2), tall, 1.1 * wide, 0.25, soft=0.2), gen.uniform(0.3, 0.8))
    for _ in range(int(gen.integers(0, 4))):  # limbs, handles, wheels, behind the body
        _paint_part(gen, frame, (1.0 * wide, 1.0 * tall), 0.3, light)
    body = blob(frame, 0.0, 0.0, wide, tall, power=float(gen.choice((2.0, 2.0, 2.6, 4.0, 8.0))), soft=0.01)
    if happens(gen, 0.35):
        waist = blob(frame, 0.0, gen.uniform(-0.4, 0.4) * tall, 0.75 * wide, 0.5 * tall, power=3.0)
        body = np.maximum(body * (frame.y > 0.0), np.maximum(waist, 0.0))
    paint(frame, body, colour, light)
    if happens(gen, 0.5):
        wave = np.sin((frame.x * gen.uniform(-1, 1) + frame.y * gen.uniform(-1, 1)) * gen.uniform(4, 25))
        shade(frame, body, (1.0 + gen.uniform(0.1, 0.5) * (wave if happens(gen, 0.5) else np.sign(wave))))
    for _ in range(int(gen.integers(1, 7))):
        _paint_part(gen, frame, (0.7 * wide, 0.7 * tall), 0.35, light)
    if happens(gen, 0.4):  # a highlight
        spot = blob(frame, gen.uniform(-0.5, 0.2) * wide, -0.4 * tall, 0.2 * wide, 0.15 * tall, soft=0.15)
        paint(frame, gen.uniform(0.3, 0.9) * spot, (1.0, 1.0, 1.0))


def _paint_part(
    gen: np.random.Generator, frame: Frame, within: tuple[float, float], largest: float, light: Pixels
) -> None:
    """Paint a part of a thing, and most often its mirror image."""
    colour = random_colour(gen, gen.random(), 0.15)
    x, y = (float(reach * gen.uniform(-1.0, 1.0)) for reach in within)
    wide, tall, power = *(largest * gen.uniform(0.1, 1.0, 2) + 0.02), float(gen.choice((2.0, 2.0, 4.0)))
    turn = gen.uniform(-0.7, 0.7)
    for side in (1.0, -1.0) if happens(gen, 0.6) else (1.0,):
        paint(frame, blob(frame, side * x, y, wide, tall, power=power, soft=0.01, turn=side * turn), colour, light)
        if happens(gen, 0.4):
            paint(frame, blob(frame, side * x, y, 0.5 * wide, 0.5 * tall), random_colour(gen, gen.random(), 0.1))
