"""Pictures that small networks are trained and judged on: photographs, digits, drawn objects."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]

OBJECTS = ("disc", "box", "triangle", "cross", "ring", "bars", "star", "wedge")
_SIDE, _TRAINING, _JUDGED = 36, 3000, 600
_DIGITS_JUDGED, _MNIST_JUDGED, _MNIST_END = 500, 2000, 8000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pictures:
    """Training pictures (N, H, W, C), and the file of those that are judged.

    Attributes:
        images: bytes.
        labels: (N,) int64.
        classes: number of classes.
        is_mirrored: whether a mirrored picture is of the same class.
        judged: file of the pictures to judge on, relative to ``root``.
        root: "assets" or "work".
        limit: judge on so many of them; None for all.

    """

    images: Pixels
    labels: NDArray[np.int64]
    classes: int
    is_mirrored: bool
    judged: str
    root: str
    limit: int | None = None

    def resized(self, side: int | None) -> "Pictures":
        """Return square pictures of that side, made small as those to judge on will be (see ``Preparation``)."""
        if side is None or side == self.images.shape[1]:
            return self
        size = (side, side)
        small = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in self.images]
        return replace(self, images=np.stack(small))


def load_pictures(name: str, assets: Path, folder: Path) -> Pictures:
    """Load "photographs", "figures" (MNIST), "digits" or "objects"; the two last write a file into ``folder``."""
    match name:
        case "photographs":
            images, labels = _read(assets / "cifar10/train4k_lossless.npz")
            return Pictures(
                images=images,
                labels=labels,
                classes=10,
                is_mirrored=True,
                judged="cifar10/test1k_lossless.npz",
                root="assets",
            )
        case "figures":
            images, labels = _read(assets / "mnist/test.npz")
            part = slice(_MNIST_JUDGED, _MNIST_END)  # the first are judged
            return Pictures(
                images=images.reshape(-1, 28, 28, 1)[part],
                labels=labels[part],
                classes=10,
                is_mirrored=False,
                judged="mnist/test.npz",
                root="assets",
                limit=_MNIST_JUDGED,
            )
        case "digits":
            return _split(folder, "digits", *_digits(), _DIGITS_JUDGED, mirrored=False)
        case "objects":
            return _split(folder, "objects", *draw_objects(_TRAINING + _JUDGED), _JUDGED, mirrored=True)
    raise ValueError(f"wanted photographs, figures, digits or objects, got {name!r}")


def _read(path: Path) -> tuple[Pixels, NDArray[np.int64]]:
    with np.load(path) as archive:
        return archive["images"], archive["labels"].astype(np.int64)


def _digits() -> tuple[Pixels, NDArray[np.int64]]:
    """scikit-learn's digits, 8x8, twice as large; they have 17 shades."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit("the digits are scikit-learn's: install the extra dependency 'example'") from error
    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    return pixels[..., None], found.target.astype(np.int64)


def _split(
    folder: Path, name: str, images: Pixels, labels: NDArray[np.int64], judged: int, *, mirrored: bool
) -> Pictures:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", images=images[:judged], labels=labels[:judged])
    return Pictures(
        images=images[judged:],
        labels=labels[judged:],
        classes=int(labels.max()) + 1,
        is_mirrored=mirrored,
        judged=f"{folder.name}/{name}.npz",
        root="work",
    )


def draw_objects(count: int, *, seed: int = 0) -> tuple[Pixels, NDArray[np.int64]]:
    """Draw one object of ``OBJECTS`` on each of ``count`` pictures: any colour, size and place, on shaded ground."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(OBJECTS), count)
    return np.stack([_draw(OBJECTS[label], rng) for label in labels]), labels.astype(np.int64)


def _draw(name: str, rng: np.random.Generator) -> Pixels:
    """Return (36, 36, 3), drawn four times as large, so that edges are smooth."""
    big = 4 * _SIDE
    ramp = np.linspace(-1, 1, big)
    slope = rng.normal(0, 40, (2, 1, 1, 3)) * np.stack(np.meshgrid(ramp, ramp, indexing="ij"))[..., None]
    ground = rng.uniform(20, 235, 3)
    canvas = Image.fromarray(np.clip(ground + slope.sum(0), 0, 255).astype(np.uint8))
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - ground).max() < 60:  # it must be seen
        colour = rng.uniform(0, 255, 3)
    radius = rng.uniform(0.2, 0.42) * big
    middle = rng.uniform(radius, big - radius, 2)
    _draw_shape(ImageDraw.Draw(canvas), name, middle, radius, tuple(int(one) for one in colour), rng.uniform(0, 6.3))
    small = np.asarray(canvas.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    return np.clip(small + rng.normal(0, rng.uniform(1, 8), small.shape), 0, 255).astype(np.uint8)


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    name: str,
    middle: NDArray[np.float64],
    radius: float,
    colour: tuple[int, ...],
    turn: float,
) -> None:
    def corners(count: int, *radii: float) -> list[tuple[float, float]]:
        angles = [turn + 2 * math.pi * step / count for step in range(count)]
        lengths = [radii[step % len(radii)] * radius for step in range(count)]
        pairs = zip(angles, lengths, strict=True)
        return [(middle[0] + length * math.cos(angle), middle[1] + length * math.sin(angle)) for angle, length in pairs]

    bounds = [*(middle - radius), *(middle + radius)]
    width = int(radius / 3)
    match name:
        case "disc":
            draw.ellipse(bounds, fill=colour)
        case "ring":
            draw.ellipse(bounds, outline=colour, width=width)
        case "box":
            draw.polygon(corners(4, 1.0), fill=colour)
        case "triangle":
            draw.polygon(corners(3, 1.0), fill=colour)
        case "star":
            draw.polygon(corners(10, 1.0, 0.4), fill=colour)
        case "wedge":
            draw.pieslice(bounds, math.degrees(turn), math.degrees(turn) + 120, fill=colour)
        case "cross":
            ends = corners(4, 1.0)
            draw.line([ends[0], ends[2]], fill=colour, width=width)
            draw.line([ends[1], ends[3]], fill=colour, width=width)
        case "bars":
            for shift in (-1, 0, 1):
                left = middle[0] + shift * radius * 0.7
                box = [left - radius / 6, middle[1] - radius, left + radius / 6, middle[1] + radius]
                draw.rectangle(box, fill=colour)
