from pathlib import Path

import numpy as np
import pytest

from zsq_compile.comparison.calibration_sources import calibration_count, random_source, real_source, synthetic_source
from zsq_compile.data.batch_axes import FIRST
from zsq_compile.data.dataset import Dataset
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.face import Face

X = InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW")
FIXED = InputSpec(name="x", shape=(4, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW")
INDEX = InputSpec(name="i", shape=(None, 2), dtype=np.dtype(np.int64))
SAMPLES = np.random.default_rng(0).standard_normal((21, 3, 8, 8)).astype(np.float32)


def face(*inputs: InputSpec) -> Face:
    """Return the face of a file with these inputs."""
    return Face(inputs={spec.name: spec.shape for spec in inputs}, outputs={}, axes=FIRST, added=(), kept=True)


@pytest.mark.parametrize(
    ("sample_bytes", "wanted", "count"), [(1000, None, 256), (45_000_000, None, 33), (10**10, None, 1), (10**10, 7, 7)]
)
def test_large_activations_mean_fewer_samples(sample_bytes: int, wanted: int | None, count: int) -> None:
    assert calibration_count(sample_bytes, wanted) == count


def test_real_samples_come_in_whole_batches_of_one_size() -> None:
    source = real_source(Dataset(samples={"x": SAMPLES}, labels=None, preparation=None), Path("d"), face(X), 20)
    batches = list(source.batches)
    assert [len(batch["x"]) for batch in batches] == [8, 8]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), SAMPLES[:16])
    assert source.description == "16 of 21 samples of d"


def test_synthetic_samples_come_in_whole_batches() -> None:
    source = synthetic_source({"x": SAMPLES[:19].astype(np.float64)}, [X], face(X), 256)
    assert [(len(batch["x"]), batch["x"].dtype) for batch in source.batches] == [(8, np.float32)] * 2
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in source.batches]), SAMPLES[:16])
    assert source.description == "16 of 19 synthetic samples"


def test_random_samples_suit_every_kind_of_input() -> None:
    source = random_source([X, INDEX], face(X, INDEX), 8, seed=3)
    (batch,) = source.batches
    assert batch["x"].shape == (8, 3, 8, 8) and batch["x"].dtype == np.float32
    assert 0.0 <= batch["x"].min() < 0.05 and 0.95 < batch["x"].max() < 1.0
    assert batch["i"].dtype == np.int64 and set(batch["i"].ravel()) == {0, 1}
    (again,) = random_source([X, INDEX], face(X, INDEX), 8, seed=3).batches
    np.testing.assert_array_equal(batch["x"], again["x"])


def test_a_fixed_batch_is_filled_or_refused() -> None:
    source = real_source(Dataset(samples={"x": SAMPLES}, labels=None, preparation=None), Path("d"), face(FIXED), 11)
    assert [len(batch["x"]) for batch in source.batches] == [4, 4]
    assert [len(batch["x"]) for batch in random_source([X], face(FIXED), 1, 0).batches] == [4]
    with pytest.raises(ConfigError, match="takes 4 samples at a time, but synthetic data of 3 are there"):
        synthetic_source({"x": SAMPLES[:3]}, [X], face(FIXED), 256)
