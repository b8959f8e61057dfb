"""Texts of pictures or sounds, in one list beside them."""

import csv
from pathlib import Path

from zsq_compile.data.annotations import Annotations, Row
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import TruthWords

LISTINGS = ("labels.csv", "labels.tsv", "labels.txt")
CHARACTERS = ("characters.txt", "charset.txt", "dict.txt")
"""Files that may hold the characters of the network, one on a line, in the order of its classes, without the blank."""


def read_texts(folder: Path) -> tuple[list[Path], Annotations] | None:
    """Read files and their texts from a list in a folder; None where there is no list of texts.

    A list is of texts where it comes with a file of characters, or has anything but one whole number behind the name of
    a file; a whole number alone is a class. Without a file of characters a text is the numbers of its classes, with
    spaces between them.

    Raises:
        ConfigError: it names files that are not there, or holds characters that nothing gives numbers to.

    """
    listing = next((folder / name for name in LISTINGS if (folder / name).is_file()), None)
    if listing is None:
        return None
    rows = _pairs(listing)
    if rows and not (folder / rows[0][0]).is_file():
        rows = rows[1:]  # a header
    characters = _characters(folder)
    if not rows or not (folder / rows[0][0]).is_file():
        return None
    if characters is None and all(_is_whole(text) for _, text in rows):
        return None
    missing = [name for name, _ in rows if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{listing} names {missing[0]}, which is not in {folder} ({len(missing)} files are missing)")
    texts: list[Row] = [text if characters is not None else _numbers(text, listing) for _, text in rows]
    return [folder / name for name, _ in rows], Annotations(
        kind="texts", rows=texts, words=TruthWords(characters=characters)
    )


def _pairs(listing: Path) -> list[tuple[str, str]]:
    lines = listing.read_text(encoding="utf-8-sig").splitlines()
    if listing.suffix == ".csv":
        cells = [row for row in csv.reader(lines) if len(row) > 1]
        return [(row[0].strip(), row[1]) for row in cells]
    parts = [line.split("\t", 1) if "\t" in line else line.split(None, 1) for line in lines if line.strip()]
    return [(part[0].strip(), part[1] if len(part) > 1 else "") for part in parts]


def _characters(folder: Path) -> tuple[str, ...] | None:
    file = next((folder / name for name in CHARACTERS if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return tuple(line.removesuffix("\r") for line in lines)


def _numbers(text: str, listing: Path) -> tuple[int, ...]:
    if not all(map(_is_whole, text.split())):
        raise ConfigError(
            f"{listing} has the text {text!r}, and nothing says which class of the network each character is: put the "
            f"characters of the network, one on a line and in its order without the blank, into {CHARACTERS[0]} there"
        )
    return tuple(map(int, text.split()))


def _is_whole(text: str) -> bool:
    return text.strip().isdigit()
