"""Distillation on samples that are made meanwhile, from a float file to a quantized one and its report."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import models
from zsq_compile import CompileConfig, DistillConfig, QuantizationConfig, compile_model
from zsq_compile.cli import entry as cli
from zsq_compile.cli.overrides import build_config
from zsq_compile.config.compile import GeneratorConfig
from zsq_compile.config.conditional_generators import AdadfqConfig, GdfqConfig, ZsCganConfig
from zsq_compile.config.distillation import Adversary
from zsq_compile.config.generators import PixelsConfig
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Silent

SMALL: dict[str, int] = {"iterations": 4, "batch_size": 16}
FIGURES = {"diversity", "class_diversity", "novelty", "discrepancy", "generator_loss"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    return path


def settings(generator: GeneratorConfig, **distill: Any) -> CompileConfig:
    return CompileConfig(
        generator=generator,
        samples=32,
        effort="fast",
        speed_trials=False,
        quantization=QuantizationConfig(bits=3, edge_bits=3),
        distill=DistillConfig(**{"steps": 6, "learning_rate": 0.02, **distill}),
    )


def told(path: Path, config: CompileConfig) -> dict[str, Any]:
    report = compile_model(path, config=config).report
    assert report.validation.failures == ()
    return dict(json.loads(json.dumps(report.to_json(), allow_nan=False)))


@pytest.mark.parametrize(
    ("generator", "adversary"),
    [
        (ZsCganConfig(**SMALL), None),
        (ZsCganConfig(**SMALL), "margin"),
        (GdfqConfig(**SMALL), "gaussian"),
        (AdadfqConfig(**SMALL), None),
    ],
)
def test_the_report_has_the_curve_of_what_was_made(
    generator: GeneratorConfig, adversary: Adversary | None, model: Path
) -> None:
    found = told(model, settings(generator, adversary=adversary, live_ratio=1))
    first, *rest = found["distillation"]["curve"]
    assert first["live"] is None
    assert [point["step"] for point in rest] == [1, 2, 3, 4, 5, 6]
    # two classes of 16 samples have pairs, and there are two batches to be compared from the second on
    assert [set(point["live"]) for point in rest] == [FIGURES - {"novelty"}, *[FIGURES] * 5]
    assert all(point["live"]["diversity"] > 0 for point in rest)


def test_what_is_made_meanwhile_matters_and_the_fixed_set_can_do_alone(model: Path) -> None:
    generator = GdfqConfig(**SMALL)
    files = {}
    for name, options in {
        "fixed": {"live": False},
        "live": {},
        "all live": {"live_share": 1.0},
        "margin": {"adversary": "margin", "adversary_weight": 50.0},
    }.items():
        found = told(model, settings(generator, live_ratio=1, **options))
        losses = [point["loss"] for point in found["distillation"]["curve"]]
        files[name] = losses[-1]
        assert all((point["live"] is None) == (name == "fixed") for point in found["distillation"]["curve"][1:3])
    assert len(set(files.values())) == 4


class Listening(Silent):
    """Remembers the notes."""

    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_filter_of_finished_images_leaves_live_samples_out_and_says_so(model: Path) -> None:
    for low_pass in (None, 0.36):
        listening = Listening()
        config = replace(settings(GdfqConfig(**SMALL)), low_pass=low_pass)
        report = compile_model(model, config=config, progress=listening).report
        assert report.distillation is not None
        live = [point["live"] for point in report.distillation["curve"]]
        assert all(point is None for point in live) == (low_pass is not None)
        for notes in (listening.notes, report.notes):
            assert sum("no samples are made meanwhile" in note for note in notes) == (low_pass is not None)


class Interrupting(Silent):
    """Presses Ctrl-C while the third step of distillation is told."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        steps = list[int]()

        def advance(done: int) -> None:
            steps.append(done)
            if name == "distill" and len(steps) == 3:
                signal.raise_signal(signal.SIGINT)

        yield advance


@pytest.mark.parametrize(("generator", "adversary"), [(GdfqConfig(**SMALL), "margin"), (AdadfqConfig(**SMALL), None)])
def test_an_interrupted_training_ends_in_the_same_bytes(
    generator: GeneratorConfig, adversary: Adversary | None, model: Path, tmp_path: Path
) -> None:
    config = settings(generator, adversary=adversary, mixup=True)
    assert config.distill is not None
    whole = compile_model(model, tmp_path / "whole.onnx", config)
    kept = replace(config, distill=replace(config.distill, checkpoint=str(tmp_path / "state.pt")))
    with pytest.raises(KeyboardInterrupt):
        compile_model(model, tmp_path / "part.onnx", kept, progress=Interrupting())
    continued = compile_model(model, tmp_path / "part.onnx", kept)
    assert continued.path.read_bytes() == whole.path.read_bytes()
    curves = [made.report.to_json()["distillation"]["curve"] for made in (continued, whole)]
    assert curves[0] == curves[1]
    others = settings(generator, adversary="gaussian", mixup=True, checkpoint=str(tmp_path / "state.pt"))
    with pytest.raises(ConfigError, match="another model or other settings"):
        compile_model(model, tmp_path / "part.onnx", others)


