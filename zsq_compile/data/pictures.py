"""Picture files and arrays of pixels: which ones they are, what is in them, and how they become network input."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.input_spec import PICTURE_CHANNELS, InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ConfigError

Pixels = NDArray[np.uint8]
"""(H, W), or (H, W, channels)."""

_USUAL = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
_NO_PICTURES = frozenset({".pdf", ".eps", ".ps", ".h5", ".hdf", ".grib", ".bufr", ".mpg", ".mpeg"})
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF 2.3
_KEPT_MODES = ("L", "RGB", "RGBA")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Turns a picture's pixels into network input."""

    spec: InputSpec
    preprocessing: Preprocessing

    def __call__(self, pixels: Pixels) -> NDArray[Any]:
        """Prepare one picture (H,W), (H,W,1), (H,W,3) or (H,W,4), of any size: returns one sample of the input.

        Another size is scaled (bilinear) until it covers the wanted one, then cut around its middle.
        """
        image = fit_picture(with_channels(pixels, self.spec.channels), self.spec.height, self.spec.width)
        unit = image.astype(np.float32).transpose(2, 0, 1) / np.float32(255.0)
        return np.ascontiguousarray(self.spec.typed(self.preprocessing.encode(unit[None]))[0])


def is_picture(path: Path) -> bool:
    """Whether a file's name ends like that of a picture that Pillow reads."""
    suffix = path.suffix.lower()
    return suffix in _USUAL or (bool(suffix) and suffix in _readable_suffixes())


@cache
def _readable_suffixes() -> frozenset[str]:
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN) - _NO_PICTURES


def read_picture(path: Path) -> Pixels:
    """Read a picture as its user sees it: turned as its camera says; deeper ones are brought to 8 bits.

    Raises:
        ConfigError: Pillow does not read it.

    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                return _as_bytes(np.asarray(image), path)
            turned = ImageOps.exif_transpose(image)
            return np.asarray(turned if turned.mode in _KEPT_MODES else turned.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"cannot read {path} as a picture: {error}") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Return rows and columns of a picture as ``read_picture`` gives it, without its pixels.

    Raises:
        ConfigError: Pillow does not read it.

    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"cannot read {path} as a picture: {error}") from error


def _as_bytes(values: NDArray[Any], path: Path) -> Pixels:
    """Bring gray levels of 16 bits, or of floats in [0, 1], to 8 bits; wider numbers up to 255 are such levels."""
    levels = values.astype(np.float64)
    if levels.size and not (np.isfinite(levels).all() and levels.min() >= 0.0 and levels.max() <= 65535.0):
        raise ConfigError(
            f"cannot read {path} as a picture: its levels run from {levels.min():.4g} to {levels.max():.4g}; wanted "
            "0 to 255 or 0 to 65535: convert it, or give an .npy file of what the network takes"
        )
    highest = levels.max(initial=0.0)
    white = 255.0 if values.dtype.itemsize > 2 and highest <= 255.0 else 65535.0
    white = 1.0 if values.dtype.kind == "f" and highest <= 1.0 else white
    return np.asarray(np.rint(levels * (255.0 / white)), np.uint8)


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Bring (H, W) or (H, W, any channels) to (H, W, channels): gray by luma, colour by repetition, opaque planes."""
    image = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if image.shape[2] == channels:
        return image
    if channels > 1:
        colours = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
        opaque = np.full((*image.shape[:2], channels - 3), 255, np.uint8)
        return np.concatenate([colours, opaque], 2)
    luma = image[:, :, :3].astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return np.rint(luma)[:, :, None].astype(np.uint8)


def fit_picture(image: Pixels, height: int, width: int) -> Pixels:
    """Scale (H, W, channels) until it covers another size, and cut that around its middle."""
    if image.shape[:2] == (height, width):
        return image
    frame = frame_picture(image.shape[0], image.shape[1], height, width)
    resized = resize_picture(image, frame.rows, frame.columns)
    return resized[frame.top : frame.top + height, frame.left : frame.left + width]


class Frame(NamedTuple):
    """Where a picture ends up: scaled to ``rows`` and ``columns``, then cut to ``height`` and ``width``."""

    rows: int
    columns: int
    top: int
    left: int
    height: int
    width: int


def frame_picture(rows: int, columns: int, height: int, width: int) -> Frame:
    """Find where a picture of some size ends up that is scaled until it covers another, and cut around its middle."""
    scale = max(height / rows, width / columns)
    down, right = max(height, round(rows * scale)), max(width, round(columns * scale))
    return Frame(down, right, (down - height) // 2, (right - width) // 2, height, width)


def resize_picture(image: Pixels, rows: int, columns: int) -> Pixels:
    """Resize (H, W, channels), bilinear, over all pixels that a new one covers."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR), np.uint8)
    return resized[:, :, None] if resized.ndim == 2 else resized


def as_pictures(array: NDArray[Any], channels: int, *, stacked: bool = False) -> list[Pixels] | None:
    """Take uint8 arrays apart into pictures, whichever axes they have; None where they are no pictures.

    One picture (H,W), (H,W,C) or (C,H,W), but where ``stacked``; or several, (N,H,W), (N,H,W,C) or (N,C,H,W). C is 1, 3
    or 4; where the last axis and another one could be the channels, it is the last. One picture may have its channels
    in front where they are as many as the input has, ``channels``.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4) or 0 in array.shape[-2:]:
        return None
    if array.ndim == 4:
        if array.shape[3] in PICTURE_CHANNELS:
            return list(array)
        return list(array.transpose(0, 2, 3, 1)) if array.shape[1] in PICTURE_CHANNELS else None
    if array.ndim == 2:
        return None if stacked else [array]
    if not stacked and array.shape[2] in PICTURE_CHANNELS:
        return [array]
    return [array.transpose(1, 2, 0)] if not stacked and array.shape[0] == channels else list(array)
