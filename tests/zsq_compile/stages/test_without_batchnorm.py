"""Networks that never had batch normalisation: procedural data of the right kind must do."""

from pathlib import Path

import onnx
import torch

from backends.session import open_session
from tests.vision_transformer import SIDE, picture_classes, vision_transformer
from zsq_compile.compiler import compile_model
from zsq_compile.config.compile import CompileConfig, InputConfig
from zsq_compile.synthesis.images.dead_leaves import prior_images


def test_a_vision_transformer_compiles_at_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "vit.onnx"
    onnx.save(vision_transformer(), path)
    config = CompileConfig(input=InputConfig(mean=(0.45,), std=(0.225,)), samples=512, speed_trials=False)
    result = compile_model(path, config=config)
    validation = result.report.validation
    assert validation.agreement is not None and validation.agreement >= 0.97
    assert validation.sqnr_db > 30.0
    assert not result.report.statistics["matched"] and "none" in result.report.statistics["source"]
    pictures = prior_images(512, 3, SIDE, SIDE, torch.Generator().manual_seed(99))
    fed = {"x": ((pictures - 0.45) / 0.225).numpy()}
    wanted, got = (open_session(file, threads=1).run(fed)["logits"].argmax(1) for file in (path, result.path))
    assert (wanted == picture_classes(pictures).numpy()).mean() > 0.85  # it is a network that knows something
    assert (wanted == got).mean() >= 0.97
