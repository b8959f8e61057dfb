"""A folded model with a file beside it must be worked on as the model that kept its BatchNormalization."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.batchnorm.match_checkpoint import match_checkpoint
from passes.quantize.prepare_float import prepare_float
from tests import models
from tests.zsq_compile.synthesis.networks import Listener, seeded, trained_on
from zsq_compile.batchnorm.checkpoint import read_checkpoint
from zsq_compile.batchnorm.find_statistics import KnownStatistics, find_statistics
from zsq_compile.batchnorm.harvest import harvest_statistics
from zsq_compile.compiler import compile_model
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, UnsupportedModelError
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.quantization.bias.moment_propagation import propagate_moments
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import wasserstein
from zsq_compile.synthesis.preprocessing.find import infer_on_images
from zsq_compile.synthesis.probe import layer_targets, measure_moments


@dataclass(frozen=True)
class Files:
    """The same network with its BatchNormalization and without, and what tells of it."""

    whole: Path
    bare: Path
    checkpoint: Path
    stats: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    proto = trained_on(2.0 * prior_images(64, 3, 20, 20, seeded(99)).numpy() - 1.0)
    made = Files(tmp_path / "whole.onnx", tmp_path / "bare.onnx", tmp_path / "net.pt", tmp_path / "stats.npz")
    onnx.save(proto, made.whole)
    bare = ir.from_proto(proto)
    FoldBatchNorm().call(bare)
    onnx.save(ir.to_proto(bare), made.bare)
    tensors = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in proto.graph.initializer}
    torch.save({"epoch": 1, "model": {f"module.{name}": one for name, one in tensors.items()}}, made.checkpoint)
    harvest_statistics(made.whole, made.stats, Listener())
    return made


def known_statistics(loaded: LoadedModel, config: CompileConfig, listener: Listener) -> KnownStatistics:
    return find_statistics(loaded, checkpoint=config.checkpoint, bn_stats=config.bn_stats, progress=listener)


def both(files: Files) -> list[CompileConfig]:
    return [CompileConfig(checkpoint=str(files.checkpoint)), CompileConfig(bn_stats=str(files.stats))]


def test_the_source_and_every_match_are_told(files):
    bare, listener = load_model(files.bare), Listener()
    known = known_statistics(bare, both(files)[0], listener)
    assert known.source == "2 BatchNormalizations from checkpoint net.pt"
    assert f"statistics: {known.source}" in listener.notes
    assert [line.split(":")[0] for line in known.matched] == ["conv0", "conv1"]
    assert "'model.module.w1'" in known.matched[1]
    assert known.unmatched == (
        "gemm (Gemm): its weight is 'model.module.w2' as it was saved: no BatchNormalization was behind it",
    )
    assert [line.split(" ")[0] for line in listener.details] == ["matched", "matched", "not"]
    assert known.statistics.coverage() == "BN found behind 2 of 2 convolutions"
    assert known_statistics(bare, both(files)[1], Listener()).source == "2 BatchNormalizations from stats.npz"
    assert known_statistics(bare, CompileConfig(), Listener()).source.startswith("none")
    whole = known_statistics(load_model(files.whole), CompileConfig(), Listener())
    assert whole.source == "2 BatchNormalizations from BN nodes"
    assert (known.origin, whole.origin) == ("from checkpoint net.pt", "from BN nodes")
    assert known_statistics(bare, CompileConfig(), Listener()).origin == "without statistics"


def test_the_input_preprocessing_is_inferred_as_with_the_nodes(files):
    found = []
    for loaded, config in (
        (load_model(files.whole), CompileConfig()),
        *((load_model(files.bare), config) for config in both(files)),
    ):
        known = known_statistics(loaded, config, Listener())
        preprocessing = infer_on_images(TorchGraph(loaded.model), known.statistics, loaded.inputs[0], seeded())
        assert (preprocessing.name, preprocessing.source) == ("symmetric", "inferred")
        found.append(preprocessing.margin)
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-3)


def test_distances_and_moments_are_those_of_the_nodes(files):
    pictures = {"x": 0.7 * prior_images(24, 3, 20, 20, seeded(1))}
    whole = load_model(files.whole)
    wanted = known_statistics(whole, CompileConfig(), Listener()).statistics
    for config in both(files):
        bare = load_model(files.bare)
        statistics = known_statistics(bare, config, Listener()).statistics
        distances, moments = [], []
        for loaded, known in ((whole, wanted), (bare, statistics)):
            graph = TorchGraph(loaded.model)
            measured = measure_moments(graph, known.usable, pictures, 24)
            targets = layer_targets(known.usable, graph.device)
            distances.append(torch.cat([wasserstein(*pair) for pair in zip(measured, targets, strict=True)]))
            model = prepare_float(loaded.model, known, False)
            moments.append(propagate_moments(model, known, TorchGraph(model).initializers))
        assert distances[0].max() > 0.02
        torch.testing.assert_close(distances[1], distances[0], rtol=1e-3, atol=1e-5)
        assert len(moments[0]) == len(moments[1]) >= 6
        for one, other in zip(moments[0].values(), moments[1].values(), strict=True):
            torch.testing.assert_close(one.mean, other.mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(one.variance, other.variance, rtol=1e-5, atol=1e-6)


def compiled(path: Path, config: CompileConfig) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Initializers of the compiled file by shape and order, and the report."""
    result = compile_model(path, path.with_suffix(".int8.onnx"), config)
    return (
        [onnx.numpy_helper.to_array(one) for one in onnx.load(result.path).graph.initializer],
        result.report.to_json(),
    )


