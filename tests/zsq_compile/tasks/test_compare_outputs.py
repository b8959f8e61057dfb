import math

import numpy as np
import pytest

from zsq_compile.tasks.compare_outputs import compare_outputs, join_qualities
from zsq_compile.tasks.task import BoxHead, Columns, OutputMeaning, Task, TaskQuality
from zsq_compile.tasks.texts import edit_distance, read_texts

RNG = np.random.default_rng(0)


def _task(kind, role, *, axis=None, scores=None, **settings):
    meaning = OutputMeaning(name="y", role=role, reason="", axis=axis, scores=scores)
    return Task(kind=kind, reason="", outputs=(meaning,), **settings)


def _detector(count=2):
    """Return a detector of (N, places, 4 + classes) in corners, and two boxes that it sees in each sample."""
    head = BoxHead(
        boxes=Columns(output="y", axis=2, start=0, stop=4),
        form="corners",
        scores=(Columns(output="y", axis=2, start=4, stop=7),),
        logits=(False,),
        exclusive=(False,),
    )
    rows = np.zeros((count, 50, 7), np.float32)
    rows[:, :, :4] = np.float32([0, 0, 100, 100])
    rows[:, 10] = np.float32([10, 10, 30, 30, 0.1, 0.9, 0.0])
    rows[:, 11] = np.float32([10, 10, 30, 31, 0.1, 0.8, 0.0])  # the same object
    rows[:, 20] = np.float32([50, 50, 90, 90, 0.7, 0.2, 0.0])
    return Task(kind="detection", reason="", heads=(head,)), rows


