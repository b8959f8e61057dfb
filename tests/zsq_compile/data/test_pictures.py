"""Levels of picture files of more than 8 bits: the oracle is what was written, brought to 0..255."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsq_compile.data.pictures import read_picture

LEVELS = np.linspace(0.0, 1.0, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("dtype", "white"), [("float32", 1.0), ("float32", 255.0), ("float32", 65535.0), ("int32", 255), ("uint16", 65535)]
)
def test_deeper_levels_are_brought_to_bytes(tmp_path: Path, dtype: str, white: float) -> None:
    Image.fromarray((LEVELS * white).astype(dtype)).save(tmp_path / "a.tif")
    assert np.abs(read_picture(tmp_path / "a.tif") - LEVELS * 255.0).max() <= 1.0


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").max() <= 1