@pytest.mark.parametrize("equalize", [False, True])
def test_a_compilation_uses_them_and_reports_them(files, equalize):
    """From the pixels through equalisation and the analytic bias correction to the report."""
    config = CompileConfig(
        checkpoint=str(files.checkpoint),
        samples=8,
        effort="fast",
        speed_trials=False,
        quantization=QuantizationConfig(bits=4, equalize=equalize),
    )
    _, report = compiled(files.bare, config)
    assert report["statistics"]["source"] == "2 BatchNormalizations from checkpoint net.pt"
    assert len(report["statistics"]["matched"]) == 2 and len(report["statistics"]["unmatched"]) == 1
    assert report["data"].startswith("8 synthetic samples (pixels)")
    assert (report["contract"]["name"], report["contract"]["inferred"]) == ("symmetric", True)
    assert report["settings"]["checkpoint"] == str(files.checkpoint)


def test_another_checkpoint_is_refused_in_words(files, tmp_path):
    other = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in models.residual().graph.initializer}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"checkpoint other\.pt .*none of its 3 layers"):
        known_statistics(load_model(files.bare), CompileConfig(checkpoint=str(tmp_path / "other.pt")), Listener())


def test_statistics_of_another_network_are_refused_in_words(files, tmp_path):
    onnx.save(models.residual(), tmp_path / "other.onnx")
    made = harvest_statistics(tmp_path / "other.onnx", tmp_path / "other.npz", Listener())
    assert len(made) == 3
    with pytest.raises(ConfigError, match=r"other\.npz .*none of its 3 layers"):
        known_statistics(load_model(files.bare), CompileConfig(bn_stats=str(tmp_path / "other.npz")), Listener())


def test_a_model_that_keeps_everything_needs_no_file(tmp_path):
    path, listener = tmp_path / "net.onnx", Listener()
    onnx.save(models.conv_bn_relu(), path)
    known = known_statistics(load_model(path), CompileConfig(checkpoint="absent.pt"), listener)
    assert known.source == "1 BatchNormalization from BN nodes"
    assert any("absent.pt" in text for text in listener.warnings)


def test_a_folded_model_cannot_be_harvested(files, tmp_path):
    with pytest.raises(UnsupportedModelError, match="holds no BatchNormalization"):
        harvest_statistics(files.bare, tmp_path / "none.npz", Listener())
    assert not (tmp_path / "none.npz").exists()


def test_two_files_for_the_same_are_refused():
    with pytest.raises(ConfigError, match=r"--checkpoint .*--bn-stats .* exclusive"):
        CompileConfig(checkpoint="a.pt", bn_stats="b.npz")


ASSETS = Path(os.environ.get("ZSQ_ASSETS", Path(__file__).resolve().parents[3] / "../shared/assets"))
CIFAR = ASSETS / "models/cifar10"


def _loaded(name: str) -> LoadedModel:
    return load_model(CIFAR / f"{name}.onnx")


@pytest.mark.skipif(not (CIFAR / "resnet20-12fca82f.th").is_file(), reason="the real models of ZSQ_ASSETS are not here")
def test_all_of_a_published_checkpoint_is_found():
    recovered = match_checkpoint(_loaded("resnet20_folded").model, read_checkpoint(CIFAR / "resnet20-12fca82f.th"))
    wanted = harvest_batchnorm(_loaded("resnet20_bn").model).entries
    assert len(recovered.found) == len(wanted) == 19
    for one, entry in zip(recovered.found, wanted, strict=True):
        for name in ("scale", "shift", "mean", "variance"):
            np.testing.assert_allclose(getattr(one.former, name), getattr(entry, name), rtol=0, atol=1e-4)
