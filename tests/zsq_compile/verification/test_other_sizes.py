"""Runs at other sizes: what depends on a size that was worked with is seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backends.session import open_session
from tests import models
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.verification.other_sizes import OtherSizes, run_other_sizes

OPEN = "g (float[N,2,L] x) => (float[N,M] y) {{ y = {node} }}"
OTHERS = [(InputSpec(name="x", shape=(None, 2, 7), dtype=np.dtype(np.float32)),)]


def look(node: str, tmp_path: Path, constants: str = "") -> tuple[OtherSizes, ...]:
    """Compare a file whose node is another one with Flatten, at length 7 where samples have 5."""
    reference = models.parse(OPEN.format(node="Flatten(x)"))
    path = tmp_path / "q.onnx"
    onnx.save(models.parse(OPEN.format(node=node).replace(") {", f") {constants} {{")), path)
    samples = {"x": np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)}

    def simulate(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return open_session(reference).run(feeds)

    return run_other_sizes(reference, path, samples, OTHERS, simulate)


def test_a_file_that_follows_the_size_is_right(tmp_path: Path) -> None:
    (found,) = look("Flatten(x)", tmp_path)
    assert found.failure is None and found.words() == "x:?x2x7"


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        ("Reshape(x, s)", "<int64[2] s = {-1, 10}>"),
        ("Flatten<axis=2>(x)", ""),
        ("Reshape(x, s)", "<int64[2] s = {2, 20}>"),
    ],
)
def test_a_size_that_was_written_into_the_graph_is_a_failure(node: str, constants: str, tmp_path: Path) -> None:
    (found,) = look(node, tmp_path, constants)
    assert found.failure is not None


def test_without_other_sizes_nothing_is_run(tmp_path: Path) -> None:
    reference = models.parse(OPEN.format(node="Flatten(x)"))
    assert run_other_sizes(reference, tmp_path / "none.onnx", {}, (), lambda feeds: feeds) == ()
