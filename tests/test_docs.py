"""Examples of the page on calibration data, run as they stand; the oracle is the float model's classes of images."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.session import open_session
from zsq_compile.cli import entry as cli

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guide" / "calibration-data.md"
RIVALS = {"OpenVINO NNCF": "nncf", "AIMET-ONNX": "aimet", "NVIDIA ModelOpt": "modelopt", "AMD Quark": "quark"}


def sections() -> dict[str, list[tuple[str, str]]]:
    """Language and text of the fenced blocks below each heading of the second level."""
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        fences = [fence.partition("\n") for fence in text.split("```")[1::2]]
        found[title] = [(language, code) for language, _, code in fences]
    return found


def program(title: str) -> tuple[str, str]:
    """The one example of a section."""
    (example,) = sections()[title]
    return example


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "calib.npz"
    with pytest.raises(SystemExit) as ended:
        cli.main(["synth", str(ROOT / "examples" / "digits.onnx"), "-o", str(path), "--samples", "64", "-q"])
    assert ended.value.code == 0
    return path


@pytest.fixture
def folder(tmp_path: Path, calibration: Path) -> Path:
    shutil.copy(ROOT / "examples" / "digits.onnx", tmp_path / "model.onnx")
    shutil.copy(calibration, tmp_path / "calib.npz")
    return tmp_path


def classes(path: Path) -> NDArray[np.intp]:
    with np.load(ROOT / "examples" / "digits_test.npz") as archive:
        images = archive["images"]
    network_input = (images.astype(np.float32) / np.float32(255.0)).transpose(0, 3, 1, 2)
    session = open_session(path)
    name = session.input_names[0]
    logits = [next(iter(session.run({name: network_input[i : i + 1]}).values())) for i in range(len(images))]
    return np.concatenate(logits).argmax(axis=1)


def run(example: tuple[str, str], folder: Path, python: str) -> None:
    language, code = example
    # The interpreter that is meant goes in front, so that "python" in a shell is that one.
    search = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": search}
    command = ["bash", "-c", code] if language == "bash" else [python, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def assert_same_classes(folder: Path) -> None:
    agreeing = (classes(folder / "model.onnx") == classes(folder / "model.int8.onnx")).mean()
    assert agreeing >= 0.98, agreeing  # 8 bits; a decision or two of 360 may turn


def test_every_example_belongs_to_a_tool_that_is_tried() -> None:
    with_examples = {title for title, examples in sections().items() if examples}
    assert with_examples == {"onnxruntime", *RIVALS}
    assert [language for language, _ in sections()["onnxruntime"]] == ["python", "python"]


@pytest.mark.parametrize("which", [0, 1], ids=["reader", "file"])
def test_onnxruntime_as_the_page_says(folder: Path, which: int) -> None:
    run(sections()["onnxruntime"][which], folder, sys.executable)
    assert_same_classes(folder)


@pytest.mark.parametrize("title", RIVALS)
def test_another_quantizer_as_the_page_says(folder: Path, title: str) -> None:
    place = os.environ.get("ZSQ_RIVALS")
    if place is None:
        pytest.skip(f"{title} needs an environment of its own: $ZSQ_RIVALS names no folder that has them")
    python = Path(place) / RIVALS[title] / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"there is no {python}")
    run(program(title), folder, str(python))
    assert_same_classes(folder)
