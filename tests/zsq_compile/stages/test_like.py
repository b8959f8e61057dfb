"""Real inputs of the user's from the file to the compiled model: what they settle, seed and judge."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from backends.catalog import load_target
from tests.command_line import call_command
from tests.models import parse
from tests.zsq_compile.stages.test_given_preprocessing import Listener
from tests.zsq_compile.synthesis.networks import trained_on
from zsq_compile.batchnorm.find_statistics import find_statistics
from zsq_compile.compiler import compile_model, synthesize
from zsq_compile.config.compile import CompileConfig, InputConfig
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.dataset import load_data
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import usual_preprocessings
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import load_model
from zsq_compile.progress import Silent
from zsq_compile.stages.like import of_pictures, of_signals, read_given, shapes_like
from zsq_compile.stages.make_data import ENOUGH, make_data
from zsq_compile.synthesis.images.dead_leaves import prior_images

RGB = InputSpec(name="x", shape=(None, 3, 12, 16), dtype=np.dtype(np.float32), layout="NCHW", kind="picture")
ROWS = InputSpec(name="f", shape=(None, 4, 32), dtype=np.dtype(np.float32), kind="features")
SIGNAL = """net (float[N,4,32] f) => (float[N,3] y) <float[6,4,5] w, float[6] b, float[6,3] v>
    { c = Conv(f, w, b) r = Relu(c) [pool] p = GlobalAveragePool(r) q = Flatten(p) y = MatMul(q, v) }"""
QUICK = {"effort": "fast", "speed_trials": False, "target": "ort_cpu_avx2", "samples": 20}


def photographs(count: int, seed: int = 3) -> np.ndarray:
    drawn = prior_images(count, 3, 24, 32, torch.Generator().manual_seed(seed)).numpy()
    return np.rint(255 * drawn).astype(np.uint8).transpose(0, 2, 3, 1)


def save_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, pixels in zip(paths, photographs(count), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Write a network whose batch normalisation remembers pictures in [-1, 1]."""
    drawn = prior_images(32, 3, 12, 16, torch.Generator().manual_seed(9)).numpy()
    onnx.save(trained_on(2.0 * drawn - 1.0), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("name", ["unit", "symmetric", "imagenet", "byte", "byte_bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_network_inputs_show_what_they_were_prepared_by(name: str, layout) -> None:
    one = next(one for one in usual_preprocessings(3, layout) if one.name == name)
    pixels = photographs(3).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255.0)
    shape = (None, 24, 32, 3) if layout == "NHWC" else (None, 3, 24, 32)
    spec = InputSpec(name="x", shape=shape, dtype=np.dtype(np.float32), layout=layout)
    values = one.encode(pixels)
    assert of_pictures(values, spec).name == name
    odd = 3.7 * values + 11.0
    found = of_pictures(odd, spec)
    decoded = found.decode(odd)
    assert found.name == "fitted"
    np.testing.assert_allclose(decoded.mean((0, 2, 3)), 0.45, atol=1e-3)
    np.testing.assert_allclose(decoded.std((0, 2, 3)), 0.25, atol=1e-3)


def test_arrays_choose_the_sizes_that_the_file_leaves_open(tmp_path: Path) -> None:
    text = "net (float[N,3,H,W] x, float[N,4] s) => (float[N,3,H,W] y, float[N,4] t) { y = Relu(x) t = Relu(s) }"
    onnx.save(parse(text), tmp_path / "net.onnx")
    np.savez(tmp_path / "like.npz", x=np.zeros((2, 3, 40, 56), np.float32), s=np.zeros((2, 4), np.float32))
    like = (str(tmp_path / "like.npz"),)
    assert shapes_like(like, tmp_path / "net.onnx") == {"x": (None, 3, 40, 56)}
    np.savez(tmp_path / "like.npz", x=np.zeros((2, 40, 56, 3), np.float32))
    assert shapes_like(like, tmp_path / "net.onnx") == {}
    assert shapes_like(like, tmp_path / "absent.onnx") == {}


def test_signals_show_their_scale() -> None:
    rng = np.random.default_rng(0)
    gain, offset = np.asarray([1.0, 10.0, 0.1, 50.0]), np.asarray([0.0, 5.0, -2.0, 30.0])
    values = (rng.standard_normal((40, 4, 32)) * gain[:, None] + offset[:, None]).astype(np.float32)
    found = of_signals(values, ROWS)
    encoded = found.encode(rng.standard_normal((200, 4, 32)))
    np.testing.assert_allclose(encoded.std((0, 2)), gain, rtol=0.05)
    np.testing.assert_allclose(encoded.mean((0, 2)), offset, atol=2.5)


def test_one_picture_settles_seeds_and_judges(tmp_path: Path, network: Path) -> None:
    (picture,) = save_pictures(tmp_path / "like", 1)
    config = CompileConfig(generator=PriorConfig(), input=InputConfig(like=(str(picture),)), **QUICK)
    result = compile_model(network, tmp_path / "q.onnx", config)
    assert result.synthetic is not None
    (way,) = result.synthetic.preprocessing.values()
    assert way.name == "symmetric" and way.source == "inferred"
    shown = np.asarray(Image.open(picture).resize((16, 12), Image.Resampling.BILINEAR))
    wanted = way.encode((shown.transpose(2, 0, 1)[None] / np.float32(255.0)).astype(np.float32))
    apart = np.abs(result.synthetic.inputs["x"].numpy() - wanted).reshape(25, -1).max(1)
    assert apart.min() < 0.02  # the picture itself is among them
    names = [family.name for family in result.report.agreement_estimate.families]
    assert names.count("real inputs") == 1
    again, other = (synthesize(network, config).inputs["x"] for _ in range(2))
    torch.testing.assert_close(again, other, atol=0.0, rtol=0.0)


def test_the_command_line_takes_several_and_a_configuration_file_a_list(
    tmp_path: Path, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = save_pictures(tmp_path / "like", 2)
    words = ("synth", network, "-o", tmp_path / "c.npz", "--samples", 8, "--generator", "prior", "--json")
    ended = call_command(capsys, *words, "--like", one, "--like", two)
    assert ended.code == 0, ended.err
    (tmp_path / "zsq.toml").write_text(f"[input]\nlike = [{json.dumps(str(one))}, {json.dumps(str(two))}]\n")
    first = np.load(tmp_path / "c.npz")["x"]
    assert call_command(capsys, *words, "--config", tmp_path / "zsq.toml").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "c.npz")["x"], first)
    assert call_command(capsys, *words, "--like", tmp_path / "like").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "c.npz")["x"], first)
    ended = call_command(capsys, *words, "--like", tmp_path / "absent.png")
    assert ended.code == 2 and "absent.png" in ended.err


