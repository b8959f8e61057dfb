"""The pages of the repository hold what the code has: links, paths, public names and keys of the report."""

import dataclasses
import re
from pathlib import Path

import pytest

import zsq_compile
from zsq_compile.reporting.report import Report
from zsq_compile.verification.validate import Validation

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FRONT = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
]
PAGES = [*FRONT, *sorted(DOCS.rglob("*.md"))]
LONGEST_README = 150


def readable(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """Text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def code_words(*paths: Path) -> set[str]:
    return {word for path in paths for word in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=readable)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", prose(page))
    inside = [one or other for one, other in links if not re.match(r"[a-z]+:", one or other)]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_paths_named_for_developers_exist() -> None:
    words = code_words(ROOT / "CONTRIBUTING.md", DOCS / "results.md", *(DOCS / "contributing").glob("*.md"))
    paths = {
        word for word in words if re.fullmatch(r"(zsq_compile|passes|backends|tests|benchmarks)/[\w/]+\.\w+", word)
    }
    placeholders = {word for word in paths if "yours" in word}
    assert paths - placeholders
    assert sorted(word for word in paths - placeholders if not (ROOT / word).exists()) == []


def test_every_room_is_on_the_map() -> None:
    page = (DOCS / "contributing/architecture.md").read_text(encoding="utf-8")
    [chart] = re.findall(r"## The map\n\n```\n(.*?)```", page, flags=re.DOTALL)
    named = {line.split("/")[0].strip() for line in chart.splitlines() if "/ " in line}
    faces = [path for top in ("zsq_compile", "passes", "backends") for path in (ROOT / top).rglob("__init__.py")]
    assert {face.parent.name for face in faces} - named == set()


def test_every_table_of_results_is_linked() -> None:
    linked = set(re.findall(r"benchmarks/results/(\w+)\.md", (DOCS / "results.md").read_text(encoding="utf-8")))
    assert {path.stem for path in (ROOT / "benchmarks/results").glob("*.md")} - linked == set()


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    page = (DOCS / "reference/python-api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: zsq_compile\.(\w+)$", page, flags=re.MULTILINE))
    errors = {name for name in zsq_compile.__all__ if name.endswith("Error")}  # the page shows their module
    assert set(zsq_compile.__all__) - errors - {"__version__"} - shown == set()


@pytest.mark.parametrize("part", [Report, Validation], ids=lambda part: part.__name__)
def test_every_key_of_the_report_is_described(part: type) -> None:
    words = code_words(DOCS / "reference/json-report.md")
    assert {field.name for field in dataclasses.fields(part)} - words == set()
