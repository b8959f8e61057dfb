import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from tests import models
from zsq_compile import CompileConfig, compile_model
from zsq_compile.batchnorm.find_statistics import find_statistics
from zsq_compile.config.compile import InputConfig
from zsq_compile.data.input_spec import InputSpec, main_input
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing, usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Silent
from zsq_compile.stages.given_preprocessing import read_preprocessing
from zsq_compile.stages.provenance import Origin, read_origin, stamp
from zsq_compile.synthesis.images.procedural import draw_samples
from zsq_compile.synthesis.preprocessing.find import find_preprocessing

CONFIG = CompileConfig(samples=16, effort="fast", speed_trials=False, target="ort_cpu_avx2")
CONV = "net (float[N,{sizes}] x) => (float[N,4,A,B] y) <float[4,{channels},3,3] w> {{ y = Conv(x, w) }}"
BYTES = """
net (uint8[N,8,8,3] x) => (float[N,4,6,6] y) <float[4,3,3,3] w>
{ f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f) y = Conv(t, w) }
"""
LAST = """
net (float[N,8,8,3] x) => (float[N,4,6,6] y) <float[4,3,3,3] w> { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }
"""
IDS = "net (int64[N,4] ids) => (float[N,4,3] y) <float[9,3] table> { y = Gather(table, ids) }"
TABLE = "net (float[N,12] x) => (float[N,3] y) <float[12,3] w> { y = MatMul(x, w) }"
WAVES = "net (float[N,1,1600] x) => (float[N,4,A] y) <float[4,1,80] w> { y = Conv(x, w) }"
VECTORS = "net (float[N,16,96] x) => (float[N,3] y) <float[1536,3] w> { f = Flatten(x) y = MatMul(f, w) }"


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.note, self.warn = self.notes.append, self.warnings.append  # type: ignore[method-assign]


def loaded_from(text: str, folder: Path, contract: Preprocessing | None = None, **more: object) -> LoadedModel:
    model = models.parse(text)
    if contract is not None:
        model = ir.to_proto(stamp(ir.from_proto(model), Origin(contract={**contract.to_json(), **more})))
    onnx.save(model, folder / "m.onnx")
    return load_model(folder / "m.onnx", simplify=False, verify=False)


def given(text: str, folder: Path, progress: Listener | None = None, **fields: object) -> Preprocessing:
    loaded = loaded_from(text, folder)
    found = read_preprocessing(loaded, InputConfig(**fields), progress or Listener())  # type: ignore[arg-type]
    assert found is not None and found.source == "given"
    return found


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_range_of_pixels_in_every_layout(channels: int, layout: str, tmp_path: Path) -> None:
    text = CONV.format(sizes=f"{channels},8,8", channels=channels)
    if layout == "NHWC":
        text = LAST.replace("8,8,3]", f"8,8,{channels}]").replace("[4,3,3,3]", f"[4,{channels},3,3]")
    found = given(text, tmp_path, input_range=(-1.0, 3.0))
    ends = found.encode(np.stack([np.zeros((channels, 2, 5)), np.ones((channels, 2, 5))]))
    assert ends.shape == ((2, channels, 2, 5) if layout == "NCHW" else (2, 2, 5, channels))
    np.testing.assert_allclose([ends[0].max(), ends[1].min()], [-1.0, 3.0], atol=1e-12)


def test_bytes_are_given_as_they_are(tmp_path: Path) -> None:
    assert given(BYTES, tmp_path, input_range=(0.0, 255.0)).layout == "NHWC"
    for fields in ({"input_range": (0.0, 1.0)}, {"mean": (0.5,), "std": (0.25,)}):
        with pytest.raises(ConfigError, match="uint8"):
            given(BYTES, tmp_path, **fields)


IN_BYTES = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((103.9, 116.8, 123.7), (1.0,) * 3, (103.9 / 255, 116.8 / 255, 123.7 / 255), (1 / 255,) * 3),
    "unit": ((0.0,), (255.0,), (0.0,) * 3, (1.0,) * 3),
}


