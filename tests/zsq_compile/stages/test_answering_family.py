"""A detector by a matched filter says nothing to dead leaves, and says something to the family that is moved."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from tests import models
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.stages.answering_family import ANSWERING, AnsweringFamily, wants_answers
from zsq_compile.stages.estimate_agreement import estimate_agreement, make_estimate_inputs
from zsq_compile.tasks.task import OutputMeaning, Task

SIDE = 32
IMAGE = InputSpec(name="x", shape=(None, 3, SIDE, SIDE), dtype=np.dtype(np.float32), layout="NCHW")
POSTERIORS = {"x": Posterior.certain(given_preprocessing(3, input_range=(-1.0, 1.0)))}
TASK = Task(
    kind="decisions",
    reason="t",
    outputs=(OutputMeaning(name="found", role="probabilities", reason="t", scores="probabilities"),),
)


def detector(gain: float = 30.0, threshold: float = 0.8) -> onnx.ModelProto:
    """Sigmoid of how far the match with a red blob lies above a threshold; see test_answering.py."""
    rows, columns = np.mgrid[-3.5:4.0, -3.5:4.0]
    blob = np.exp(-(np.hypot(rows, columns) ** 2) / 8.0) * np.array([1.0, -1.0, -1.0])[:, None, None]
    text = f"""
        finder (float[N,3,{SIDE},{SIDE}] x) => (float[N,1,7,7] found)
        <float[1,3,8,8] blob, float[1] bias, float[1] gain>
        {{ match = Conv<strides=[4,4]>(x, blob, bias) logits = Mul(match, gain) found = Sigmoid(logits) }}
        """
    weights = {
        "blob": np.float32(blob / np.abs(blob).sum())[None],
        "bias": np.float32([-threshold]),
        "gain": np.float32([gain]),
    }
    return models.parse(text, weights=weights)


def test_only_the_moved_family_tells_what_is_kept(tmp_path: Path) -> None:
    network = detector()
    path = tmp_path / "less_sure.onnx"
    path.write_bytes(detector(gain=15.0).SerializeToString())  # every decision at 0.5 stays
    moved = AnsweringFamily(teacher=TorchGraph(ir.from_proto(network)), effort="best")
    inputs = make_estimate_inputs([IMAGE], POSTERIORS, task=TASK, answering=moved)
    assert inputs.families is not None
    assert set(inputs.families) > {ANSWERING} and len(inputs.families[ANSWERING]["x"]) == 16
    made = estimate_agreement(network, path, inputs, "t")
    found = {one.name: one for one in made.families}
    assert found["prior"].kept is None and found[ANSWERING].kept == 1.0
    assert made.estimate is not None and made.estimate > 0.9 and made.measure == "decisions"


def test_without_it_there_is_no_estimate_and_the_reason_is_said(tmp_path: Path) -> None:
    path = tmp_path / "same.onnx"
    network = detector(threshold=1.0)  # which no picture reaches
    path.write_bytes(network.SerializeToString())
    made = estimate_agreement(network, path, make_estimate_inputs([IMAGE], POSTERIORS, task=TASK), "t")
    assert made.estimate is None and made.reason is not None
    assert made.measure == "decisions"


def test_networks_that_say_something_to_every_input_need_none() -> None:
    assert wants_answers(TASK)
    assert not wants_answers(Task(kind="regression", reason="t"))
