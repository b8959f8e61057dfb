"""Annotations of boxes in one JSON file, as COCO has them (Lin et al. 2014)."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from zsq_compile.data.annotations import Annotations, BoxRow
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import TruthWords

_NAMES = ("annotations.json", "_annotations.coco.json", "instances*.json")
_PICTURES = ("", "images", "..", "../images")


def find_coco(folder: Path) -> Path | None:
    """Return the file of annotations in a folder, or in ``annotations`` there.

    Raises:
        ConfigError: there are several.

    """
    for place in (folder, folder / "annotations"):
        found = sorted({file for name in _NAMES for file in place.glob(name)})
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ConfigError(f"{place} holds several files of annotations ({names}): leave one of them there")
        if found:
            return found[0]
    return None


def read_coco(file: Path) -> tuple[list[Path], Annotations]:
    """Read the pictures of a file of annotations, in its order, and their boxes.

    Raises:
        ConfigError: it is no such file, or names pictures that are not there.

    """
    try:
        plain: Any = json.loads(file.read_text(encoding="utf-8"))
        images = [(image["id"], str(image["file_name"])) for image in plain["images"]]
        rows: dict[Any, list[tuple[list[float], int, bool]]] = defaultdict(list)
        for one in plain["annotations"]:
            x, y, wide, high = map(float, one["bbox"])
            rows[one["image_id"]].append(
                ([x, y, x + wide, y + high], int(one["category_id"]), bool(one.get("iscrowd")))
            )
        categories = sorted(int(one["id"]) for one in plain["categories"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read {file} as annotations of COCO, with images, annotations (image_id, bbox, category_id) and "
            f"categories: {type(error).__name__}: {error}"
        ) from error
    files = [_picture(file, name) for _, name in images]
    found = [_row(rows[identity]) for identity, _ in images]
    return files, Annotations(kind="boxes", rows=found, words=TruthWords(categories=tuple(categories)))


def _picture(annotations: Path, name: str) -> Path:
    for place in _PICTURES:
        file = annotations.parent / place / name
        if file.is_file():
            return file
    raise ConfigError(f"{annotations} names {name}, which is neither beside it nor in a folder images")


def _row(boxes: list[tuple[list[float], int, bool]]) -> BoxRow:
    return BoxRow(
        corners=np.array([corners for corners, _, _ in boxes], np.float64).reshape(-1, 4),
        classes=np.array([index for _, index, _ in boxes], np.int64),
        crowds=np.array([crowd for _, _, crowd in boxes], bool),
    )
