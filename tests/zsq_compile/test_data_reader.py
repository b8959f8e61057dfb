from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from backends.session import open_session
from tests import models
from zsq_compile import CompileConfig, PriorConfig, SyntheticDataReader
from zsq_compile.errors import ConfigError

CONFIG = CompileConfig(samples=6, generator=PriorConfig(), effort="fast")


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    path = tmp_path / "dynamic.onnx"
    onnx.save(models.residual(), path)
    return path


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    model = models.residual()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    return path


def test_batches_come_once_and_again_after_rewind(dynamic: Path) -> None:
    reader = SyntheticDataReader(dynamic, CONFIG, batch_size=2)
    assert isinstance(reader, CalibrationDataReader)  # onnxruntime asks no more than get_next
    assert len(reader) == 3
    first = list(reader)
    assert [batch["x"].shape for batch in first] == [(2, 3, 8, 8)] * 3
    assert all(batch["x"].dtype == np.float32 for batch in first)
    assert reader.get_next() is None
    reader.rewind()
    for batch, again in zip(first, reader, strict=True):
        np.testing.assert_array_equal(batch["x"], again["x"])


def test_a_range_of_batches(dynamic: Path) -> None:
    reader = SyntheticDataReader(dynamic, CONFIG)
    everything = [batch["x"] for batch in reader]
    assert len(everything) == len(reader) == 6  # a batch of one where the batch is dynamic
    reader.set_range(2, 4)
    np.testing.assert_array_equal([batch["x"] for batch in reader], everything[2:4])


def test_the_same_seed_gives_the_same_data(dynamic: Path) -> None:
    one, same = (SyntheticDataReader(dynamic, CONFIG).get_next() for _ in range(2))
    other = SyntheticDataReader(dynamic, CompileConfig(samples=6, generator=PriorConfig(), seed=1)).get_next()
    assert one is not None and same is not None and other is not None
    np.testing.assert_array_equal(one["x"], same["x"])
    assert not np.array_equal(one["x"], other["x"])


def test_a_fixed_batch_is_followed(fixed: Path) -> None:
    reader = SyntheticDataReader(fixed, CONFIG)
    assert len(reader) == 3
    batch = reader.get_next()
    assert batch is not None and batch["x"].shape == (2, 3, 8, 8)


def test_a_batch_that_contradicts_the_model_is_refused(fixed: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size must be 2, the model's fixed batch, got 3"):
        SyntheticDataReader(fixed, CONFIG, batch_size=3)


def test_more_in_a_batch_than_there_are_samples_is_refused(dynamic: Path) -> None:
    with pytest.raises(ConfigError, match="at most the number of samples, 6, got 7"):
        SyntheticDataReader(dynamic, CONFIG, batch_size=7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnxruntime_quantizes_with_it_as_it_stands(dynamic: Path, tmp_path: Path) -> None:
    output = tmp_path / "quantized.onnx"
    quantize_static(dynamic, output, SyntheticDataReader(dynamic, CONFIG), quant_format=QuantFormat.QDQ)
    feeds = {"x": np.random.default_rng(0).random((4, 3, 8, 8), np.float32)}
    wanted, got = (open_session(path).run(feeds)["logits"] for path in (dynamic, output))
    # Eight bits on tiny random weights: a tenth of the signal is a generous bound for the noise.
    assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)


def test_samples_that_were_made_before_are_read_out_alike(dynamic: Path) -> None:
    made = SyntheticDataReader(dynamic, CONFIG, batch_size=2)
    arrays = {"x": np.concatenate([batch["x"] for batch in made]), "labels": np.arange(6)}
    again = SyntheticDataReader.of_samples(dynamic, arrays, batch_size=4)
    assert len(again) == 1
    batch = again.get_next()
    assert batch is not None and list(batch) == ["x"], "labels are no input"
    np.testing.assert_array_equal(batch["x"], arrays["x"][:4])
    with pytest.raises(ConfigError, match="at most the number of samples, 6, got 7"):
        SyntheticDataReader.of_samples(dynamic, arrays, batch_size=7)
    with pytest.raises(ConfigError, match="the samples hold y, labels; the model needs x"):
        SyntheticDataReader.of_samples(dynamic, {"y": arrays["x"], "labels": arrays["labels"]})