@pytest.mark.parametrize("name", IN_BYTES)
def test_numbers_of_bytes_are_taken_as_such_and_that_is_said(name: str, tmp_path: Path) -> None:
    mean, std, unit_mean, unit_std = IN_BYTES[name]
    listener = Listener()
    found = given(CONV.format(sizes="3,8,8", channels=3), tmp_path, listener, mean=mean, std=std)
    np.testing.assert_allclose(found.mean, unit_mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, unit_std, rtol=1e-6)
    assert len(listener.warnings) == 1 and "0..255" in listener.warnings[0]


def test_numbers_of_neither_scale_are_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--mean 0\.001961 --std 0\.5"):
        given(CONV.format(sizes="3,8,8", channels=3), tmp_path, mean=(0.5,), std=(127.5,))


SIGNALS = {"table": TABLE, "waveform": WAVES, "vectors": VECTORS}


def test_a_mean_of_bytes_with_a_deviation_of_unit_pixels_is_refused(tmp_path: Path) -> None:
    text = CONV.format(sizes="3,8,8", channels=3)
    with pytest.raises(ConfigError, match=r"--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"):
        given(text, tmp_path, mean=(123.675, 116.28, 103.53), std=(0.229, 0.224, 0.225))
    assert given(text, tmp_path, mean=(2.0,), std=(0.2,)).mean == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("what", SIGNALS)
def test_mean_and_deviation_of_a_signal_are_those_of_its_samples(what: str, tmp_path: Path) -> None:
    found = given(SIGNALS[what], tmp_path, mean=(40.0,), std=(16.0,))
    spec = load_model(tmp_path / "m.onnx", simplify=False, verify=False).inputs[0]
    made = found.encode(draw_samples(spec, 200, torch.Generator().manual_seed(0), found))
    assert float(made.mean()) == pytest.approx(40.0, abs=4.0) and float(made.std()) == pytest.approx(16.0, rel=0.25)


def test_the_range_of_a_waveform_is_its_full_scale(tmp_path: Path) -> None:
    found = given(WAVES, tmp_path, input_range=(-32768.0, 32767.0))
    ends = found.encode(np.array([[[-1.0]], [[1.0]]]))
    np.testing.assert_allclose(ends.reshape(-1), [-32768.0, 32767.0], rtol=1e-9)
    assert found.family == "sound"
    levels = given(TABLE, tmp_path, input_range=(0.0, 6.0))
    np.testing.assert_allclose(levels.encode(np.array([[-3.0], [3.0]])).reshape(-1), [0.0, 6.0], atol=1e-9)


def test_a_signal_with_other_numbers_of_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected 1 or 12 numbers"):
        given(TABLE, tmp_path, mean=(0.0, 1.0), std=(1.0, 1.0))


def test_ids_have_no_preprocessing(tmp_path: Path) -> None:
    loaded = loaded_from(IDS, tmp_path)
    assert main_input(loaded.inputs) is None
    assert read_preprocessing(loaded, InputConfig(), Listener()) is None
    with pytest.raises(ConfigError, match=r"'ids'.*tokens"):
        read_preprocessing(loaded, InputConfig(input_range=(0.0, 1.0)), Listener())


