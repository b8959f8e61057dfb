import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.batchnorm.place_statistics import FoldedNorm, folded_norms
from tests import models
from zsq_compile.batchnorm.statistics_file import read_statistics, write_statistics
from zsq_compile.errors import ConfigError
from zsq_compile.files import read_arrays, write_arrays


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, tuple[FoldedNorm, ...]]:
    onnx.save(models.depthwise(), tmp_path / "net.onnx")
    model = ir.from_proto(models.depthwise())
    norms = folded_norms(model, harvest_batchnorm(model))
    write_statistics(tmp_path / "stats.npz", tmp_path / "net.onnx", norms)
    return tmp_path / "stats.npz", norms


def test_what_is_written_is_read(written):
    path, norms = written
    found = read_statistics(path)
    assert len(found) == len(norms) == 3
    for one, other in zip(found, norms, strict=True):
        for name in ("mean", "variance", "scale", "shift", "dead"):
            np.testing.assert_array_equal(getattr(one.entry, name), getattr(other.entry, name))
        for name in ("node", "output", "layer", "epsilon"):
            assert getattr(one.entry, name) == getattr(other.entry, name)
        np.testing.assert_array_equal(one.lengths, other.lengths)
        np.testing.assert_array_equal(one.bias, other.bias)


def test_the_arrays_have_the_documented_names(written):
    arrays = read_arrays(written[0])
    assert {"format", "version", "model", "model_sha256", "values", "nodes", "layers", "epsilon"} < set(arrays)
    assert arrays["values"].tolist() == ["n0", "n1", "n2"]
    assert (str(arrays["model"]), len(str(arrays["model_sha256"]))) == ("net.onnx", 64)
    assert {"2/mean", "2/variance", "2/scale", "2/shift", "2/folded_length", "2/folded_bias"} < set(arrays)
    page = (Path(__file__).parents[3] / "docs/reference/statistics-file.md").read_text(encoding="utf-8")
    for name in arrays:
        assert f"`{re.sub('^[0-9]+/', 'i/', name)}`" in page, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": np.array("images")}, "wants a file of zsq-compile harvest"),
        ({"format": None}, "wants a file of zsq-compile harvest"),
        ({"version": np.array(2)}, "is of version 2, and this zsq-compile reads version 1"),
        ({"version": None}, "is of version None"),
        ({"epsilon": None}, "it lacks epsilon"),
        ({"1/mean": None, "2/shift": None}, "it lacks 1/mean, 2/shift"),
        ({"1/mean": np.zeros(3, np.float32)}, "entry 1 differ in shape"),
        ({"1/mean": np.zeros((2, 4), np.float32)}, "entry 1 differ in shape"),
        ({"1/scale": np.full(8, np.nan, np.float32)}, "entry 1 are not all finite"),
        ({"1/scale": np.full(8, "a")}, "entry 1 are not all finite numbers"),
        ({"0/variance": np.full(8, -1.0, np.float32)}, "variance of entry 0 is negative"),
        ({"layers": np.array(["conv0"])}, "must have the same length"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_words(written, change, words):
    path, _ = written
    arrays = {**read_arrays(path), **change}
    write_arrays(path, {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ConfigError, match=words):
        read_statistics(path)


def test_what_is_no_archive_is_refused_in_words(tmp_path):
    (tmp_path / "a.npz").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot read"):
        read_statistics(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="cannot read"):
        read_statistics(tmp_path / "absent.npz")
