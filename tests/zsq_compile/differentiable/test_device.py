import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from tests import models
from zsq_compile import CompileConfig, DistillConfig, QuantizationConfig, compile_model
from zsq_compile.config.conditional_generators import GdfqConfig
from zsq_compile.differentiable.device import choose_device
from zsq_compile.errors import ConfigError

HAS_CUDA = torch.cuda.is_available()


def test_the_processor_can_always_be_had() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_a_cuda_device_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == name


@pytest.mark.parametrize(("built", "words"), [(None, "built without CUDA"), ("12.8", "finds none on this machine")])
def test_a_cuda_device_that_is_not_there_is_refused_in_words(
    built: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(ConfigError, match=f"--device cuda wants a CUDA device, .*{words}"):
        choose_device("cuda")


def test_only_devices_that_are_known_can_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="device must be one of auto, cpu, cuda, got 'tpu'"):
        CompileConfig(device="tpu")  # type: ignore[arg-type]


def test_a_compilation_refuses_it_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda wants"):
        compile_model(tmp_path / "none.onnx", config=CompileConfig(device="cuda"))


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_CUDA, reason="there is no CUDA device"))],
)
def test_all_that_is_learned_can_be_learned_there(device: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    config = CompileConfig(
        device=device,  # type: ignore[arg-type]
        generator=GdfqConfig(iterations=3, batch_size=16),
        samples=32,
        speed_trials=False,
        quantization=QuantizationConfig(bits=3, edge_bits=3, rounding="lsq"),
        distill=DistillConfig(steps=3, learning_rate=0.02, adversary="margin"),
    )
    report = compile_model(path, config=config).report
    assert report.validation.failures == ()
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["settings"]["device"] == device and told["distillation"]["steps"] == 3
    again = compile_model(path, tmp_path / "again.onnx", config=replace(config, device="auto"))
    if device == "cpu" and not HAS_CUDA:
        assert again.report.sha256 == report.sha256