def test_the_first_picture_comes_before_any_signal() -> None:
    signal = InputSpec(name="s", shape=(None, 5), dtype=np.dtype(np.float32), kind="table")
    picture = InputSpec(name="p", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW", kind="picture")
    assert main_input([signal, picture]) is picture


PICTURE = CONV.format(sizes="3,8,8", channels=3)
UNIT = usual_preprocessings(3)[0]
SOUND = Preprocessing(name="fitted", mean=(1.0,), std=(0.5,), channel_order="none", layout=None, family="sound")


@pytest.mark.parametrize("source", ["given", "inferred", "read"])
def test_a_file_remembers_the_preprocessing_of_pictures_and_of_signals(source: str, tmp_path: Path) -> None:
    for text, known in ((PICTURE, UNIT), (WAVES, SOUND)):
        left = Preprocessing.from_json({**known.to_json(), "source": source})
        listener = Listener()
        found = read_preprocessing(loaded_from(text, tmp_path, left), InputConfig(), listener)
        assert found is not None
        assert (found.mean, found.std, found.family) == (known.mean, known.std, known.family)
        assert found.source == "read" and found.is_certain and "zsq-compile left it" in listener.notes[0]


def test_the_user_wins_over_what_the_file_remembers(tmp_path: Path) -> None:
    left = given_preprocessing(3, input_range=(0.0, 255.0))
    found = read_preprocessing(loaded_from(PICTURE, tmp_path, left), InputConfig(input_range=(-1.0, 1.0)), Listener())
    assert found is not None and (found.source, found.mean) == ("given", (0.5,) * 3)


def test_what_was_assumed_or_does_not_fit_is_not_remembered(tmp_path: Path) -> None:
    certain = given_preprocessing(1, input_range=(0.0, 255.0))
    for text, left, more in (
        (PICTURE, UNIT, {}),
        (CONV.format(sizes="4,8,8", channels=4), given_preprocessing(3, input_range=(0.0, 2.0)), {}),
        (WAVES, certain, {}),
        (PICTURE, Preprocessing.from_json({**SOUND.to_json(), "source": "given"}), {}),
        (PICTURE, certain, {"input": "another"}),
        (IDS, certain, {}),
    ):
        assert read_preprocessing(loaded_from(text, tmp_path, left, **more), InputConfig(), Listener()) is None


def test_a_compiled_file_is_compiled_again_under_the_same_preprocessing(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "m.onnx")
    given_config = replace(CONFIG, input=InputConfig(mean=(0.3,), std=(0.2,)))
    first = compile_model(tmp_path / "m.onnx", tmp_path / "q.onnx", given_config)
    again = compile_model(first.path, tmp_path / "qq.onnx", CONFIG)
    assert again.synthetic is not None
    found = again.synthetic.preprocessing["x"]
    assert (found.source, found.mean, found.std) == ("read", (0.3,) * 3, (0.2,) * 3)
    assert again.report.contract is not None and again.report.contract["source"] == "read"


def test_a_compiled_file_of_a_signal_remembers_its_scale(tmp_path: Path) -> None:
    onnx.save(models.parse(VECTORS), tmp_path / "m.onnx")
    config = replace(CONFIG, input=InputConfig(mean=(2.0,), std=(16.0,)))
    made = compile_model(tmp_path / "m.onnx", tmp_path / "q.onnx", config)
    assert made.synthetic is not None
    assert float(made.synthetic.inputs["x"].std()) == pytest.approx(16.0, rel=0.3)
    contract = read_origin({one.key: one.value for one in onnx.load(made.path).metadata_props}).contract
    assert contract is not None and contract["input"] == "x" and contract["layout"] is None
    assert {**contract, "reason": "by the user", "margin": None} == json.loads(json.dumps(made.report.contract))
    again = load_model(made.path, simplify=False, verify=False)
    found = read_preprocessing(again, InputConfig(), Listener())
    assert found is not None and found.std == pytest.approx((1 / 16.0,)) and found.family == "embedding"


BN_TABLE = """
net (float[N,4] x) => (float[N,3] y)
<float[4] scale, float[4] shift, float[4] mean, float[4] variance, float[4,3] w>
{ n = BatchNormalization(x, scale, shift, mean, variance) y = MatMul(n, w) }
"""


@pytest.mark.parametrize(("mean", "is_told"), [(50.0, False), (0.0, True)])
def test_a_given_scale_of_a_signal_is_held_against_the_statistics(mean: float, is_told: bool, tmp_path: Path) -> None:
    moments = {"mean": np.array([48.0, 50.0, 51.0, 52.0]), "variance": np.array([90.0, 100.0, 110.0, 95.0])}
    onnx.save(models.parse(BN_TABLE, weights=moments), tmp_path / "m.onnx")
    loaded, listener = load_model(tmp_path / "m.onnx"), Listener()
    given_scale = read_preprocessing(loaded, InputConfig(mean=(mean,), std=(10.0,)), listener)
    known = find_statistics(loaded, checkpoint=None, bn_stats=None, progress=Silent()).statistics
    rng = torch.Generator().manual_seed(0)
    found = find_preprocessing(loaded.inputs, given_scale, TorchGraph(loaded.model), known, rng, listener)
    assert found["x"].best == given_scale, "what the user gave wins"
    assert any("contradicts" in text and "you gave" in text for text in listener.warnings) == is_told
