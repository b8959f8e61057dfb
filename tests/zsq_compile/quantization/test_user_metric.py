"""A user's command, run for real, and the bisection over what is left in float."""

import math
import sys
from pathlib import Path

import pytest

from zsq_compile.errors import ConfigError
from zsq_compile.quantization.user_metric import UserMetric, least_that_keeps, share_kept


def metric(script: str, folder: Path) -> UserMetric:
    (folder / "eval it.py").write_text(script)
    return UserMetric(command=f"'{sys.executable}' '{folder / 'eval it.py'}' {{model}}")


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("0.93", 0.93),
        ("epoch 3\nmAP50: 0.712, mAP 0.501\n", 0.501),
        ("accuracy=97.5%", 97.5),
        ("-1.5e-3 dB", -1.5e-3),
        ("w8a8 int8 .25", 0.25),
    ],
)
def test_the_last_number_counts(printed: str, value: float, tmp_path: Path) -> None:
    assert metric(f"print({printed!r})", tmp_path).measure(tmp_path / "x.onnx") == value


def test_the_path_is_one_word_and_no_shell_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a b;$(exit 3).onnx"
    path.write_bytes(b"12345")
    script = "import os, sys; assert len(sys.argv) == 2; print(os.path.getsize(sys.argv[1]))"
    assert metric(script, tmp_path).measure(path) == 5.0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; print(1); sys.exit('no such\\nfolder: data')", r"exit code 1:\n  no such\n  folder: data"),
        ("print('fine')", "printed no number"),
        ("print('nan')", "printed nan for x.onnx, which cannot be compared"),
        ("print(1); print('loss -inf')", "printed -inf for"),
    ],
)
def test_what_gives_no_number_is_refused_with_what_it_said(script: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        metric(script, tmp_path).measure(tmp_path / "x.onnx")


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-command cannot be run: No such file"):
        UserMetric(command="no-such-command {model}").measure(tmp_path)


def test_shares_are_of_the_reference() -> None:
    assert share_kept(0.99, 1.0) == pytest.approx(0.99)
    assert share_kept(2.0, 1.0) == 1.0
    assert share_kept(-1.02, -1.0) == pytest.approx(0.98)
    assert share_kept(-1.0, 0.0) == 0.0
    assert share_kept(-9.0, 1.0) == 0.0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_the_least_that_keeps_is_found_with_few_questions(count: int) -> None:
    for needed in range(count + 2):
        asked: list[int] = []

        def kept(k: int, needed: int = needed, asked: list[int] = asked) -> float:
            asked.append(k)
            return 1.0 if k >= needed else 0.5

        assert least_that_keeps(count, kept, 0.9) == (min(needed, count), needed <= count)
        assert len(asked) == len(set(asked)) <= 2 + math.ceil(math.log2(max(count, 1)))
