"""The command line as a user meets it: words in, streams and exit codes out."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import zsq_compile
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from tests import models
from tests.command_line import Ended, call_command
from tests.zsq_compile.synthesis.colours import colour_classifier
from zsq_compile import compiler
from zsq_compile.config.compile import GENERATORS, CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.config.generators import PixelsConfig, PriorConfig
from zsq_compile.errors import BudgetError, LoadError, SynthesisError, ValidationError

ROOT = Path(__file__).resolve().parent.parent.parent.parent
QUICK = ["--generator", "prior", "--samples", "8", "--effort", "fast"]
COMPILE = [*QUICK, "--no-speed-trials"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    return partial(call_command, capsys)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record what compile_model is called with, and stop there."""
    arguments: dict[str, Any] = {}

    def record(model: Path, output: Path | None, config: CompileConfig, **others: Any) -> None:
        arguments.update(model=model, output=output, config=config, **others)
        raise SynthesisError("stopped by the test")

    monkeypatch.setattr(compiler, "compile_model", record)
    return arguments


@contextmanager
def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(compiler, "compile_model", fail)
        yield


def test_help_names_every_option_exit_code_and_the_other_command(call: Callable[..., Ended]) -> None:
    ended = call("--help")
    assert ended.code == 0
    for word in (
        "--bits",
        "--report",
        "--min-agreement",
        "Exit codes",
        "130",
        "synth",
        "harvest",
        "inspect",
        "compare",
        "verify",
    ):
        assert word in ended.out
    assert "--max-size" not in call("synth", "--help").out


def test_no_word_at_all_is_a_question_for_help(call: Callable[..., Ended]) -> None:
    ended = call()
    assert ended.code == 0
    assert "Usage: zsq-compile" in ended.out


def test_version(call: Callable[..., Ended]) -> None:
    ended = call("--version")
    assert (ended.code, ended.out) == (0, f"zsq-compile {zsq_compile.__version__}\n")


@pytest.mark.parametrize("name", ["auto", *GENERATORS])
def test_every_generator_is_chosen_by_its_name(
    name: str, call: Callable[..., Ended], model: Path, seen: dict[str, Any]
) -> None:
    call(model, "--generator", name)
    assert seen["config"].generator == (None if name == "auto" else GENERATORS[name]())


def test_defaults_are_the_configuration_s(call: Callable[..., Ended], model: Path, seen: dict[str, Any]) -> None:
    assert call(model).code == 1
    assert seen["config"] == CompileConfig()
    assert (seen["model"], seen["output"], seen["calibration"], seen["data"]) == (model, None, None, None)


def test_every_option_arrives(call: Callable[..., Ended], model: Path, seen: dict[str, Any]) -> None:
    words = (
        "-o out.onnx --bits 4 --act-bits 4 --edge-bits 4 --target t.toml --generator prior --samples 9 --effort best"
    )
    words += (
        " --seed 7 --calibration-method entropy --bias-correction none --input-shape a:0:1x3x8x8 --input-shape b:?x2"
    )
    words += " --mean .5,.4,.3 --std 1,1,1 --min-agreement 0.9 --data d.npz --mixed --max-size 0.15"
    words += " --distill --distill-checkpoint state.pt --low-pass 0.3 --device cpu"
    words += " --checkpoint net.pth"
    call(model, *words.split())
    assert seen["output"] == Path("out.onnx")
    assert seen["data"] == Path("d.npz")
    assert seen["config"] == CompileConfig(
        input=InputConfig(shapes={"a:0": (1, 3, 8, 8), "b": (None, 2)}, mean=(0.5, 0.4, 0.3), std=(1.0, 1.0, 1.0)),
        generator=PriorConfig(),
        quantization=QuantizationConfig(
            bits=4, act_bits=4, edge_bits=4, calibration_method="entropy", bias_correction="none"
        ),
        checkpoint="net.pth",
        target="t.toml",
        samples=9,
        effort="best",
        seed=7,
        min_agreement=0.9,
        mixed=True,
        max_size="0.15",
        low_pass=0.3,
        device="cpu",
        distill=DistillConfig(checkpoint="state.pt"),
    )
    assert seen["given_plan"] is None


