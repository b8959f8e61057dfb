"""Samples that a classifier is sure of: they stretch ranges, and they find files whose ranges end too early."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from backends.session import open_session
from tests.zsq_compile.synthesis.networks import seeded, trained_on
from zsq_compile import CompileConfig
from zsq_compile.comparison.confident_samples import ConfidentSamples
from zsq_compile.comparison.measure import Judge, measure_rows
from zsq_compile.comparison.result import ComparedModel
from zsq_compile.data.dataset import Dataset
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Silent
from zsq_compile.stages.estimate_agreement import make_estimate_inputs
from zsq_compile.synthesis.images.dead_leaves import prior_images

UNIT = Preprocessing(name="given", mean=(0.0,) * 3, std=(1.0,) * 3, channel_order="rgb", source="given")
PICTURES = prior_images(48, 3, 16, 16, seeded(7)).numpy()


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    """A network whose scores differ more from picture to picture than from class to class, as classifiers' do."""
    network = trained_on(PICTURES)
    means = open_session(network).run({"x": PICTURES})["logits"].mean(0)
    for tensor in network.graph.initializer:
        if tensor.name in ("w2", "b2"):
            values = onnx.numpy_helper.to_array(tensor) - (means if tensor.name == "b2" else 0.0)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(20.0 * values), tensor.name))
    onnx.save(network, tmp_path / "net.onnx")
    return load_model(tmp_path / "net.onnx")


def sure_of(loaded: LoadedModel, **settings: float) -> ConfidentSamples:
    return ConfidentSamples(
        loaded=loaded, posteriors={"x": Posterior.certain(UNIT)}, config=CompileConfig(**settings), progress=Silent()
    )


def logits(model: Path, samples: np.ndarray) -> np.ndarray:
    return open_session(model).run({"x": samples})["logits"]


def margins(scores: np.ndarray) -> np.ndarray:
    ordered = np.sort(scores, 1)
    return ordered[:, -1] - ordered[:, -2]


def test_an_eighth_of_the_samples_become_surer_and_the_rest_stays(loaded: LoadedModel) -> None:
    moved = sure_of(loaded).add_to({"x": PICTURES})["x"]
    kept = {picture.tobytes() for picture in PICTURES}
    surer = np.stack([picture for picture in moved if picture.tobytes() not in kept])
    assert len(surer) == len(PICTURES) // 8
    places = [np.abs(PICTURES - picture).mean((1, 2, 3)).argmin() for picture in surer]
    assert len(set(places)) == len(surer), "each is a picture moved a little"
    before, after = (logits(loaded.path, values) for values in (PICTURES[places], surer))
    assert np.array_equal(before.argmax(1), after.argmax(1))
    assert (margins(after) >= margins(before)).all() and margins(after).mean() > 1.2 * margins(before).mean()


def test_samples_of_which_some_are_sure_already_stay(loaded: LoadedModel) -> None:
    kept = sure_of(loaded, confident_share=0.5).add_to({"x": PICTURES})["x"]
    assert sorted(map(bytes, kept)) == sorted(map(bytes, PICTURES)), "the same, but for the place of the first"


def clipped(loaded: LoadedModel, path: Path, limit: float) -> Path:
    """The same network with its scores cut off at a limit, as a quantizer does whose range ends there."""
    model = onnx.load(loaded.path)
    model.graph.node[-1].output[0] = "whole"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1e6), "low"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(limit), "high"))
    model.graph.node.append(helper.make_node("Clip", ["whole", "low", "high"], ["logits"]))
    onnx.save(model, path)
    return path


def test_a_file_that_cuts_off_large_scores_gets_no_estimate(loaded: LoadedModel, tmp_path: Path) -> None:
    expected = sure_of(loaded).extend(make_estimate_inputs(loaded.inputs, {"x": Posterior.certain(UNIT)}))
    assert expected.high_confidence is not None and expected.families is not None
    low = np.max([logits(loaded.path, family["x"]).max() for family in expected.families.values()])
    high = np.sort(logits(loaded.path, expected.high_confidence["x"]), 1)[:, -2].min()
    files = {"whole": clipped(loaded, tmp_path / "whole.onnx", 1e6)}
    limit = min(float(np.quantile(logits(loaded.path, expected.families["prior"]["x"]), 0.3)), high)
    assert limit < low
    files["cut"] = clipped(loaded, tmp_path / "cut.onnx", limit)
    judge = Judge(
        loaded=loaded,
        file=loaded.path,
        data=Dataset(samples={"x": PICTURES}, labels=None, preparation=None),
        sample={"x": PICTURES},
        providers=("CPUExecutionProvider",),
        estimate_inputs=expected,
    )
    rows = [ComparedModel(kind="given", name=name, calibrated_on="unknown", path=path) for name, path in files.items()]
    _, whole, cut = (row.agreement_estimate for row in measure_rows(judge, rows, Silent()))
    assert whole is not None and (whole.high_confidence, whole.estimate, whole.reason) == (1.0, 1.0, None)
    assert cut is not None and cut.high_confidence is not None and cut.high_confidence < 1.0
    assert cut.estimate is None and "high-confidence" in str(cut.reason)