def test_arrays_settle_the_scale_of_a_signal(tmp_path: Path) -> None:
    onnx.save(parse(SIGNAL), tmp_path / "net.onnx")
    values = 16.0 * np.random.default_rng(0).standard_normal((2, 4, 32)).astype(np.float32)
    np.save(tmp_path / "like.npy", values)
    config = CompileConfig(input=InputConfig(like=(str(tmp_path / "like.npy"),)), **QUICK)
    made = synthesize(tmp_path / "net.onnx", config).inputs["f"]
    assert 12.0 < float(made.std()) < 20.0
    for one in torch.from_numpy(values):
        assert float((made - one).abs().flatten(1).amax(1).min()) == 0.0


@pytest.mark.parametrize("count", [1, ENOUGH - 1, ENOUGH])
def test_few_given_samples_are_put_among_synthetic_ones_and_many_are_taken_alone(tmp_path: Path, count: int) -> None:
    onnx.save(parse(SIGNAL), tmp_path / "net.onnx")
    values = np.random.default_rng(0).standard_normal((count, 4, 32)).astype(np.float32)
    config, loaded = CompileConfig(**{**QUICK, "samples": 100}), load_model(tmp_path / "net.onnx")
    known, target = (
        find_statistics(loaded, checkpoint=None, bn_stats=None, progress=Silent()),
        load_target("ort_cpu_avx2"),
    )
    made = make_data(loaded, known, target, config, {"f": values}, Silent())
    assert (made.synthetic is None) == (count >= ENOUGH)
    if made.synthetic is not None:
        samples = made.synthetic.inputs["f"]
        assert len(samples) == 125
        for one in torch.from_numpy(values):
            assert float((samples - one).abs().flatten(1).amax(1).min()) == 0.0


def test_folders_of_pictures_calibrate(tmp_path: Path, network: Path) -> None:
    save_pictures(tmp_path / "real", ENOUGH)
    result = compile_model(network, tmp_path / "a.onnx", CompileConfig(**QUICK), calibration=tmp_path / "real")
    assert result.synthetic is None
    assert result.report.contract is not None and result.report.contract["name"] == "symmetric"
    arrays = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "real").iterdir())])
    way = next(one for one in usual_preprocessings(3) if one.name == "symmetric")
    given = (read_given(places, network, [RGB]).arrays(way)["x"] for places in (tmp_path / "real", {"x": arrays}))
    np.testing.assert_array_equal(*given)


def test_pictures_do_not_prove_how_they_are_prepared(tmp_path: Path) -> None:
    text = """
        net (float[N,3,16,16] x) => (float[N,4] y) <float[8,3,3,3] w, float[8] b, float[8,4] v>
        { c = Conv(x, w, b) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }
        """
    onnx.save(parse(text), tmp_path / "net.onnx")
    save_pictures(tmp_path / "real", ENOUGH)
    listener, config = Listener(), CompileConfig(**QUICK)
    found = compile_model(
        tmp_path / "net.onnx", tmp_path / "q.onnx", config, calibration=tmp_path / "real", progress=listener
    )
    estimate = found.report.agreement_estimate
    assert found.synthetic is None and estimate is not None
    assert not estimate.proven and len(estimate.hypotheses) > 1
    assert [one.kind for one in found.report.alarms if "made for the first alone" in one.words] == ["input"]
    assert any(f"{ENOUGH} real inputs" in text for text in listener.warnings)


def test_of_more_pictures_than_fit_into_memory_an_even_part_is_taken(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsq_compile.stages.make_data._MOST_BYTES", (ENOUGH + 1) * 4 * 3 * 12 * 16)
    files = save_pictures(tmp_path / "real", 2 * ENOUGH + 4)
    listener, config = Listener(), CompileConfig(**QUICK)
    given = compile_model(network, tmp_path / "a.onnx", config, calibration=tmp_path / "real", progress=listener)
    assert any(f"one in 3 of {len(files)} pictures" in text for text in listener.notes)
    part = load_data(tmp_path / "real", [RGB], None).every(3)
    assert len(part) == -(-len(files) // 3)
    assert f"{len(part) - len(part) // 5} samples given" in given.report.data


def test_what_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    onnx.save(parse(SIGNAL), tmp_path / "net.onnx")
    (picture,) = save_pictures(tmp_path / "like", 1)
    with pytest.raises(ConfigError, match=r"--like .*0\.png holds pictures, but the model does not take one picture"):
        synthesize(tmp_path / "net.onnx", CompileConfig(input=InputConfig(like=(str(picture),)), **QUICK))
    with pytest.raises(ConfigError, match="--like takes several paths"):
        InputConfig(like=str(picture))  # type: ignore[arg-type]
