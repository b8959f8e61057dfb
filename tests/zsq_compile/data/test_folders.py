from pathlib import Path

import pytest

from zsq_compile.data.folders import find_files
from zsq_compile.errors import ConfigError


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()


def is_text(path: Path) -> bool:
    return path.suffix == ".txt"


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / ".cache" / "x.txt", tmp_path / "a" / "._y.txt", tmp_path / "a" / "y.txt", tmp_path / "b" / "z.txt")
    assert find_files(tmp_path, is_text) == [(tmp_path / "a" / "y.txt", 0), (tmp_path / "b" / "z.txt", 1)]


def test_files_beside_folders_of_files_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "old" / "c.txt")
    with pytest.raises(ConfigError, match=r"a\.txt.*old"):
        find_files(tmp_path, is_text)
    touch(tmp_path / "old" / "c.txt")
    (tmp_path / "old" / "c.txt").unlink()
    assert [file.name for file, _ in find_files(tmp_path, is_text)] == ["a.txt", "b.txt"]
