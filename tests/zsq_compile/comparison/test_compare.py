"""``zsq-compile compare`` as a user meets it, and what its figures rest on."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import zsq_compile
from backends.session import open_session
from tests import models
from tests.command_line import Ended, call_command
from zsq_compile import CompileConfig, PriorConfig
from zsq_compile.comparison import compare, measure, onnxruntime_variants
from zsq_compile.errors import ConfigError, QuantizationError
from zsq_compile.metrics import agreement, sqnr_db, top1

QUICK = ["--generator", "prior", "--samples", "16", "--effort", "fast", "--no-speed-trials"]
CONFIG = CompileConfig(generator=PriorConfig(), samples=16, effort="fast", speed_trials=False)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    return partial(call_command, capsys, "compare")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    return path


@pytest.fixture(autouse=True)
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rounds of timing are enough: no test asks how long anything takes."""
    monkeypatch.setattr(measure, "_SECONDS_EACH", 1e-6)


@pytest.fixture
def one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_variants, "METHODS", ("MinMax",))


def labelled(path: Path, model: Path, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Write network inputs with labels of which the float model gets three quarters right."""
    inputs = np.random.default_rng(5).standard_normal((count, 3, 8, 8)).astype(np.float32)
    classes = np.argmax(open_session(model).run({"x": inputs})["logits"], axis=1)
    labels = np.where(np.arange(count) % 4 == 0, (classes + 1) % 5, classes)
    np.savez(path, x=inputs, labels=labels)
    return inputs, labels


def test_the_whole_table_in_json(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    inputs, labels = labelled(tmp_path / "data.npz", model)
    np.savez(tmp_path / "calib.npz", x=inputs[:21] * 0.9)
    kept = tmp_path / "kept"
    given = (
        "--data",
        tmp_path / "data.npz",
        "--calib-data",
        tmp_path / "calib.npz",
        "-o",
        kept,
        "--json",
    )
    ended = call(model, *QUICK, *given)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["exit_code"] == 0
    kinds = [(row["kind"], row["name"], row["calibrated_on"]) for row in told["rows"]]
    ways = [f"{kind}, {how}" for kind in ("defaults", "best") for how in ("MinMax", "Entropy", "Percentile")]
    others = [("onnxruntime", way, data) for data in ("real", "synthetic", "random") for way in ways]
    assert kinds == [("float", "float", "none"), ("ours", "ours", "synthetic"), *others]
    assert told["calibration"]["real"] == f"16 of 21 samples of {tmp_path / 'calib.npz'}"
    assert (told["samples"], told["judged_on"]) == (40, f"samples of {tmp_path / 'data.npz'}")

    reference = open_session(model).run({"x": inputs})["logits"]
    for row in told["rows"]:
        assert row["failure"] is None, row
        path = Path(row["path"])
        outputs = open_session(path).run({"x": inputs})["logits"]
        assert row["top1"] == pytest.approx(top1(outputs, labels), abs=1e-9)
        assert row["agreement"] == pytest.approx(agreement(reference, outputs), abs=1e-9)
        assert row["bytes"] == path.stat().st_size
        assert row["size_ratio"] == pytest.approx(path.stat().st_size / model.stat().st_size)
        assert row["latency"]["median_ms"] > 0.0
        if row["name"] == "float":
            assert (row["path"], row["sqnr_db"], row["speedup"], row["seconds"]) == (str(model), None, 1.0, None)
        else:
            assert path.parent == kept
            # the float reference is the file raised to a later opset, which may round differently
            assert row["sqnr_db"] == pytest.approx(sqnr_db(reference, outputs), abs=0.05)
            assert row["seconds"] > 0.0
            assert 0 < row["fused"] <= row["layers"] == 4
    assert told["rows"][0]["top1"] == 0.75
    both = (made["agreement_estimate"]["families"] for made in (told["rows"][1], told))
    for compared, compiled in zip(*both, strict=True):
        assert compared == pytest.approx(compiled), "compare and compile agree, but for the order of sums"


def test_the_table_without_data(call: Callable[..., Ended], model: Path, one_method: None) -> None:
    ended = call(model, *QUICK)
    assert ended.code == 0, ended.err
    lines = [line.strip() for line in ended.out.splitlines() if line.strip()]
    assert re.split(r"\s{2,}", lines[0]) == ["expected", "same class", "SQNR", "size", "fused", "latency", "made in"]
    names = [re.split(r"\s{2,}", line)[0] for line in lines[2:]]
    rows = ["float", "ours"]
    rows += ["onnxruntime on synthetic data", "defaults, MinMax", "best, MinMax"]
    rows += ["onnxruntime on random data", "defaults, MinMax", "best, MinMax"]
    assert names[: len(rows)] == rows
    assert "judged on: 4 held-out synthetic samples" in lines
    assert "note: no --calib-data was given: onnxruntime was not calibrated on real data" in ended.out
    assert "quantize with onnxruntime ..." in ended.err
    assert sorted(entry.name for entry in model.parent.iterdir()) == ["net.onnx"], "nothing is left behind"


def test_every_file_has_an_estimate_of_its_own(model: Path, one_method: None) -> None:
    config = CompileConfig(generator=PriorConfig(), samples=16, effort="fast", speed_trials=False)
    made = zsq_compile.compare_models(model, config, others=(model,))
    for row in made.rows[1:]:
        assert row.agreement_estimate is not None and row.path in (None, model)
        low, middle, high = row.agreement_estimate.low, row.agreement_estimate.estimate, row.agreement_estimate.high
        clipped = "high-confidence" in str(
            row.agreement_estimate.reason
        )  # a network that is not trained is sure of nothing
        assert clipped or 0.0 <= low <= middle <= high <= 1.0  # type: ignore[operator]
    assert made.rows[-1].agreement_estimate.estimate == 1.0, "a file that is the float one decides as it does"
    assert made.rows[1].agreement_estimate.estimate == made.agreement_estimate.estimate  # type: ignore[union-attr]
    best, defaults = (
        made.row(f"onnxruntime {kind}, MinMax", "synthetic").agreement_estimate for kind in ("best", "defaults")
    )
    assert best is not None and defaults is not None
    assert best.families[0].flips != defaults.families[0].flips, "each file was run itself"


def test_pictures_are_prepared_as_the_contract_says(model: Path, tmp_path: Path, one_method: None) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "shown").mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "shown" / f"{index:02}.png")
    pixels = pictures.astype(np.float32) / np.float32(255.0)
    np.savez(tmp_path / "ready.npz", x=((pixels - np.float32(0.5)) / np.float32(0.25)).transpose(0, 3, 1, 2))
    config = CompileConfig(
        generator=PriorConfig(),
        samples=16,
        effort="fast",
        speed_trials=False,
        input=zsq_compile.InputConfig(input_range=(-2.0, 2.0)),
    )
    shown, ready = (
        zsq_compile.compare_models(model, config, data=tmp_path / name, calib_data=tmp_path / name)
        for name in ("shown", "ready.npz")
    )
    for one, other in zip(shown.rows, ready.rows, strict=True):
        assert (one.name, one.agreement, one.sqnr_db) == (other.name, other.agreement, other.sqnr_db)
    assert shown.calibration["real"] == f"8 of 12 samples of {tmp_path / 'shown'}"
    assert all(row.top1 is None for row in shown.rows)
    assert all(row.path is None for row in shown.rows[1:])


def test_what_fails_is_a_row_with_its_reason(
    call: Callable[..., Ended], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_method: None
) -> None:
    honest = onnxruntime_variants.quantize_with_onnxruntime

    def fail(model: Path, output: Path, batches: Any, settings: Any, *, prepared: Any, ranges: Any) -> None:
        if settings.tuned:
            raise ValueError("no luck today\nand more words")
        honest(model, output, batches, settings, prepared=prepared, ranges=ranges)

    monkeypatch.setattr(onnxruntime_variants, "quantize_with_onnxruntime", fail)
    (tmp_path / "broken.onnx").write_bytes(b"no model at all")
    other = models.depthwise()
    onnx.save(other, tmp_path / "stranger.onnx")
    ended = call(
        model, *QUICK, "--with", tmp_path / "broken.onnx", "--with", tmp_path / "stranger.onnx", "--with", model
    )
    assert ended.code == 0, ended.err
    assert "failed: onnxruntime best, MinMax on random data: no luck today\n" in ended.out
    assert "failed: broken.onnx: ONNX Runtime cannot load" in ended.out
    assert "failed: stranger.onnx: " in ended.out
    row = next(line for line in ended.out.splitlines() if line.startswith(" net.onnx"))
    assert "100.00%" in row and "none" in row, "the float file beside itself agrees everywhere, without noise"
    assert "  best, MinMax" in ended.out and "defaults, MinMax" in ended.out


def test_our_own_failure_is_a_row_as_well(model: Path, monkeypatch: pytest.MonkeyPatch, one_method: None) -> None:
    def fail(*_: object, **__: object) -> None:
        raise QuantizationError("no scale fits")

    monkeypatch.setattr(compare, "compile_model", fail)
    made = zsq_compile.compare_models(model, CONFIG)
    assert made.row("ours").failure == "no scale fits"
    assert made.held_out_agreement is None and not made.gate_missed
    assert made.row("onnxruntime best, MinMax", "synthetic").agreement is not None


def test_the_gate(call: Callable[..., Ended], tmp_path: Path, one_method: None) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.conv_bn_relu(), path)
    ended = call(path, *QUICK, "--bits", "2", "--act-bits", "2", "--edge-bits", "2", "--min-agreement", "1")
    assert ended.code == 4
    assert "--min-agreement 1.0 was missed by ours: it is 0." in ended.err
    assert "note: onnxruntime's quantizer has no 2-bit weights: its files have 4" in ended.out
    assert "note: onnxruntime's quantizer has no 2-bit activations: its files have 4" in ended.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--data", "absent"],
            "or a folder of these, got absent, which does not exist",
        ),
        (
            ["--calib-data", "absent.npz"],
            "--calib-data wants a picture, a .wav, an .npy or an .npz file, or a folder of these, got absent.npz",
        ),
        (["--with", "absent.onnx"], "--with wants a quantized ONNX file, got absent.onnx"),
        (["-o", "no/such/folder"], "-o wants a folder to keep the files in"),
        (["--calib-samples", "0"], "calib_samples must be a whole number of at least 1"),
        (["--data", "empty"], "--data empty has neither a labels.csv"),
        (["--bits", "5"], "quantization.bits must be one of 8, 4, 3, 2, got 5"),
    ],
)
def test_wrong_usage_ends_before_the_work(
    words: list[str], message: str, call: Callable[..., Ended], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(compare, "compile_model", too_late)
    monkeypatch.chdir(model.parent)
    (model.parent / "empty").mkdir()
    ended = call(model, *QUICK, *words)
    assert ended.code == 2
    assert message in re.sub(r"[\s│]+", " ", ended.err)
    assert ended.out == ""


def test_a_refused_model_leaves_no_empty_folder_and_takes_none_away(call: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    (tmp_path / "kept").mkdir()
    for name in ("kept", "made"):
        assert call(tmp_path / "no.onnx", *QUICK, "-o", tmp_path / name).code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "no.onnx"]


def test_labels_that_do_not_fit_are_the_user_s_error(model: Path, tmp_path: Path, one_method: None) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 3, 8, 8), np.float32), labels=np.asarray([0, 1, 2, 5]))
    with pytest.raises(ConfigError, match="labels run from 0 to 5, but the model has 5 classes"):
        zsq_compile.compare_models(model, CONFIG, data=tmp_path / "data.npz")


def test_a_fixed_batch_is_kept(tmp_path: Path, one_method: None) -> None:
    fixed = models.residual()
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(fixed, tmp_path / "fixed.onnx")
    made = zsq_compile.compare_models(tmp_path / "fixed.onnx", CONFIG, calib_samples=7)
    assert [row.failure for row in made.rows] == [None] * 6
    assert made.calibration["random"] == "6 samples of uniform noise in [0, 1)"


def test_the_same_seed_gives_the_same_figures(model: Path, one_method: None) -> None:
    first, second = (zsq_compile.compare_models(model, CONFIG) for _ in range(2))
    assert [(row.agreement, row.sqnr_db, row.bytes) for row in first.rows] == [
        (row.agreement, row.sqnr_db, row.bytes) for row in second.rows
    ]