CASES = {
    "classification": (_task("classification", "class scores", axis=1, scores="logits"), RNG.normal(size=(6, 5))),
    "segmentation": (_task("segmentation", "mask", axis=1, scores="logits"), RNG.normal(size=(3, 4, 6, 6))),
    "mask": (_task("segmentation", "mask", scores="probabilities"), RNG.random((3, 1, 6, 6))),
    "heatmaps": (_task("heatmaps", "heatmap", axis=1), RNG.normal(size=(3, 4, 8, 8))),
    "text": (_task("text", "characters", axis=2, scores="logits", blank=0), RNG.normal(0, 3, (4, 9, 7))),
    "decisions": (_task("decisions", "probabilities", scores="probabilities"), RNG.random((30, 1))),
    "embedding": (_task("embedding", "embedding", axis=1), RNG.normal(size=(5, 16))),
    "regression": (_task("regression", "landmarks", axis=1), RNG.normal(size=(9, 10))),
    "image": (_task("image", "image", axis=1), RNG.random((3, 3, 8, 8))),
    "detection": _detector(),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_outputs_keep_all_and_noise_harms_the_more_the_larger_it_is(name):
    task, rows = CASES[name]
    rng = np.random.default_rng(1)
    noise = rng.normal(size=rows.shape) * rows.std()
    found = [compare_outputs(task, {"y": rows}, {"y": rows + size * noise}) for size in (0.0, 0.01, 0.1, 0.5)]
    harms = [one.harm for one in found]
    assert found[0].kept == pytest.approx(1.0)
    assert harms[0] == pytest.approx(0.0, abs=1e-9)
    assert harms == sorted(harms) and len(set(harms)) == 4
    assert found[3].kept < 1.0


@pytest.mark.parametrize("name", CASES)
def test_quality_of_parts_is_that_of_the_whole(name):
    task, rows = CASES[name]
    if name in ("embedding", "regression", "image"):
        pytest.skip("spreads are those of the samples at hand")
    other = rows + 0.3 * rows.std() * np.random.default_rng(2).normal(size=rows.shape)
    whole = compare_outputs(task, {"y": rows}, {"y": other})
    parts = [compare_outputs(task, {"y": rows[k : k + 1]}, {"y": other[k : k + 1]}) for k in range(len(rows))]
    joined = join_qualities(parts)
    assert joined.kept == pytest.approx(whole.kept)
    assert joined.count == whole.count
    assert set(joined.details) == set(whole.details)
    if name not in ("detection", "mask", "text", "decisions", "heatmaps"):  # weighted by how strongly samples answer
        assert joined.harm == pytest.approx(whole.harm)


def test_a_join_of_nothing_is_nothing():
    assert join_qualities([]) is None


def test_a_join_weighs_what_was_kept_by_how_much_there_was():
    parts = [
        TaskQuality(measure="m", kept=1.0, count=3, harm=0.0, details={"error": 1.0}),
        TaskQuality(measure="m", kept=0.0, count=1, harm=4.0, details={"error": 5.0}),
        TaskQuality(measure="m", kept=None, count=0, harm=0.0),
    ]
    joined = join_qualities(parts)
    assert (joined.kept, joined.count, joined.details["error"]) == (0.75, 4, 2.0)


def test_boxes_are_lost_found_and_extra():
    task, rows = _detector()
    other = rows.copy()
    other[0, 10:12, 4:] = 0.0  # lost
    other[0, 40] = np.float32([60, 5, 80, 20, 0.0, 0.0, 0.9])  # extra
    other[1, 20, 4] = 0.45  # less sure, but above 0.8 of the threshold
    other[1, 10:12, 2] += 3.0  # IoU 20 / 23
    quality = compare_outputs(task, {"y": rows}, {"y": other})
    assert quality.count == 4
    assert quality.details["found again"] == pytest.approx(2 / 4)
    assert quality.details["IoU above 0.5"] == pytest.approx(3 / 4)
    assert quality.details["extra boxes"] == pytest.approx(1 / 4)
    assert quality.kept == pytest.approx(2 / 4.5)


def test_a_detector_that_finds_nothing_is_still_harmed_where_it_answers_most():
    task, rows = _detector()
    rows[..., 4:] *= 0.1
    silent = compare_outputs(task, {"y": rows}, {"y": rows})
    assert (silent.kept, silent.count, silent.harm) == (None, 0, pytest.approx(0.0))
    strong, weak = rows.copy(), rows.copy()
    strong[:, 10, :4] += 2.0
    weak[:, 45, :4] += 2.0
    harms = [compare_outputs(task, {"y": rows}, {"y": other}).harm for other in (strong, weak)]
    assert harms[0] > 0.0 and harms[0] > 100 * harms[1]


def test_boxes_of_unknown_form_are_compared_at_their_places():
    task, rows = _detector()
    rows[:, :, :4] = np.random.default_rng(3).normal(size=(2, 50, 4))
    head = task.heads[0]
    task = Task(
        kind="detection",
        reason="",
        heads=(BoxHead(boxes=head.boxes, form="numbers", scores=head.scores, logits=(False,), exclusive=(False,)),),
    )
    near, far = rows.copy(), rows.copy()
    near[..., :4] += 0.01
    far[..., :4] += 1.0
    kept = [compare_outputs(task, {"y": rows}, {"y": other}).kept for other in (rows, near, far)]
    assert kept == [1.0, 1.0, 0.0]


def test_numbers_that_are_not_finite_harm_without_end():
    for task, rows in CASES.values():
        other = np.full_like(rows, np.nan)
        with np.errstate(invalid="ignore"):
            assert compare_outputs(task, {"y": rows}, {"y": other}).harm == math.inf


def test_texts_are_read_by_the_best_path():
    scores = np.eye(4)[[[0, 1, 1, 0, 1, 2, 2, 0]]]
    assert read_texts(scores, 0) == [(1, 1, 2)]
    assert read_texts(scores, None) == [(0, 1, 1, 0, 1, 2, 2, 0)]


def test_texts_with_characters_on_another_axis_are_the_same():
    task, rows = CASES["text"]
    turned = _task("text", "characters", axis=1, scores="logits", blank=0)
    other = rows + 1.0 * np.random.default_rng(4).normal(size=rows.shape)
    one = compare_outputs(task, {"y": rows}, {"y": other})
    swapped = compare_outputs(turned, {"y": rows.swapaxes(1, 2)}, {"y": other.swapaxes(1, 2)})
    assert (one.kept, one.details) == (swapped.kept, swapped.details)
    assert one.harm == pytest.approx(swapped.harm)


@pytest.mark.parametrize(
    "wanted, got, edits", [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("a", "a", 0)]
)
def test_edit_distance(wanted, got, edits):
    assert edit_distance(wanted, got) == edits


def test_masks_of_two_classes_are_judged_without_the_background():
    task = _task("segmentation", "mask", axis=1, scores="logits")
    wanted = np.zeros((1, 2, 4, 4))
    wanted[0, 1, :2] = 1.0
    wanted[0, 0, 2:] = 1.0
    got = wanted.copy()
    got[0, :, 1] = got[0, ::-1, 1]
    assert compare_outputs(task, {"y": wanted}, {"y": got}).kept == pytest.approx(0.5)


def test_many_boxes_are_compared_in_little_memory_and_time():
    head = BoxHead(
        boxes=Columns(output="y", axis=1, start=0, stop=4),
        form="center and size",
        scores=(Columns(output="y", axis=1, start=4, stop=84),),
        logits=(False,),
        exclusive=(False,),
    )
    rng = np.random.default_rng(5)
    rows = rng.random((2, 84, 8400), np.float32)
    rows[:, 4:] **= 400
    quality = compare_outputs(Task(kind="detection", reason="", heads=(head,)), {"y": rows}, {"y": rows})
    assert quality.kept == pytest.approx(1.0)


def test_errors_of_states_harm_though_the_answers_of_this_step_are_the_same():
    answer, state = (
        OutputMeaning(name=name, role=role, reason="") for name, role in (("y", "probabilities"), ("h", "state"))
    )
    task = Task(kind="decisions", reason="", outputs=(answer, state))
    wanted = {"y": RNG.random((4, 1)), "h": RNG.normal(size=(4, 8))}
    quality = compare_outputs(task, wanted, {**wanted, "h": 1.1 * wanted["h"]})
    assert (quality.kept, quality.harm) == (1.0, pytest.approx(0.1))


def test_decisions_that_are_never_near_are_harmed_where_they_come_nearest():
    task, _ = CASES["decisions"]
    rows = np.array([[1e-6], [1e-9]])
    strong, weak = (compare_outputs(task, {"y": rows}, {"y": rows * factor}) for factor in ([[2], [1]], [[1], [2]]))
    assert strong.kept is None
    assert strong.harm > 10 * weak.harm


def _end_to_end():
    """Return a detector of rows with corners, score and number of the class, and rows of one sample."""
    head = BoxHead(
        boxes=Columns(output="y", axis=2, start=0, stop=4),
        form="corners",
        scores=(Columns(output="y", axis=2, start=4, stop=5),),
        logits=(False,),
        exclusive=(False,),
        labels=Columns(output="y", axis=2, start=5, stop=6),
    )
    rows = np.zeros((1, 30, 6), np.float32)
    rows[0, :3] = [[10, 10, 30, 30, 0.9, 2], [50, 50, 90, 90, 0.8, 2], [50, 50, 90, 90, 0.7, 5]]
    return Task(kind="detection", reason="", heads=(head,)), rows


def test_boxes_are_of_the_class_that_their_label_says():
    """Boxes of two labels do not suppress each other, and one whose label changes is lost, and another one extra."""
    task, rows = _end_to_end()
    other = rows.copy()
    other[0, 0, 5] = 3
    same, changed = compare_outputs(task, {"y": rows}, {"y": rows}), compare_outputs(task, {"y": rows}, {"y": other})
    assert (same.kept, same.count, same.harm) == (1.0, 3, 0.0)
    assert changed.kept == pytest.approx(2 / 3.5)
    assert changed.harm > 0.1


def test_order_of_a_sorted_list_does_no_harm():
    """Rows that change places with their boxes say the same."""
    task, rows = _end_to_end()
    turned = rows[:, [1, 2, 0, *range(3, 30)]]
    found = compare_outputs(task, {"y": rows}, {"y": turned})
    assert (found.kept, found.harm) == (1.0, 0.0)


def test_silent_and_empty_end_to_end_lists():
    """Nothing is wanted and nothing said: no harm; what only the other says is harm."""
    task, rows = _end_to_end()
    silent, empty = {"y": np.zeros_like(rows)}, {"y": rows[:, :0]}
    assert compare_outputs(task, silent, silent).harm == 0.0
    assert compare_outputs(task, empty, empty).harm == 0.0
    for other in (silent, empty):
        lost = compare_outputs(task, {"y": rows}, other)
        assert (lost.kept, lost.count) == (0.0, 3)
        assert lost.harm > 0.5
        assert compare_outputs(task, other, {"y": rows}).harm > 0.5
