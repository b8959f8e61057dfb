"""The public names: they are there, they are few, and asking for them starts nothing."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zsq_compile

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that finds the packages, but not through its folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_every_public_name_is_there_and_sorted() -> None:
    assert len(zsq_compile.__all__) == len(set(zsq_compile.__all__))
    for entry in zsq_compile.__all__:
        assert getattr(zsq_compile, entry) is not None


def test_dir_lists_the_late_names() -> None:
    assert {"compile_model", "synthesize", "SyntheticDataReader"} <= set(dir(zsq_compile))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="compile_modle"):
        zsq_compile.compile_modle  # noqa: B018


@pytest.mark.parametrize(
    "module", ["zsq_compile", "zsq_compile.cli.compile", "zsq_compile.cli.reference", "zsq_compile.cli.progress_bars"]
)
def test_importing_loads_neither_torch_nor_a_runtime(module: str, tmp_path: Path) -> None:
    heavy = "{'torch', 'onnx', 'onnx_ir', 'onnxsim', 'onnxruntime', 'cattrs'}"
    done = python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_a_stranger_of_the_same_name_is_refused_in_words(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = python("import zsq_compile", tmp_path)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"{name!r} was found in {tmp_path / name}" in done.stderr
    assert "its own environment" in done.stderr


def test_the_package_is_built_with_the_version_that_it_tells() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "zsq_compile.version.VERSION"}
    assert f"## {zsq_compile.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("[", "")
