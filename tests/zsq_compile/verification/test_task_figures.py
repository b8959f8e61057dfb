"""Oracle: outputs made by hand, of which it is known what is kept."""

import numpy as np
import pytest

from zsq_compile.tasks.compare_outputs import compare_outputs
from zsq_compile.tasks.task import BoxHead, Columns, OutputMeaning, Task
from zsq_compile.verification import task_figures
from zsq_compile.verification.task_figures import TaskFigures, judged_outputs, measure_task, missing_outputs


def a_task(kind="classification", role="class scores", **more):
    return Task(kind=kind, reason="r", outputs=(OutputMeaning(name="y", role=role, reason="r", axis=1, **more),))


DETECTOR = Task(
    kind="detection",
    reason="r",
    outputs=(
        OutputMeaning(name="boxes", role="boxes", reason="r", axis=2),
        OutputMeaning(name="scores", role="scores", reason="r", axis=2),
    ),
    heads=(
        BoxHead(
            boxes=Columns(output="boxes", axis=2, start=0, stop=4),
            form="corners",
            scores=(Columns(output="scores", axis=2, start=0, stop=1),),
            logits=(False,),
            exclusive=(False,),
        ),
    ),
)


def rows(kept, count=40, classes=5):
    wanted = np.eye(classes, dtype=np.float32)[np.arange(count) % classes] * 4.0
    got = np.where(np.arange(count)[:, None] < kept, wanted, np.roll(wanted, 1, axis=1))
    return {"y": wanted}, {"y": got}


def found_boxes(samples=4):
    """One box in each sample, far from the others; the second list has lost those of the odd samples."""
    boxes = np.tile(np.float32([[10, 10, 20, 20], [40, 40, 60, 60]]), (samples, 1, 1))
    scores = np.tile(np.float32([[0.9], [0.1]]), (samples, 1, 1))
    lost = scores.copy()
    lost[1::2, 0] = 0.0
    return {"boxes": boxes, "scores": scores}, {"boxes": boxes, "scores": lost}


def test_classes_are_counted_by_population_and_the_worst_is_told():
    wanted, got = rows(kept=30)
    figures = measure_task(a_task(), wanted, got, np.arange(40) // 20)
    assert figures.share == pytest.approx(0.75)
    assert [part.kept for part in figures.populations] == pytest.approx([1.0, 0.5])
    assert (figures.worst_share, figures.silence) == (pytest.approx(0.5), None)
    assert measure_task(a_task(), wanted, got, None).worst_share is None


def test_boxes_are_counted_and_a_detector_without_any_is_said_to_be_silent():
    figures = measure_task(DETECTOR, *found_boxes(), None)
    assert figures.quality is not None
    assert (figures.share, figures.quality.count) == (pytest.approx(0.5), 4)
    nothing = {name: np.zeros_like(array) for name, array in found_boxes()[0].items()}
    silent = measure_task(DETECTOR, nothing, nothing, np.arange(4) // 2)
    assert (silent.share, silent.worst) == (None, None)
    assert silent.silence is not None
    assert "finds nothing" in silent.silence


@pytest.mark.parametrize(
    ("kind", "role", "measured"),
    [("embedding", "embedding", False), ("regression", "numbers", False), ("text", "characters", True)],
)
def test_only_shares_of_answers_are_shares(kind, role, measured):
    wanted = {"y": np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)}
    figures = measure_task(a_task(kind, role), wanted, wanted, None)
    assert figures.quality is not None
    assert figures.quality.kept == pytest.approx(1.0)
    assert (figures.share is not None) == measured


def test_outputs_whose_size_depends_on_the_data_cannot_be_counted():
    wanted, got = found_boxes()
    del wanted["scores"]
    figures = measure_task(DETECTOR, wanted, got, None)
    assert (figures.quality, figures.share) == (None, None)
    assert figures.silence is not None
    assert "'scores' depends on the data" in figures.silence
    assert (judged_outputs(DETECTOR), missing_outputs(DETECTOR, wanted)) == (("boxes", "scores"), ("scores",))


@pytest.mark.parametrize("size", [1, 100])
def test_parts_give_what_the_whole_gives(monkeypatch, size):
    monkeypatch.setattr(task_figures, "_PART_BYTES", size)
    figures = measure_task(a_task(), *rows(kept=30), None)
    whole = compare_outputs(a_task(), *rows(kept=30))
    assert figures.quality is not None
    assert (figures.quality.kept, figures.quality.count) == (pytest.approx(whole.kept), whole.count)
    assert figures.quality.harm == pytest.approx(whole.harm)


def test_samples_of_several_rows_stay_together(monkeypatch):
    monkeypatch.setattr(task_figures, "_PART_BYTES", 1)
    task = a_task("text", "characters", entries=8)
    wanted, got = rows(kept=39, count=40, classes=8)  # five texts of eight steps, the last with one wrong
    figures = measure_task(task, wanted, got, np.int64([0, 0, 0, 0, 1]))
    whole = compare_outputs(task, wanted, got)
    assert figures.quality is not None
    assert (figures.quality.kept, figures.quality.count) == (whole.kept, whole.count)
    assert [part.count for part in figures.populations] == [4, 1]


def test_figures_of_nothing_have_no_worst():
    assert TaskFigures(kind="detection", reason="r", obstacle="o").worst is None
