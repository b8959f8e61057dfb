"""Other forms of a file that is slower than float: written, timed, and one of them kept where the clock says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.session import open_session
from tests import models
from zsq_compile import CompileConfig, PriorConfig, QuantizationConfig, compile_model
from zsq_compile.cli import entry as cli
from zsq_compile.errors import QuantizationError
from zsq_compile.files import file_sha256
from zsq_compile.metrics import sqnr_db
from zsq_compile.reporting.html import float_nodes, layer_map, speed_facts
from zsq_compile.stages import export, faster_variants
from zsq_compile.verification.latency import Turns

WEIGHTS = "weights in integers, widened when the file is loaded"
PRESENT = "the file as it was"
CONFIG = CompileConfig(generator=PriorConfig(), samples=64, effort="fast")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    """Let a clock of the test tell how long every form takes, in milliseconds; others take ten."""

    def said(times: dict[str, float]) -> None:
        def turns(named: Any, *_: object, **__: object) -> dict[str, Turns]:
            rounds = np.linspace(1.0, 1.2, 20)[:, None]
            return {name: Turns(milliseconds=times.get(name, 10.0) * rounds) for name in named}

        monkeypatch.setattr(faster_variants, "time_in_turns", turns)
        monkeypatch.setattr(faster_variants, "_FINALISTS", 99)
        monkeypatch.setattr(export, "_is_slower", lambda validation: True)

    return said


def operators(path: Path, folder: Path) -> set[str]:
    open_session(path, optimized_path=folder / "optimized.onnx")
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}


@pytest.mark.parametrize("bits", [8, 4])
def test_the_fastest_form_takes_the_place_of_the_file(
    model: Path, clock: Callable[..., None], tmp_path: Path, bits: int
) -> None:
    clock({"float": 1.0, PRESENT: 2.0, WEIGHTS: 0.9})
    config = CompileConfig(
        generator=PriorConfig(),
        samples=64,
        effort="fast",
        keep_quality="off",  # so that there are integers to be slow with
        quantization=QuantizationConfig(bits=bits),
    )
    made = compile_model(model, tmp_path / "out.onnx", config)
    trials = {one["form"]: one for one in made.report.speed_trials}
    assert [name for name, one in trials.items() if one["chosen"]] == [WEIGHTS]
    assert trials[PRESENT]["of_float"] == pytest.approx(2.0)
    assert "integers in layers with weights only" in trials
    assert not any(name.startswith("QLinear") for name in operators(made.path, tmp_path))
    assert made.path.stat().st_size < model.stat().st_size
    assert made.report.validation.failures == ()
    assert any("written as weights in integers" in note for note in made.report.notes)
    x = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    wanted, got = (open_session(path).run({"x": x})["logits"] for path in (model, made.path))
    assert sqnr_db(wanted, got) > (30.0 if bits == 8 else 8.0)
    assert made.report.sha256["emitted"] == file_sha256(made.path), "the report is of the file as it stands"


@pytest.mark.parametrize("form", ["weights", "layers"])
def test_plan_and_layers_are_those_of_the_form_that_ships(
    model: Path, clock: Callable[..., None], tmp_path: Path, form: str
) -> None:
    words = {"weights": WEIGHTS, "layers": "integers in the layers of 60% of the work"}[form]
    clock({"float": 1.0, PRESENT: 2.0, words: 0.9})
    made = compile_model(model, tmp_path / "out.onnx", CONFIG)
    quantized = {node.input[0] for node in onnx.load(made.path).graph.node if node.op_type == "QuantizeLinear"}
    widths = made.plan.activations
    assert {name for name, bits in widths.items() if bits != "float"} <= quantized
    assert bool(quantized) == (form == "layers")
    names = {refusal.where for refusal in made.report.refusals}
    assert "float" not in widths.values() or names.issuperset(n for n, bits in widths.items() if bits == "float")
    assert {layer.node for layer in made.report.layers} <= {node.name for node in onnx.load(made.path).graph.node}
    assert bool(made.report.layers) == (form == "layers")
    assert made.report.validation.samples == made.report.settings["samples"] // 8, "the other half has chosen"
    again = compile_model(model, tmp_path / "again.onnx", replace(CONFIG, speed_trials=False), given_plan=made.plan)
    left = {node.input[0] for node in onnx.load(again.path).graph.node if node.op_type == "QuantizeLinear"}
    assert left <= quantized or form == "layers"


def test_the_page_tells_what_was_tried(model: Path, clock: Callable[..., None], tmp_path: Path) -> None:
    clock({"float": 1.0, PRESENT: 2.0, WEIGHTS: 0.9})
    made = compile_model(model, tmp_path / "out.onnx", CONFIG)
    values = made.report.to_json()
    assert dict(speed_facts(made.report))["form of the file, kept"].startswith(f"{WEIGHTS}: 0.99 ms, 0.90 times")
    assert {tone for tone, _ in layer_map(values)} == {"bad"}
    assert {"conv0", "conv1", "conv2", "gemm"} < {name for _, name, _ in float_nodes(values)}
    assert set(made.report.contents["quantized"].weights) == {"conv0", "conv1", "conv2", "gemm"}
    assert made.report.contents["quantized"].constants == 0


def test_the_file_stays_where_nothing_is_faster(model: Path, clock: Callable[..., None], tmp_path: Path) -> None:
    clock({"float": 1.0, PRESENT: 2.0, WEIGHTS: 2.0})
    made = compile_model(model, tmp_path / "out.onnx", CONFIG)
    assert made.report.speed_trials and not any(one["chosen"] for one in made.report.speed_trials)
    assert "QLinearConv" in operators(made.path, tmp_path)
    assert any("none is faster beyond noise" in note for note in made.report.notes)


def test_a_faster_form_that_does_worse_is_refused(
    model: Path, clock: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock({"float": 1.0, PRESENT: 2.0, WEIGHTS: 0.5})
    honest = faster_variants.emit

    def emit(graph: Any, plan: Any, target: Any) -> None:
        honest(graph, plan, target)
        if not any(node.op_type == "QuantizeLinear" for node in graph.graph):  # the weights alone
            constant = next(value for value in graph.graph.initializers.values() if value.const_value.size > 100)
            constant.const_value = ir.tensor(constant.const_value.numpy() // 2, name=constant.name)

    monkeypatch.setattr(faster_variants, "emit", emit)
    made = compile_model(model, tmp_path / "out.onnx", CONFIG)
    refused = {one["form"]: one["reason"] for one in made.report.speed_trials if one["reason"] is not None}
    assert "dB, and that of the present file at" in refused[WEIGHTS]
    assert not any(one["chosen"] for one in made.report.speed_trials)
    assert "QLinearConv" in operators(made.path, tmp_path)


def test_a_form_that_cannot_be_written_is_told_of(
    model: Path, clock: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock({"float": 1.0, PRESENT: 2.0})
    honest = faster_variants.emit

    def emit(graph: Any, plan: Any, target: Any) -> None:
        if target.activation.signed:
            raise QuantizationError("no room\nat all")
        honest(graph, plan, target)

    monkeypatch.setattr(faster_variants, "emit", emit)
    made = compile_model(model, tmp_path / "out.onnx", replace(CONFIG, target="ort_cpu"))
    failed = {one["form"]: one["reason"] for one in made.report.speed_trials if one["median_ms"] is None}
    unwritten = {form: reason for form, reason in failed.items() if "dB, and that of the present file" not in reason}
    assert unwritten == {"signed activations": "no room"}


@pytest.mark.parametrize("option", ["--no-speed-trials", "--speed-trials"])
def test_the_option_decides(
    option: str, model: Path, clock: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clock({"float": 1.0, PRESENT: 2.0, WEIGHTS: 0.5})
    words = [model, "--generator", "prior", "--samples", 16, "--effort", "fast", "-o", tmp_path / "o.onnx", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, words), option])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert bool(told["speed_trials"]) == (option == "--speed-trials")


def test_a_file_that_is_not_slower_after_all_stays(
    model: Path, clock: Callable[[dict[str, float]], None], tmp_path: Path
) -> None:
    clock({"float": 1.0, PRESENT: 1.0, WEIGHTS: 0.5})
    made = compile_model(model, tmp_path / "out.onnx", CONFIG)
    assert made.report.speed_trials and not any(one["chosen"] for one in made.report.speed_trials)


@pytest.mark.parametrize(
    ("speedup", "verdict", "tried"),
    [
        (0.50, "slower", True),
        (0.96, "slower", True),
        (0.98, "slower", True),
        (0.995, "slower", False),
        (0.96, "same", True),
        (0.98, "same", False),
        (1.50, "faster", False),
    ],
)
def test_other_forms_are_tried_below_the_speed_of_the_float_file(speedup: float, verdict: str, tried: bool) -> None:
    validation = SimpleNamespace(speed=SimpleNamespace(verdict=verdict), speedup=speedup)
    assert export._is_slower(validation) is tried  # type: ignore[arg-type]


def test_nothing_is_tried_where_nothing_was_timed() -> None:
    assert export._is_slower(SimpleNamespace(speed=None, speedup=None)) is False  # type: ignore[arg-type]


def test_forms_are_really_timed(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(export, "_is_slower", lambda validation: True)
    made = compile_model(model, tmp_path / "out.onnx", CONFIG)
    timed = [one for one in made.report.speed_trials if one["median_ms"] is not None]
    assert len(timed) == 4, "the file as it was, and the three fastest forms"
    others = [one["reason"] for one in made.report.speed_trials if one["median_ms"] is None]
    assert others and all(others), "and a reason for each of the rest"
