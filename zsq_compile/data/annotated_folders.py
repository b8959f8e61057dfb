"""Folders of files with labels that are more than a class."""

from collections.abc import Callable
from pathlib import Path

from zsq_compile.data.annotations import Annotations
from zsq_compile.data.coco_annotations import find_coco, read_coco
from zsq_compile.data.text_labels import read_texts
from zsq_compile.data.yolo_labels import find_yolo
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import TruthWords

_PICTURES = ("images", "pictures", "JPEGImages")
_MASKS = ("masks", "labels", "annotations", "SegmentationClass")


def find_annotated(folder: Path, wanted: Callable[[Path], bool]) -> tuple[list[Path], Annotations] | None:
    """Find files with boxes, masks or texts in a folder; the first of these forms that there is.

    1. ``annotations.json`` or ``instances*.json`` (COCO), in the folder or in ``annotations``;
    2. ``labels.csv``, ``labels.tsv`` or ``labels.txt`` with a file and its text on each line;
    3. ``images`` and ``masks`` with a picture of the same stem, the class of each pixel;
    4. a text file beside each picture, or in ``labels`` beside ``images``, with its boxes (YOLO).

    Returns:
        The files that are wanted, in order, and their labels; None where there is none of these.

    Raises:
        ConfigError: files do not fit each other, or cannot be read.

    """
    coco = find_coco(folder)
    found = read_coco(coco) if coco is not None else read_texts(folder)
    if found is not None:
        kept = [index for index, file in enumerate(found[0]) if wanted(file)]
        rows = [found[1].rows[index] for index in kept]
        labels = Annotations(kind=found[1].kind, rows=rows, words=found[1].words)
        return ([found[0][index] for index in kept], labels) if kept else None
    inner = next((folder / name for name in _PICTURES if (folder / name).is_dir()), None)
    pictures = _files(inner or folder, wanted)
    if not pictures:
        return None
    places = [folder / name for name in _MASKS if (folder / name).is_dir()] if inner is not None else []
    for place in places:
        if any((place / f"{picture.stem}.png").is_file() for picture in pictures):
            return pictures, _masks(pictures, place)
    for place in (*places, pictures[0].parent):
        boxes = find_yolo(pictures, place)
        if boxes is not None:
            return pictures, boxes
    return None


def _masks(pictures: list[Path], place: Path) -> Annotations:
    files = [place / f"{picture.stem}.png" for picture in pictures]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"{place} has no mask {missing[0].name} ({len(missing)} masks are missing)")
    return Annotations(kind="masks", rows=files, words=TruthWords())


def _files(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    return sorted(one for one in folder.iterdir() if wanted(one) and one.is_file() and not one.name.startswith("."))
