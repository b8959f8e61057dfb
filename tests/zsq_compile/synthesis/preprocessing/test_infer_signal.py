"""Scales of inputs that are no pictures, from the moments of known signals."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from backends.session import open_session
from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, teacher_of
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.posterior import best_of
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.synthesis.make_generator import make_generator
from zsq_compile.synthesis.preprocessing.find import find_preprocessing
from zsq_compile.synthesis.preprocessing.infer_signal import FIT_WORK, infer_signal
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork
from zsq_compile.synthesis.signals.draw import signals

LENGTH = 256
TEXT = f"""
    net (float[N,1,{LENGTH}] x) => (float[N,16,?] y)
    <float[16,1,9] w, float[16] scale, float[16] shift, float[16] mean, float[16] variance>
    {{ [conv] c = Conv(x, w) [bn] n = BatchNormalization(c, scale, shift, mean, variance) [relu] y = Relu(n) }}
    """
TABLE = """
    net (float[N,6] x) => (float[N,4] y)
    <float[6] scale, float[6] shift, float[6] mean, float[6] variance, float[6,4] w>
    { [bn] n = BatchNormalization(x, scale, shift, mean, variance) [dense] y = MatMul(n, w) }
    """


def trained_on(values: np.ndarray) -> onnx.ModelProto:
    """A convolution whose BatchNormalization remembers what ONNX Runtime computes from signals (N, 1, LENGTH)."""
    model = models.parse(TEXT)
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    seen = open_session(model, threads=1).run({"x": values.astype(np.float32)}, ["c"])["c"]
    known = {"mean": seen.mean((0, 2), np.float64), "variance": seen.var((0, 2), np.float64)}
    return models.parse(TEXT, weights=known)


def found_of(model: onnx.ModelProto, *shape: int | None) -> tuple[Preprocessing | None, Listener]:
    teacher, statistics = teacher_of(model)
    listener = Listener()
    found = find_preprocessing([spec(*shape)], None, teacher, statistics, seeded(), listener)
    return best_of(found).get("x"), listener


@pytest.mark.parametrize(("gain", "offset"), [(16.0, 0.0), (0.01, 0.0), (3.0, -40.0)])
def test_scale_and_offset_of_noise_are_fitted(gain: float, offset: float) -> None:
    values = gain * signals((64, 1, LENGTH), "noise", seeded(9)).numpy() + offset
    found, listener = found_of(trained_on(values), None, 1, LENGTH)
    assert found is not None and (found.name, found.is_certain) == ("fitted", True)
    made = found.encode(signals((64, 1, LENGTH), found.family or "noise", seeded(4)))
    assert float(made.mean()) == pytest.approx(float(values.mean()), abs=0.3 * float(values.std()))
    assert float(made.std()) == pytest.approx(float(values.std()), rel=0.3)
    assert not listener.warnings


def test_positive_pulses_are_told_from_noise() -> None:
    rng = np.random.default_rng(3)
    values = np.zeros((64, 1, LENGTH))
    for row in values:
        for start in rng.integers(0, LENGTH - 12, 5):
            row[0, start : start + 10] = rng.uniform(0.5, 1.0)
    found, _ = found_of(trained_on(values), None, 1, LENGTH)
    assert found is not None and found.source == "inferred"
    made = found.encode(signals((64, 1, LENGTH), found.family or "noise", seeded(4)))
    assert float(made.mean()) == pytest.approx(float(values.mean()), abs=0.1)
    assert float(made.std()) == pytest.approx(float(values.std()), rel=0.4)


def test_noise_of_deviation_1_is_left_as_it_is() -> None:
    found, _ = found_of(trained_on(signals((64, 1, LENGTH), "noise", seeded(9)).numpy()), None, 1, LENGTH)
    assert found is not None and (found.name, found.mean, found.std) == ("standard", (0.0,), (1.0,))


def test_windows_that_were_levelled_one_by_one_are_told_from_noise_and_from_sounds() -> None:
    heard = replace(spec(None, 1, LENGTH), kind="waveform")
    for family in ("levelled", "sound"):
        values = signals((320, 1, LENGTH), family, seeded(9)).numpy()
        teacher, statistics = teacher_of(trained_on(values))
        found = find_preprocessing([heard], None, teacher, statistics, seeded(), Listener())["x"].best
        assert (found.family, found.is_certain) == (family, True)
        assert 1.0 / found.std[0] == pytest.approx(1.0, rel=0.5)


def test_little_work_means_fewer_samples_and_none_means_no_answer() -> None:
    values = 16.0 * signals((64, 1, LENGTH), "noise", seeded(9)).numpy()
    teacher, statistics = teacher_of(trained_on(values))
    counts: list[int] = []

    def draw(family: SignalFamily, shape: tuple[int, ...]) -> np.ndarray:
        counts.append(shape[0])
        return signals(shape, family, seeded(3)).numpy()

    network = TrialNetwork(model=teacher.model, spec=spec(None, 1, LENGTH), others={})
    whole, little, none = (infer_signal(network, statistics, draw, work) for work in (FIT_WORK, 250_000_000, 100))
    assert whole is not None and little is not None and none is None
    assert 16.0 == pytest.approx(1.0 / whole.std[0], rel=0.3) == pytest.approx(1.0 / little.std[0], rel=0.6)
    assert max(counts) == 16


def test_a_batch_normalisation_on_the_input_tells_every_feature() -> None:
    mean, deviation = np.array([0, 5000, -3, 0.1, 100, 1]), np.array([1, 1000, 0.01, 5, 50, 2])
    model = models.parse(TABLE, weights={"mean": mean, "variance": deviation**2})
    teacher, statistics = teacher_of(model)
    generator = make_generator(PriorConfig(), [spec(None, 6)])
    made = generator.synthesize(teacher, statistics, 512, seeded()).inputs["x"].double().numpy()
    assert (np.abs(made.mean(0) - mean) < 0.2 * deviation).all()
    np.testing.assert_allclose(made.std(0), deviation, rtol=0.15)
    off = np.corrcoef(made.T) - np.eye(6)
    assert np.abs(off).max() < 0.2, "features of a table are no waveform"


def test_without_statistics_the_user_is_told_what_is_made() -> None:
    teacher, _ = teacher_of(models.parse(TEXT))
    listener = Listener()
    inputs = [spec(None, 1, LENGTH)]
    assert find_preprocessing(inputs, None, teacher, NO_STATISTICS, seeded(), listener) == {}
    (warning,) = listener.warnings
    assert "'x'" in warning and "--calib" in warning


@pytest.mark.parametrize("family", ["noise", "white", "bursts"])
def test_families_of_signals_are_reproducible_and_bounded(family) -> None:
    one, again = (signals((32, 2, 64), family, seeded(5)) for _ in range(2))
    assert torch.equal(one, again) and one.shape == (32, 2, 64)
    assert 0.5 < float(one.std()) < 3.0
    if family == "bursts":
        assert float(one.min()) >= 0.0 and float(one.median()) < float(one.mean())
