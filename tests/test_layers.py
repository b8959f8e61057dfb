"""Sizes and signatures that CONTRIBUTING asks for, read off the source; import-linter holds the imports."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zsq_compile", "passes", "backends")
LONGEST_FILE, LONGEST_FUNCTION = 350, 50
VAGUE_NAMES = frozenset({"utils", "util", "common", "helpers", "base", "misc", "manager"})
PUBLIC_FACE = "zsq_compile/__init__.py"


def oversized(path: Path, source: str) -> list[str]:
    found = [f"{path} has {n} lines"] if (n := len(source.splitlines())) > LONGEST_FILE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The docstring is not counted: a full contract must not be what makes a function too long.
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            if length > LONGEST_FUNCTION:
                found.append(f"{path}: {node.name} has {length} lines")
    return found


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def any_keyword(path: Path, source: str) -> list[str]:
    """Functions that take any keyword: a misspelt option would pass in silence."""
    return [
        f"{path}: {node.name} takes **{node.args.kwarg.arg}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg is not None
    ]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def readable(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Tests are not held to it: a test file belongs to one source file and has as many cases as that one needs.
@pytest.mark.parametrize("path", sources(*PACKAGES, "examples", "benchmarks"), ids=readable)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert oversized(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=readable)
def test_no_function_takes_any_keyword(path: Path) -> None:
    assert any_keyword(path, path.read_text(encoding="utf-8")) == []


def test_no_file_is_named_for_what_it_might_hold() -> None:
    assert [readable(path) for path in sources(*PACKAGES) if path.stem in VAGUE_NAMES] == []


def test_only_the_public_face_imports_anything() -> None:
    faces = [path for path in sources(*PACKAGES) if path.name == "__init__.py" and readable(path) != PUBLIC_FACE]
    imports = ast.Import | ast.ImportFrom
    busy = [path for path in faces if any(isinstance(node, imports) for node in ast.walk(ast.parse(path.read_text())))]
    assert [readable(path) for path in busy] == []


def test_every_package_has_its_layer() -> None:
    """A package that no contract names could import whatever it likes."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    for container in ("zsq_compile", "passes"):
        [layers] = [one["layers"] for one in contracts if one.get("containers") == [container]]
        named = {name.strip() for layer in layers for part in layer.split("|") for name in part.split(":")}
        there = {
            path.stem
            for path in (ROOT / container).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert there - {"__init__"} == named


def test_a_long_function_a_long_file_and_an_open_signature_are_seen() -> None:
    body = "\n".join(["    pass"] * LONGEST_FUNCTION)
    assert oversized(Path("a.py"), f"def long():\n{body}")
    assert oversized(Path("a.py"), "\n" * (LONGEST_FILE + 1))
    assert any_keyword(Path("a.py"), "def f(**options): ...")
