"""Soft-edged, shaded shapes painted into pictures at any scale: what objects and faces are put together of."""

import math
from dataclasses import dataclass

import numpy as np

from zsq_compile.synthesis.images.canvas import Colour, Pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """Coordinates of an object in a window of a picture: (0, 0) in its middle, 1 at ``radius`` pixels from there.

    ``x`` goes to the object's right and ``y`` down, after it was turned by ``angle``; ``window`` is the part of the
    picture, a view, and ``row`` and ``column`` are the place of its middle in that.
    """

    window: Pixels
    x: Pixels
    y: Pixels
    radius: float
    angle: float
    row: float
    column: float


def open_frame(
    picture: Pixels, row: float, column: float, radius: float, angle: float, reach: float = 1.5
) -> Frame | None:
    """Open the window of ``reach`` radii about a place in (H, W, 3); None where that is outside of the picture."""
    height, width = picture.shape[:2]
    far = reach * radius
    top, bottom = max(0, int(row - far)), min(height, int(row + far) + 2)
    left, right = max(0, int(column - far)), min(width, int(column + far) + 2)
    if top >= bottom or left >= right:
        return None
    down = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - row) / radius
    across = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - column) / radius
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return Frame(
        window=picture[top:bottom, left:right],
        x=cosine * across + sine * down,
        y=cosine * down - sine * across,
        radius=radius,
        angle=angle,
        row=row - top,
        column=column - left,
    )


def blob(
    frame: Frame,
    x: float,
    y: float,
    wide: float,
    tall: float,
    *,
    power: float = 2.0,
    soft: float = 0.0,
    turn: float = 0.0,
) -> Pixels:
    """Mask in [0, 1] of a superellipse at (x, y) with these half axes: 2 is an ellipse, larger powers are boxes.

    Its edge is a pixel wide, and ``soft`` of the object's radii more.
    """
    mask = np.zeros(frame.window.shape[:2], np.float32)
    rows, columns = _about(frame, x, y, math.hypot(wide, tall) * (1.0 + soft / min(wide, tall)) + 1.0 / frame.radius)
    left, up = frame.x[rows, columns] - np.float32(x), frame.y[rows, columns] - np.float32(y)
    if turn:
        cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
        left, up = cosine * left + sine * up, cosine * up - sine * left
    along, beside = left / np.float32(wide), up / np.float32(tall)
    if power == 2.0:
        distance = np.sqrt(along * along + beside * beside)
    else:
        sides = np.abs(along) ** np.float32(power) + np.abs(beside) ** np.float32(power)
        distance = sides ** np.float32(1.0 / power)
    edge = np.float32(min(wide, tall) / (1.0 / frame.radius + soft))
    mask[rows, columns] = np.clip((1.0 - distance) * edge + 0.5, 0.0, 1.0)
    return mask


def paint(frame: Frame, mask: Pixels, colour: Colour, light: Pixels | float = 1.0) -> None:
    """Paint a colour through a mask, times a light per pixel, in place."""
    lit = np.asarray(colour, np.float32) * np.asarray(light, np.float32)[..., None]
    frame.window[...] += mask[..., None] * (lit - frame.window)


def shade(frame: Frame, mask: Pixels, factor: Pixels | float) -> None:
    """Multiply what is there through a mask, in place: shadows, and folds of clothes."""
    frame.window[...] *= 1.0 + mask[..., None] * (np.asarray(factor, np.float32)[..., None] - 1.0)


def roundness(frame: Frame, towards: tuple[float, float], strength: float) -> Pixels:
    """Light on a ball that fills the frame, from ``towards`` (x, y): Lambert's law, 1 in the middle about."""
    x, y = np.clip(frame.x, -1.0, 1.0), np.clip(frame.y, -1.3, 1.3)
    depth = np.sqrt(np.clip(1.0 - 0.7 * (x**2 + (y / 1.3) ** 2), 0.0, 1.0))
    light: Pixels = (1.0 + strength * (towards[0] * x + towards[1] * y + depth - 0.8)).astype(np.float32)
    return np.clip(light, 0.15, 1.8)


def _about(frame: Frame, x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the window that lie within ``reach`` of a place, both in radii."""
    row = frame.row + frame.radius * (x * math.sin(frame.angle) + y * math.cos(frame.angle))
    column = frame.column + frame.radius * (x * math.cos(frame.angle) - y * math.sin(frame.angle))
    far = reach * frame.radius + 2.0
    rows, columns = (slice(max(0, int(place - far)), max(0, int(place + far) + 1)) for place in (row, column))
    return rows, columns
