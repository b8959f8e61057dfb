"""Calls of the command line in the test's own process."""

from dataclasses import dataclass

import pytest

from zsq_compile.cli.entry import main


@dataclass(frozen=True)
class Ended:
    """How a call of the command line ended."""

    code: int | str | None
    out: str
    err: str


def call_command(capsys: pytest.CaptureFixture[str], *words: object) -> Ended:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return Ended(ended.value.code, *capsys.readouterr())
