"""The reference pages: as committed they are what the code says today, and every option and key is on them."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from zsq_compile.cli import reference
from zsq_compile.cli.command import COMMANDS, EXIT_CODES
from zsq_compile.cli.entry import main
from zsq_compile.config.compile import GENERATORS, CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.config.distillation import DistillConfig

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGES = ROOT / "docs" / "reference"


def parts(page: str, mark: str) -> dict[str, str]:
    """Text below each heading of one level."""
    return {title: text for title, _, text in (part.partition("\n") for part in page.split(f"\n{mark} ")[1:])}


def test_the_pages_are_up_to_date(tmp_path: Path) -> None:
    code = [sys.executable, "-m", "zsq_compile.cli.reference", str(tmp_path / "made")]
    assert subprocess.run(code, cwd=ROOT, check=False).returncode == 0
    for name in ("cli.md", "config-file.md"):
        made = (tmp_path / "made" / name).read_text(encoding="utf-8")
        assert (PAGES / name).read_text(encoding="utf-8") == made, f"run {' '.join(code[1:3])} docs/reference"


@pytest.mark.parametrize("command", ["", *COMMANDS, "verify"])
def test_every_option_of_every_command_is_on_the_page(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    rows = re.findall(r"^[│ ]+((?:--?[a-z][a-z-]*[, ]+)+)", capsys.readouterr().out, re.MULTILINE)
    shown = {word.strip(",") for row in rows for word in row.split()} - {"--help", "-h"}
    section = parts(reference.cli_page(), "##")[f"zsq-compile {command}".strip()]
    assert len(shown) >= 4 and shown <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section))


def test_every_exit_code_is_on_the_page() -> None:
    codes = parts(reference.cli_page(), "##")["Exit codes"]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", codes, re.MULTILINE)] == list(EXIT_CODES)


def test_every_key_of_every_table_is_on_the_page() -> None:
    page = reference.config_page()
    tables = {**parts(page, "##"), **parts(page, "###")}
    kinds = {"Top level": CompileConfig, "[input]": InputConfig, "[quantization]": QuantizationConfig}
    kinds |= {"[distill]": DistillConfig, **{f'kind = "{name}"': kind for name, kind in GENERATORS.items()}}
    for title, kind in kinds.items():
        keys = re.findall(r"^- `(\w+)` \(.+?\): \S", tables[title], re.MULTILINE)
        assert keys == [one.name for one in fields(kind) if f"[{one.name}]" not in tables]


def test_no_cell_breaks_its_table() -> None:
    for line in reference.cli_page().splitlines():
        if line.startswith("| `"):
            assert line.count("|") == 6, line
