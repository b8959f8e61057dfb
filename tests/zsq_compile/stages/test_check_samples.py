from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests import models
from tests.models import parse
from tests.zsq_compile.stages.test_given_preprocessing import Listener
from zsq_compile import CompileConfig, compile_model
from zsq_compile.batchnorm.find_statistics import find_statistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import load_model
from zsq_compile.progress import Silent
from zsq_compile.stages.check_samples import expect_signals, warn_of_samples

PICTURE = InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW", kind="picture")
LAST = replace(PICTURE, shape=(None, 8, 8, 3), layout="NHWC")
USUAL = {one.name: replace(one, source="inferred") for one in usual_preprocessings(3)}


def told(values: np.ndarray, spec: InputSpec, expected: Preprocessing | None = None) -> list[str]:
    listener = Listener()
    known = {} if expected is None else {spec.name: expected}
    warn_of_samples({spec.name: values}, [spec], known, "calib.npz", listener)
    return listener.warnings


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("expected", USUAL)
@pytest.mark.parametrize("given", USUAL)
def test_pictures_of_another_scale_are_told(given: str, expected: str, layout: str) -> None:
    spec = PICTURE if layout == "NCHW" else LAST
    pixels = np.random.default_rng(0).random((40, 3, 8, 8))
    values = replace(USUAL[given], layout=spec.layout).encode(pixels)
    wide, far = {"byte", "byte_bgr"}, ("imagenet", "unit")
    warned = told(values, spec, replace(USUAL[expected], layout=spec.layout))
    assert bool(warned) == ((given in wide) != (expected in wide) or (given, expected) == far)
    assert not warned or ("calib.npz: 'x' goes from" in warned[0] and USUAL[expected].name in warned[0])


def test_what_was_only_assumed_is_held_against_nobody() -> None:
    values = 255.0 * np.random.default_rng(0).random((4, 3, 8, 8))
    assert not told(values, PICTURE, replace(USUAL["unit"], source="assumed"))
    assert not told(values, PICTURE)


def test_masks_of_nothing_lengths_beyond_the_end_and_other_rates_are_told() -> None:
    mask = InputSpec(name="m", shape=(None, 4), dtype=np.dtype(np.int64), kind="mask", neutral=1.0)
    some = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert "sample 1" in told(some, mask)[0] and not told(some[:1], mask)
    added = replace(mask, dtype=np.dtype(np.float32), neutral=0.0)
    assert not told(np.full((2, 4), -1e4), added)
    length = InputSpec(name="n", shape=(None,), dtype=np.dtype(np.int64), kind="length", limit=7)
    assert "8" in told(np.array([3, 8]), length)[0] and not told(np.array([1, 7]), length)
    rate = InputSpec(name="sr", shape=(None,), dtype=np.dtype(np.int64), kind="rate", usual=(16000.0,))
    assert "8000" in told(np.array([8000]), rate)[0] and not told(np.array([16000]), rate)


TABLE = """
net (float[N,4] x) => (float[N,3] y)
<float[4] scale, float[4] shift, float[4] mean, float[4] variance, float[4,3] w>
{ n = BatchNormalization(x, scale, shift, mean, variance) y = MatMul(n, w) }
"""


def test_signals_are_held_against_the_batch_normalization_that_reads_them(tmp_path: Path) -> None:
    weights = {"mean": np.array([48.0, 50.0, 51.0, 52.0]), "variance": np.array([90.0, 100.0, 110.0, 95.0])}
    onnx.save(parse(TABLE, weights=weights), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    known = find_statistics(loaded, checkpoint=None, bn_stats=None, progress=Silent())
    expected = expect_signals(TorchGraph(loaded.model), known, loaded.inputs, 0)
    values = np.random.default_rng(0).standard_normal((64, 4))
    assert told(values, loaded.inputs[0], expected["x"])
    assert not told(50.0 + 10.0 * values, loaded.inputs[0], expected["x"])


def test_a_compilation_on_samples_of_another_scale_says_so(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    config = CompileConfig(effort="fast", speed_trials=False, target="ort_cpu_avx2")
    from zsq_compile.config.compile import InputConfig

    config = replace(config, input=InputConfig(input_range=(0.0, 1.0)))
    pixels = torch.rand(40, *loaded.inputs[0].batched(1)[1:], generator=torch.Generator().manual_seed(0)).numpy()
    for scale, is_far in ((255.0, True), (1.0, False)):
        made = compile_model(tmp_path / "m.onnx", tmp_path / "q.onnx", config, calibration={"x": scale * pixels})
        assert any("goes from" in text for text in made.report.notes) == is_far
