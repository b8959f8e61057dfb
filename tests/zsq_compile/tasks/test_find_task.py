"""What is no detector is told by what ends it, and where nothing does, by the weights of its last layer."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.zsq_compile.tasks import heads, rows
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.compare_outputs import compare_outputs
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import OutputRole, TaskKind

_NETWORKS: dict[str, tuple[ir.Model, TaskKind, tuple[tuple[OutputRole, int | None, str | None], ...]]] = {
    "logits": (rows.classifier(10), "classification", (("class scores", 1, "logits"),)),
    "several classifiers": (rows.classifier(2, 9), "classification", (("class scores", 1, "logits"),) * 2),
    "softmax": (rows.classifier(10, squash="Softmax"), "classification", (("class scores", 1, "probabilities"),)),
    "averaged scores": (rows.pooled(scores=True), "classification", (("class scores", 1, "logits"),)),
    "labels that exclude nothing": (
        rows.classifier(12, squash="Sigmoid"),
        "decisions",
        (("probabilities", 1, "probabilities"),),
    ),
    "one probability": (rows.classifier(1, squash="Sigmoid"), "decisions", (("probabilities", 1, "probabilities"),)),
    "voice": (
        rows.listener(),
        "decisions",
        (("probabilities", 1, "probabilities"), ("state", None, None), ("state", None, None)),
    ),
    "landmarks": (rows.classifier(136, common=0.3), "regression", (("landmarks", 1, None),)),
    "one number": (rows.classifier(1), "regression", (("numbers", 1, None),)),
    "features": (rows.pooled(scores=False), "embedding", (("embedding", 1, None),)),
    "plain vectors": (rows.projector(), "embedding", (("embedding", 1, None),)),
    "sound in, sound out": (rows.denoiser(), "regression", (("numbers", 1, None),)),
    "unit vectors": (rows.normalised(), "embedding", (("embedding", 1, None),)),
    "class of each pixel": (rows.maps(21, enlarge=4), "segmentation", (("mask", 1, "logits"),)),
    "softmax of each pixel": (
        rows.maps(2, squash="Softmax", enlarge=4),
        "segmentation",
        (("mask", 1, "probabilities"),),
    ),
    "mask": (rows.maps(1, squash="Sigmoid", enlarge=4), "segmentation", (("mask", 1, "probabilities"),)),
    "number of each pixel's class": (rows.maps(5, squash="ArgMax", enlarge=4), "indices", (("indices", None, None),)),
    "heat maps": (rows.maps(17), "heatmaps", (("heatmap", 1, None),)),
    "depth": (rows.maps(1, enlarge=4), "regression", (("numbers", 1, None),)),
    "upscaled": (rows.upscaler(), "image", (("image", 1, None),)),
    "painted": (rows.painter(), "image", (("image", 1, None),)),
    "text": (rows.reader(), "text", (("characters", 2, "probabilities"),)),
    "text with time first": (rows.time_first(), "text", (("characters", 2, "probabilities"),)),
    "log text": (rows.reader(squash="LogSoftmax"), "text", (("characters", 2, "log probabilities"),)),
    "recurrent text": (rows.reader(squash=None, recurrent=True), "text", (("characters", 2, "logits"),)),
    "plain text": (rows.reader(squash=None), "text", (("characters", 2, "logits"),)),
    "classes of tokens": (rows.tagger(), "text", (("characters", 2, "logits"),)),
}


@pytest.mark.parametrize("name", _NETWORKS)
def test_kind_roles_and_axes(name: str) -> None:
    """Kind, roles, axes and scores are those that the graph was drawn with, and every reason says something."""
    model, kind, wanted = _NETWORKS[name]

    task = find_task(model)

    assert task.kind == kind
    assert tuple((one.role, one.axis, one.scores) for one in task.outputs) == wanted
    assert task.reason
    assert all(one.reason for one in task.outputs)
    assert not task.heads


def test_classes_and_regressions_differ_in_the_sum_of_their_weights() -> None:
    """The same graph is a classifier where weight rows cancel, and a regression where they have one direction."""
    kinds = [find_task(rows.classifier(20, common=common)).kind for common in (0.0, 0.3)]

    assert kinds == ["classification", "regression"]


def test_blank_is_the_class_that_rules_on_samples() -> None:
    """The last of 40 classes wins at nearly all steps; without samples it is the first, by custom."""
    scores = np.random.default_rng(0).random((2, 12, 40)).astype(np.float32)
    scores[..., 39] += 2.0

    assert find_task(rows.reader()).blank == 0
    assert find_task(rows.reader(), {"0": scores}).blank == 39


@pytest.mark.parametrize("asked", [None, "text"])
def test_texts_with_time_first_are_compared_sample_by_sample(asked: TaskKind | None) -> None:
    """Of (steps, samples, classes), and of runs of one sample behind each other, one text of four differs."""
    task = find_task(rows.time_first(), asked=asked)
    scores = np.zeros((4, 12, 40), np.float32)
    scores[np.arange(4)[:, None], np.arange(12), 1 + np.random.default_rng(0).permuted([np.arange(12)] * 4, axis=1)] = 1
    other = scores.copy()
    other[2, 5] = np.eye(40)[30]
    wholes = [{"0": array.transpose(1, 0, 2)} for array in (scores, other)]
    runs = [{"0": array.reshape(48, 1, 40)} for array in (scores, other)]

    for before, after in (wholes, runs):
        found = compare_outputs(task, before, after)
        assert (found.kept, found.count) == (0.75, 4)
        assert found.details["character error rate"] == pytest.approx(1 / 48)


def test_tokens_have_no_blank() -> None:
    """Classes of tokens are compared one by one."""
    assert find_task(rows.tagger(classes=30)).blank is None


def test_one_of_1600_places_is_no_class() -> None:
    """(N, 1600, 1) has one number for each place."""
    task = find_task(heads.fcos(lists=True, classes=1))

    assert task.kind == "detection"
    assert {one.axis for one in task.outputs} == {2}


def test_pixels_that_vary_alike_are_a_picture() -> None:
    """Three plain channels are classes; where they vary together on samples, colours."""
    model = rows.maps(3, enlarge=4)
    gray = np.random.default_rng(0).random((2, 1, 64, 96))
    noise = 0.1 * np.random.default_rng(1).random((2, 3, 64, 96))

    assert find_task(model).kind == "segmentation"
    assert find_task(model, {"0": (gray + noise).astype(np.float32)}).kind == "image"


@pytest.mark.parametrize("kind", ["classification", "regression", "embedding", "decisions"])
def test_the_user_has_the_last_word(kind: TaskKind) -> None:
    """A row of plain numbers can be any of these."""
    task = find_task(rows.classifier(10), asked=kind)

    assert (task.kind, task.asked) == (kind, True)


@pytest.mark.parametrize("kind", ["detection", "segmentation", "text", "indices", "image", "heatmaps"])
def test_what_no_output_can_be_is_refused(kind: TaskKind) -> None:
    """The message names the kind, and what the network has."""
    with pytest.raises(ConfigError, match=f"(?s){kind}.*0 1x10"):
        find_task(rows.classifier(10), asked=kind)