def test_a_model_that_insists_on_a_batch_is_learned_on_live_samples(tmp_path: Path) -> None:
    path, network = tmp_path / "fixed.onnx", models.residual()
    graph, [output] = network.graph, network.graph.output
    graph.initializer.append(onnx.numpy_helper.from_array(np.int64([0]), "batch"))
    graph.node.append(onnx.helper.make_node("ReduceMean", [output.name, "batch"], ["over_batch"]))
    graph.node.append(onnx.helper.make_node("Sub", [output.name, "over_batch"], ["centred"]))
    output.name = "centred"  # no sample goes by itself, so the batch cannot be opened
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(network, path)
    for generator in (GdfqConfig(**SMALL), AdadfqConfig(**SMALL)):
        found = told(path, settings(generator, adversary="margin", live_share=1.0))
        assert found["distillation"]["batch"] == 4
        points = [point["live"] for point in found["distillation"]["curve"]]  # four steps to one of the generator
        assert [point is None for point in points] == [True, False, True, True, True, False, True]


def test_the_switch_sets_the_margin() -> None:
    config = build_config({"generator": "gdfq", "distill": True, "adversarial_margin": True})
    assert config.distill == DistillConfig(adversary="margin")
    assert build_config({"generator": "gdfq", "distill": True}).distill == DistillConfig()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"generator": "gdfq"}, "--adversarial-margin .* give --distill as well"),
        ({"generator": "pixels", "distill": True}, "goes on learning .*: take --generator zs-cgan, gdfq or adadfq"),
        ({"distill": True}, "goes on learning .*: take --generator zs-cgan, gdfq or adadfq"),
        ({"generator": "gdfq", "distill": True, "low_pass": 0.3}, "low_pass filters finished images only"),
    ],
)
def test_a_margin_that_cannot_be_had_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config({**given, "adversarial_margin": True})


def test_a_file_may_leave_the_generator_to_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "zsq.toml"
    path.write_text('[distill]\nadversary = "margin"\n')
    assert build_config({"generator": "gdfq"}, path).distill == DistillConfig(adversary="margin")
    with pytest.raises(ConfigError, match="take --generator"):
        build_config({}, path)


def test_live_samples_that_no_generator_can_make_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="live wants a generator"):
        compile_model(tmp_path / "none.onnx", config=settings(PixelsConfig(), live=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"live_share": 0.0}, "distill.live_share must be a finite number above 0"),
        ({"live_share": 1.5}, "distill.live_share must be a finite number .* of at most 1"),
        ({"live_ratio": 0}, "distill.live_ratio must be a whole number of at least 1"),
        ({"adversary": "gan"}, "distill.adversary must be one of none, margin, gaussian, adadfq, got 'gan'"),
        ({"adversary": "margin", "live": False}, "leave one of them out"),
        ({"adversary_weight": -1.0}, "distill.adversary_weight must be a finite number of at least 0"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(PixelsConfig(), **options)


def test_a_margin_beside_samples_that_the_user_gives_is_refused(model: Path) -> None:
    samples = {"x": np.zeros((8, 3, 8, 8), np.float32)}
    config = settings(GdfqConfig(**SMALL), adversary="margin")
    with pytest.raises(ConfigError, match="leave --calib out"):
        compile_model(model, config=config, calibration=samples)
    told_nothing = settings(GdfqConfig(**SMALL))
    shapes = {value.name: value for value in onnx.load(model).graph.input}
    size = [dim.dim_value or 40 for dim in shapes["x"].type.tensor_type.shape.dim]
    noise = {"x": np.random.default_rng(0).standard_normal(size).astype(np.float32)}
    report = compile_model(model, config=told_nothing, calibration=noise).report
    assert report.distillation is not None
    assert all(point["live"] is None for point in report.distillation["curve"])


def test_images_can_be_made_against_a_network_of_few_bits(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for bits in (2, 8):
        path, config = tmp_path / f"{bits}.npz", tmp_path / "adadfq.toml"
        config.write_text('[generator]\nkind = "adadfq"\niterations = 4\nbatch_size = 16\n')
        words = ["synth", model, "--config", config, "--bits", bits, "--samples", 8, "-o", path, "--json", "-q"]
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        assert ended.value.code == 0
        assert json.loads(capsys.readouterr().out)["algorithm"] == "adadfq"
        made[bits] = np.load(path)["x"]
    assert made[2].shape == made[8].shape == (8, *made[2].shape[1:])
    assert not np.array_equal(made[2], made[8])
