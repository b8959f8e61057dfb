"""Draw images as one PNG: a grid, with a title and a remark above it and a caption under each image.

Pillow is imported when something is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsq_compile.config.checks import require_folder
from zsq_compile.errors import ConfigError
from zsq_compile.files import written_whole

if TYPE_CHECKING:
    from PIL import Image, ImageFont

MOST_PICTURES = 64
"""Largest number of images in one gallery."""

_SMALLEST_SIDE, _LARGEST_SIDE = 96, 256
_MARGIN, _GAP, _HEAD, _SECOND_LINE, _CAPTION = 16, 10, 56, 24, 22
_TITLE_SIZE, _CAPTION_SIZE = 16, 13
_GROUND, _FRAME, _INK, _FAINT_INK = (255, 255, 255), (208, 208, 208), (24, 24, 24), (96, 96, 96)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Positions in pixels of the gallery.

    Attributes:
        columns: images in a row.
        rows: number of rows.
        width: of one image as it is shown.
        height: of one image as it is shown.
        cell: width of one column, without the gap; wider than the image where a caption needs it.
        caption: height of a caption.

    """

    columns: int
    rows: int
    width: int
    height: int
    cell: int
    caption: int

    def place(self, index: int) -> tuple[int, int]:
        """Left and top of a picture."""
        row, column = divmod(index, self.columns)
        left = _MARGIN + column * (self.cell + _GAP) + (self.cell - self.width) // 2
        return left, _MARGIN + _HEAD + row * (self.height + self.caption + _GAP)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the grid with its margins and the two lines above it."""
        wide = self.columns * (self.cell + _GAP) - _GAP
        tall = self.rows * (self.height + self.caption + _GAP) - _GAP
        return wide + 2 * _MARGIN, tall + _HEAD + 2 * _MARGIN


def plan_layout(count: int, height: int, width: int, *, captions: bool) -> Layout:
    """Place ``count`` pictures of ``height`` x ``width`` pixels in a grid that is about square.

    Small pictures are enlarged by a whole number until their longer side has 96 pixels, large ones are reduced to 256.
    """
    longer = max(height, width)
    if longer > _LARGEST_SIDE:
        scale = _LARGEST_SIDE / longer
        shown = max(1, round(height * scale)), max(1, round(width * scale))
    else:
        factor = max(1, math.ceil(_SMALLEST_SIDE / longer))
        shown = height * factor, width * factor
    columns = min(count, max(1, math.ceil(math.sqrt(count * shown[0] / shown[1]))))
    return Layout(
        columns=columns,
        rows=math.ceil(count / columns),
        width=shown[1],
        height=shown[0],
        cell=max(shown[1], _SMALLEST_SIDE) if captions else shown[1],
        caption=_CAPTION if captions else 0,
    )


def draw_gallery(
    pixels: NDArray[np.floating], captions: Sequence[str] | None, title: str, remark: str
) -> "Image.Image":
    """Draw (N, C, H, W) pixels in [0, 1] with C of 1 (gray) or 3 (RGB); what lies outside is cut.

    ``captions`` None leaves none. ``remark`` stands under the title. More than MOST_PICTURES are cut off.
    """
    from PIL import Image, ImageDraw

    shown = pixels[:MOST_PICTURES]
    layout = plan_layout(len(shown), *shown.shape[2:], captions=captions is not None)
    fonts = {size: _font(size) for size in (_TITLE_SIZE, _CAPTION_SIZE)}
    width, height = layout.size
    lines = (fonts[_TITLE_SIZE].getlength(title), fonts[_CAPTION_SIZE].getlength(remark))
    width = max(width, math.ceil(max(lines)) + 2 * _MARGIN)
    sheet = Image.new("RGB", (width, height), _GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=fonts[_TITLE_SIZE])
    pen.text((_MARGIN, _MARGIN + _SECOND_LINE), remark, fill=_FAINT_INK, font=fonts[_CAPTION_SIZE])
    for index, picture in enumerate(shown):
        left, top = layout.place(index)
        pen.rectangle((left - 1, top - 1, left + layout.width, top + layout.height), outline=_FRAME)
        sheet.paste(_enlarged(picture, layout), (left, top))
        if captions is not None:
            place = (left + layout.width / 2, top + layout.height + 4)
            pen.text(place, captions[index], fill=_INK, font=fonts[_CAPTION_SIZE], anchor="ma")
    return sheet


def write_gallery(path: Path, picture: "Image.Image") -> None:
    """Write a PNG file."""
    with written_whole(path) as part:
        picture.save(part, format="PNG", optimize=True)


def require_png(path: Path) -> None:
    """Raise ConfigError unless a PNG file can be put at ``path``."""
    require_folder(path)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"a gallery is a PNG picture: wanted a name that ends in .png, got {path}")


def as_image(picture: NDArray[np.floating], *, longest: int) -> "Image.Image":
    """Turn one (C, H, W) picture of pixels in [0, 1], C of 1, 3 or 4, into an image of at most ``longest`` pixels."""
    from PIL import Image

    height, width = picture.shape[1:]
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = _image(picture)
    return image if scale == 1.0 else image.resize(size, Image.Resampling.BOX)


def _image(picture: NDArray[np.floating]) -> "Image.Image":
    from PIL import Image

    codes = np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(codes[0] if len(codes) == 1 else np.ascontiguousarray(codes[:3].transpose(1, 2, 0)))


def _enlarged(picture: NDArray[np.floating], layout: Layout) -> "Image.Image":
    """Bring one (C, H, W) picture to its size: nearest neighbour where it grows, averages where it shrinks."""
    from PIL import Image

    image = _image(picture)
    grows = layout.height >= picture.shape[1]
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    return image.convert("RGB").resize((layout.width, layout.height), how)


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)
