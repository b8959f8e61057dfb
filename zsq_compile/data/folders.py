"""Files of samples in a folder, with their classes: a list, a folder for each class, or files beside each other."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from zsq_compile.errors import ConfigError

LISTING = "labels.csv"

Entries = list[tuple[Path, int | None]]
"""Files in the order of their source, with their classes, if they have any."""


def find_files(folder: Path, wanted: Callable[[Path], bool]) -> Entries:
    """Find the files that are wanted; the first of these forms that there is.

    ``labels.csv`` with a file name and a class on each line (a header line is allowed), one folder per class, numbered
    in sorted order unless the folders' names are numbers already, or files beside each other, which have no classes.

    Hidden files and folders, whose names begin with a dot, are left out.

    Raises:
        ConfigError: the list cannot be read, or names files that are not there; or there are files beside folders of
            classes, of which only some would be read.

    """
    listing = folder / LISTING
    if listing.is_file():
        entries = _listed(listing)
        missing = [file for file, _ in entries if not file.is_file()]
        if missing:
            raise ConfigError(
                f"{listing} names {missing[0].name}, which is not in {folder} ({len(missing)} files are missing)"
            )
        return [entry for entry in entries if wanted(entry[0])]
    classed: Entries = list(_by_class(folder, wanted))
    beside: Entries = [(file, None) for file in _sorted(folder, wanted)]
    if classed and beside:
        raise ConfigError(
            f"{folder} holds {beside[0][0].name} and {len(beside) - 1} more such files, and folders with others, such "
            f"as {classed[0][0].parent.name}: wanted files in a folder for each class, or files alone; move some away"
        )
    return classed or beside


def _listed(listing: Path) -> Entries:
    with listing.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row and any(cell.strip() for cell in row)]
    if rows and (len(rows[0]) < 2 or not _is_integer(rows[0][1])):
        rows = rows[1:]  # a header
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or not _is_integer(row[1]):
            raise ConfigError(f"{listing}, entry {number}: wanted file,label with a whole number as label, got {row}")
    return [(listing.parent / row[0].strip(), int(row[1])) for row in rows]


def _by_class(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[tuple[Path, int]]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    numbered = all(_is_integer(entry.name) for entry in classes)
    for index, entry in enumerate(classes):
        for file in _sorted(entry, wanted):
            yield file, int(entry.name) if numbered else index


def _sorted(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    return sorted(one for one in folder.iterdir() if wanted(one) and one.is_file() and not one.name.startswith("."))


def _is_integer(text: str) -> bool:
    return text.strip().lstrip("-").isdigit()