def test_distillation_is_switched_on_and_off(
    call: Callable[..., Ended], model: Path, seen: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "zsq.toml"
    path.write_text("[distill]\nsteps = 9\n", encoding="utf-8")
    for words, wanted in (
        ((), None),
        (("--distill",), DistillConfig()),
        (("--config", path), DistillConfig(steps=9)),
        (("--distill", "--generator", "gdfq", "--adversarial-margin"), DistillConfig(adversary="margin")),
        (("--config", path, "--distill"), DistillConfig(steps=9)),
        (("--config", path, "--no-distill"), None),
    ):
        call(model, *words)
        assert seen["config"].distill == wanted
    ended = call(model, "--distill-checkpoint", "state.pt")
    assert ended.code == 2
    assert "--distill-checkpoint" in ended.err and "give --distill as well" in ended.err
    ended = call(model, "--distill", "--distill-checkpoint", tmp_path / "none" / "state.pt")
    assert ended.code == 2
    assert "in a folder that exists" in ended.err


def test_snake_case_is_understood(call: Callable[..., Ended], model: Path, seen: dict[str, Any]) -> None:
    call(model, "--act_bits", "4", "--calibration_method=minmax", "--input_range", "-1,1")
    assert seen["config"].quantization == QuantizationConfig(act_bits=4, calibration_method="minmax")
    assert seen["config"].input.input_range == (-1.0, 1.0)


def test_options_win_over_the_file(
    call: Callable[..., Ended], model: Path, seen: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "zsq.toml"
    file.write_text(
        "seed = 3\n[input]\ninput_range = [0, 255]\n[quantization]\nbits = 4\nact_bits = 4\n"
        '[generator]\nkind = "pixels"\niterations = 5\n'
    )
    call(model, "--config", file, "--act-bits", "8", "--mean", "0", "--std", "1", "--generator", "pixels")
    assert seen["config"] == CompileConfig(
        seed=3,
        input=InputConfig(mean=(0.0,), std=(1.0,)),
        quantization=QuantizationConfig(bits=4, act_bits=8),
        generator=PixelsConfig(iterations=5),  # the same kind keeps the file's settings
    )
    call(model, "--config", file, "--generator", "prior")
    assert seen["config"].generator == PriorConfig()
    assert seen["config"].input == InputConfig(input_range=(0.0, 255.0))
    call(model, "--config", file, "--generator", "auto")
    assert seen["config"].generator is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bits", "5"], "quantization.bits must be one of 8, 4, 3, 2, got 5"),
        (["--mean", "0.5"], "give both or neither"),
        (["--mean", "a", "--std", "1"], "--mean: wanted numbers with commas between them, got 'a'"),
        (["--input-range", "1"], "two numbers, lowest and highest"),
        (["--input-shape", "1x3x8x8"], "--input-shape: a shape of an input is written NAME:1x3x224x224, got '1x3x8x8'"),
        (["--min-agreement", "97"], "97 % is written 0.97"),
        (["--mixed"], "mixed needs a goal: max_size"),
        (["--max-size", "200k"], "give mixed (--mixed) as well"),
        (["--plan", "absent.json"], "absent.json cannot be read"),
        (["--save-plan", "no/such/plan.json"], "a file in a folder that exists"),
        (["--config", "absent.toml"], "absent.toml cannot be read"),
        (["--calib", "absent.npz"], "absent.npz, which does not exist"),
        (["--calib", "a.npz", "--save-calib", "b.npz"], "leave one out"),
        (["--save-calib", "no/such/folder.npz"], "a file in a folder that exists"),
        (["--target", "ort_cpus"], "did you mean 'ort_cpu'?"),
        (["-o", "no/such/folder.onnx"], "folder that exists"),
        (["--effort", "much"], "much"),
        (["--bist", "4"], "--bist"),
        (["another.onnx"], "another.onnx"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(
    words: list[str], message: str, call: Callable[..., Ended], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    ended = call(model, *words)
    assert ended.code == 2
    assert message in re.sub(r"[\s│]+", " ", ended.err)
    assert ended.out == ""
    assert list(model.parent.iterdir()) == [model]


def test_a_model_that_is_none_is_exit_code_3(call: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no model at all")
    for words in ([path], ["synth", path], [tmp_path / "absent.onnx"]):
        ended = call(*words, "-q")
        assert ended.code == 3
        assert len(ended.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (LoadError("what to do"), 3, "error: what to do"),
        (SynthesisError("what to do"), 1, "error: what to do"),
        (ValidationError("what to do"), 5, "error: what to do"),
        (BudgetError("what to do"), 6, "error: what to do"),
        (MemoryError(), 6, "error: memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 6, "error: memory ran out"),
        (KeyboardInterrupt(), 130, "interrupted: nothing half-written was left behind"),
        (TypeError("no such\nthing"), 1, "internal error: TypeError: no such (-v shows the traceback"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_failure_has_its_exit_code_and_one_line(
    error: BaseException,
    code: int,
    words: str,
    call: Callable[..., Ended],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with raising(monkeypatch, error):
        ended = call(model)
        assert (ended.code, ended.out) == (code, "")
        assert ended.err.startswith(words)
        assert len(ended.err.splitlines()) == 1
        verbose = call(model, "-v")
        assert verbose.code == code
        assert "Traceback" in verbose.err
        told = json.loads(call(model, "--json").out)
        assert told["exit_code"] == code
        assert told["error"]["type"] == type(error).__name__


def test_with_json_stdout_is_one_object(call: Callable[..., Ended], model: Path) -> None:
    ended = call(model, *COMPILE, "--json", "--bits", "4")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["exit_code"] == 0
    assert told["gate_missed"] is False
    assert Path(told["emitted"]) == model.with_name("net.w4a8.onnx")
    assert 0 <= told["validation"]["agreement"] <= 1
    assert "load ..." in ended.err


def test_quiet_says_the_path_and_no_more(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    ended = call(model, *COMPILE, "-q", "-o", tmp_path / "out.onnx")
    assert ended == Ended(0, f"{tmp_path / 'out.onnx'}\n", "")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


def test_a_report_is_one_page(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = call(model, *COMPILE, "--json", "--report", page)
    assert ended.code == 0, ended.err
    told, text = json.loads(ended.out), page.read_text(encoding="utf-8")
    assert told["sha256"]["emitted"] in text
    assert f"{told['validation']['agreement']:.2%}" in text
    assert text.count("<img ") == len(told["pictures"]) == 10  # eight to calibrate on, two held out
    assert len(told["moments"]) == 3 and all(one["distance"] > 0 for one in told["moments"])
    assert sum(told["contents"]["quantized"]["weights"].values()) == 8 * 36 + 2 * 8 * 72 + 40
    assert call(model, *COMPILE, "--report", page).out.splitlines()[-1] == f"report in {page}"
    assert json.loads(call(model, *COMPILE, "--json").out)["pictures"] == [], "nobody asked for them"
    ended = call(model, "--report", tmp_path / "report.pdf")
    assert ended.code == 2 and "ends in .html" in ended.err


def test_a_missed_gate_is_exit_code_4_and_the_file_is_there(call: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.conv_bn_relu(), path)
    # Two bits everywhere cannot agree with the float model at each of 1,024 places.
    ended = call(path, *COMPILE, "--bits", "2", "--act-bits", "2", "--edge-bits", "2", "--min-agreement", "1")
    assert ended.code == 4
    assert "--min-agreement 1.0 was missed" in ended.err
    assert path.with_name("net.w2a2.onnx").is_file()


def test_saved_calibration_data_can_be_given_back(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.npz"
    assert call(model, *COMPILE, "-q", "--save-calib", kept).code == 0
    with np.load(kept) as arrays:
        assert arrays["x"].shape == (10, 3, 8, 8)  # eight to calibrate on, two held out
    assert call(model, "-q", "--no-speed-trials", "--calib", kept, "-o", tmp_path / "again.onnx").code == 0


def test_a_saved_plan_can_be_given_back(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "plan.json"
    assert call(model, *COMPILE, "-q", "--bits", "4", "-o", tmp_path / "first.onnx", "--save-plan", kept).code == 0
    plan = json.loads(kept.read_text())
    assert plan["weights"] == {"conv0": 8, "conv1": 4, "conv2": 4, "gemm": 8}
    assert call(model, *COMPILE, "-q", "--plan", kept, "-o", tmp_path / "again.onnx").code == 0
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()

    plan["weights"]["conv7"] = 4
    kept.write_text(json.dumps(plan))
    ended = call(model, *COMPILE, "-q", "--plan", kept)
    assert ended.code == 2
    assert "this model has no layer 'conv7'; did you mean 'conv" in ended.err


def test_calibration_data_without_a_name_is_refused(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.zeros((4, 3, 8, 8), np.float32))
    ended = call(model, "--calib", tmp_path / "bare.npz")
    assert ended.code == 2
    assert "one array without a name" in ended.err


def test_synth_writes_network_inputs(call: Callable[..., Ended], model: Path) -> None:
    ended = call("synth", model, *QUICK)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        "prior, 1 of them confident: x [8, 3, 8, 8]",
        f"written to {model.with_name('net.calib.npz')}",
    ]
    with np.load(model.with_name("net.calib.npz")) as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {"x": (8, 3, 8, 8)}
    told = json.loads(call("synth", model, *QUICK, "--json", "-o", model.with_name("other.npz")).out)
    assert told["inputs"] == {"x": [8, 3, 8, 8]}
    assert call("synth", model, *QUICK, "-q").out == f"{model.with_name('net.calib.npz')}\n"


def test_synth_draws_the_classes_that_are_asked_for(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    settings = tmp_path / "few.toml"
    settings.write_text('[generator]\nkind = "zs-cgan"\niterations = 1\nbatch_size = 4\n')
    words = ("--config", settings, "--samples", "6", "--effort", "fast", "--input-range", "0,1", "-q")
    drawn = tmp_path / "drawn.npz"
    model.unlink()
    onnx.save(colour_classifier(), model)
    assert call("synth", model, *words, "--classes", "2,0", "-o", drawn).code == 0
    with np.load(drawn) as arrays:
        assert set(arrays.files) == {"x", "labels"}
        assert sorted(arrays["labels"].tolist()) == [0, 0, 0, 2, 2, 2] and arrays["x"].shape == (6, 3, 8, 8)
    ended = call(model, "--calib", drawn, "--effort", "fast", "--no-speed-trials", "-q", "--input-range", "0,1")
    assert ended.code == 0, "labels in the file are no input, and do not disturb: " + ended.err
    ended = call("synth", model, *words, "--classes", "1,3")
    assert ended.code == 2
    assert "asks for class 3, and the network has 3" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "1"], "which the generator auto does not know: give --generator zs-cgan or gdfq"),
        (["--classes", "1", "--generator", "pixels"], "which the generator pixels does not know"),
        (
            ["--classes", "cat", "--generator", "gdfq"],
            "--classes: wanted numbers with commas between them, such as 3,7",
        ),
        (["--classes", "1,1", "--generator", "gdfq"], "names a class twice"),
    ],
)
def test_classes_that_cannot_be_drawn_are_refused(
    call: Callable[..., Ended], model: Path, words: list[str], message: str
) -> None:
    ended = call("synth", model, "-q", *words)
    assert ended.code == 2
    assert message in ended.err
    assert not list(model.parent.glob("*.npz"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bits", "4"], "synth takes --bits only for .* the generator auto learns against none: .* leave it out"),
        (["--act-bits", "4", "--bits", "4", "--generator", "gdfq"], "--bits and --act-bits .* gdfq .* leave them out"),
    ],
)
def test_widths_that_no_generator_asks_for_are_refused(
    call: Callable[..., Ended], model: Path, words: list[str], message: str
) -> None:
    ended = call("synth", model, "-q", *words)
    assert ended.code == 2
    assert re.search(message, ended.err)
    assert not list(model.parent.glob("*.npz"))


def test_an_input_with_the_name_of_the_labels_is_refused_before_the_work(
    call: Callable[..., Ended], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = onnx.load(model)
    network.graph.input[0].name = "labels"
    for node in network.graph.node:
        node.input[:] = ["labels" if name == "x" else name for name in node.input]
    onnx.save(network, model)

    def begun(*_: object) -> None:
        raise SynthesisError("work has begun")

    monkeypatch.setattr("zsq_compile.synthesis.make_generator.learn_conditional", begun)
    kept = ("--save-calib", model.with_name("kept.npz"))
    for words in (("synth", model), (model, *kept)):
        ended = call(*words, "--generator", "gdfq", "-q")
        assert ended.code == 2 and "under the name 'labels', which is that of an input" in ended.err
    assert "work has begun" in call(model, "--generator", "gdfq", "-q").err, "nothing is kept, and no name needed"
    assert call(model, *kept, *COMPILE, "-q").code == 0, "procedural pictures have no labels"


def test_synth_shows_its_images(call: Callable[..., Ended], model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "shown.png"
    ended = call("synth", model, *QUICK, "--gallery", picture, "--low-pass", "0.3")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == "prior, low-pass, 1 of them confident: x [8, 3, 8, 8]"
    assert ended.out.splitlines()[-1] == f"shown in {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads(call("synth", model, *QUICK, "--json", "--gallery", picture).out)
    assert told["gallery"] == str(picture)


def test_a_gallery_of_no_images_and_one_of_another_format_are_refused(
    call: Callable[..., Ended], model: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "dense.onnx"
    onnx.save(models.parse("dense (float[N,12] x) => (float[N,4] y) <float[12,4] w> { y = MatMul(x, w) }"), dense)
    ended = call("synth", dense, *QUICK, "-q", "--gallery", tmp_path / "a.png")
    assert ended.code == 2
    assert "this network takes 'x' (None, 12): leave --gallery out" in ended.err
    ended = call("synth", model, *QUICK, "-q", "--gallery", tmp_path / "a.jpg")
    assert ended.code == 2
    assert "ends in .png" in ended.err
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("a.*"))


def test_what_libraries_print_does_not_reach_stdout(tmp_path: Path) -> None:
    code = """
import os, sys
from zsq_compile import (compiler)
from zsq_compile.cli import entry as cli
def noisy(*args, **options):
    os.write(1, b"native noise\\n"); print("noise")
    raise KeyboardInterrupt
compiler.compile_model = noisy
cli.main(["net.onnx", "--json"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert json.loads(done.stdout)["exit_code"] == 130
    assert "native noise" in done.stderr


def test_harvest_keeps_statistics_that_the_folded_model_takes(
    call: Callable[..., Ended], model: Path, tmp_path: Path
) -> None:
    folded = ir.from_proto(models.residual())
    FoldBatchNorm().call(folded)
    onnx.save(ir.to_proto(folded), tmp_path / "folded.onnx")
    ended = call("harvest", model)
    assert (ended.code, ended.out) == (0, f"3 BatchNormalizations written to {tmp_path / 'net.stats.npz'}\n")
    stats = tmp_path / "other.npz"
    told = json.loads(call("harvest", model, "-o", stats, "--json").out)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert told == {"output": str(stats), "model_sha256": digest, "values": ["n0", "n1", "n2"], "exit_code": 0}
    ended = call("synth", tmp_path / "folded.onnx", *QUICK, "--bn-stats", stats, "-v")
    assert ended.code == 0
    assert "statistics: 3 BatchNormalizations from other.npz" in ended.err
    assert "matched conv0: its name, 'n0'" in ended.err and "not matched gemm" in ended.err
    ended = call("synth", tmp_path / "folded.onnx", *QUICK, "--bn-stats", stats)
    assert ended.code == 0 and "matched conv0" not in ended.err
    ended = call("harvest", tmp_path / "folded.onnx", "-q")
    assert ended.code == 3 and "holds no BatchNormalization" in ended.err


def test_a_file_of_statistics_on_the_command_line_takes_the_place_of_the_configured_one(
    call: Callable[..., Ended], model: Path, seen: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "zsq.toml").write_text('checkpoint = "a.pt"')
    call(model, "--config", tmp_path / "zsq.toml")
    assert (seen["config"].checkpoint, seen["config"].bn_stats) == ("a.pt", None)
    call(model, "--config", tmp_path / "zsq.toml", "--bn-stats", "b.npz")
    assert (seen["config"].checkpoint, seen["config"].bn_stats) == (None, "b.npz")
    ended = call(model, "--checkpoint", "a.pt", "--bn-stats", "b.npz")
    assert ended.code == 2 and "--checkpoint a.pt" in ended.err and "--bn-stats b.npz" in ended.err
