import numpy as np
import pytest

from zsq_compile.tasks.average_precision import THRESHOLDS, AveragePrecision
from zsq_compile.tasks.labelled import class_names, class_numbers, make_meter, nearest
from zsq_compile.tasks.task import BoxHead, Columns, OutputMeaning, Task
from zsq_compile.tasks.truths import BoxTruth, TruthWords

NO_BOXES = np.zeros((0, 4))


def _truth(corners, classes, ignored=None):
    corners = np.asarray(corners, np.float64).reshape(-1, 4)
    ignored = np.zeros(len(corners), bool) if ignored is None else np.asarray(ignored, bool)
    return BoxTruth(corners=corners, classes=np.asarray(classes, np.int64), ignored=ignored)


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def _inside(one, other):
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _overlap(found, true, crowd):
    inside = _inside(found, true)
    return inside / (_area(found) if crowd else _area(found) + _area(true) - inside)


def _slow_precision(pictures, index, least):
    """Average precision of one class at one threshold, from its definition, box by box."""
    rows, total = [], 0
    for corners, scores, classes, truth in pictures:
        true = [(c, i) for c, k, i in zip(truth.corners, truth.classes, truth.ignored, strict=True) if k == index]
        true.sort(key=lambda one: one[1])
        total += sum(not ignored for _, ignored in true)
        own = sorted(
            ((s, c) for c, s, k in zip(corners, scores, classes, strict=True) if k == index), key=lambda one: -one[0]
        )
        taken = set()
        for score, box in own[:100]:
            best, chosen = min(least, 1 - 1e-10), None
            for number, (target, ignored) in enumerate(true):
                if number in taken and not ignored:
                    continue
                if chosen is not None and not true[chosen][1] and ignored:
                    break
                overlap = _overlap(box, target, ignored)
                if overlap < best:
                    continue
                best, chosen = overlap, number
            if chosen is not None:
                taken.add(chosen)
            if chosen is None or not true[chosen][1]:
                rows.append((score, chosen is not None))
    if not total:
        return None
    rows.sort(key=lambda one: -one[0])
    hits, curve = 0, []
    for count, (_, right) in enumerate(rows, start=1):
        hits += right
        curve.append((hits / total, hits / count))
    return sum(max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)) / 101


@pytest.mark.parametrize("seed", range(4))
def test_mean_average_precision_is_that_of_a_slow_reading_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    meter, pictures = AveragePrecision(), []
    for _ in range(6):
        low = rng.random((7, 2)) * 80
        truth = _truth(
            np.concatenate([low, low + 10 + 20 * rng.random((7, 2))], 1), rng.integers(0, 3, 7), rng.random(7) < 0.2
        )
        near = np.repeat(truth.corners, 3, axis=0) + rng.normal(0, 2.0, (21, 4))
        corners = np.concatenate([near, near[rng.permutation(21)] + 8.0])
        classes = np.where(rng.random(42) < 0.8, np.tile(np.repeat(truth.classes, 3), 2), rng.integers(0, 4, 42))
        pictures.append((corners, rng.permutation(42) / 42 + rng.random(), classes, truth))
        meter.add(*pictures[-1])
    expected = [
        np.mean([one for k in range(4) if (one := _slow_precision(pictures, k, least)) is not None])
        for least in THRESHOLDS
    ]
    assert 0.05 < expected[0] < 0.95
    np.testing.assert_allclose(meter.by_threshold(), expected, atol=1e-12)


def test_a_perfect_detector_has_an_average_precision_of_one_and_a_blind_one_of_zero():
    truth = _truth([[0, 0, 10, 10], [20, 20, 30, 40]], [0, 1])
    perfect, blind = AveragePrecision(), AveragePrecision()
    perfect.add(truth.corners, np.ones(2), truth.classes, truth)
    blind.add(NO_BOXES, np.zeros(0), np.zeros(0, np.int64), truth)
    np.testing.assert_allclose(perfect.by_threshold(), 1.0)
    np.testing.assert_allclose(blind.by_threshold(), 0.0)
    assert AveragePrecision().by_threshold() is None


@pytest.mark.parametrize("unit", [1.0, 1 / 200])
def test_boxes_of_a_detector_are_measured_in_pixels_also_where_they_are_shares(unit):
    head = BoxHead(
        boxes=Columns(output="y", axis=2, start=0, stop=4),
        form="corners",
        scores=(Columns(output="y", axis=2, start=4, stop=6),),
        logits=(False,),
        exclusive=(False,),
    )
    rows = np.zeros((1, 9, 6), np.float32)
    rows[0, :2] = [[10, 20, 110, 60, 0.9, 0.0], [50, 50, 90, 90, 0.0, 0.8]]
    rows[..., :4] *= unit
    task = Task(kind="detection", reason="", heads=(head,))
    meter = make_meter(task, "boxes", size=(200, 200), words=TruthWords(categories=(3, 7)))
    meter.add({"y": rows}, [_truth([[10, 20, 110, 60], [50, 50, 90, 90]], [3, 7])])
    figure = meter.figure()
    assert (figure.value, figure.count, figure.higher_is_better) == (pytest.approx(1.0), 1, True)
    assert figure.details["mAP at IoU 0.50"] == pytest.approx(1.0)


def test_categories_become_classes_of_the_network():
    classes = np.int64([2, 9])
    assert list(class_numbers(classes, (2, 5, 9), 3)) == [0, 2]
    assert list(class_numbers(classes, (2, 9), 20)) == [2, 9]
    assert list(class_numbers(classes, (1, 2, 9), 9)) == [1, 8]
    assert list(class_numbers(classes, None, 10)) == [2, 9]
    assert list(class_numbers(classes, (2, 5, 9), 1)) == [0, 0]
    with pytest.raises(ValueError, match="has 4"):
        class_numbers(classes, None, 4)


def _meaning(role, **settings):
    return (OutputMeaning(name="y", role=role, reason="", **settings),)


def test_masks_are_measured_by_class_over_all_pictures():
    task = Task(kind="segmentation", reason="", outputs=_meaning("mask", axis=1, scores="logits"))
    meter = make_meter(task, "masks")
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(2, 3, 4, 6)), rng.integers(-1, 3, (2, 8, 12))
    meter.add({"y": scores[:1]}, list(truth[:1]))
    meter.add({"y": scores[1:]}, list(truth[1:]))
    small, chosen = truth[:, 1::2, 1::2], scores.argmax(1)
    judged = small >= 0
    overlaps = []
    for index in range(3):
        one, other = (small == index) & judged, (chosen == index) & judged
        overlaps.append((one & other).sum() / (one | other).sum())
    assert meter.figure().value == pytest.approx(np.mean(overlaps))
    np.testing.assert_array_equal(nearest(truth[0], 4, 6), small[0])


def test_a_mask_above_a_threshold_is_measured_as_two_classes():
    task = Task(kind="segmentation", reason="", threshold=0.3, outputs=_meaning("mask", axis=1, scores="probabilities"))
    meter = make_meter(task, "masks")
    scores = np.float32([[[[0.4, 0.4], [0.1, 0.2]]]])
    meter.add({"y": scores}, [np.int64([[1, 0], [0, 0]])])
    assert meter.figure().value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert meter.figure().details["IoU of the foreground"] == pytest.approx(0.5)


def test_texts_are_measured_in_characters_and_words():
    task = Task(kind="text", reason="", blank=0, outputs=_meaning("characters", axis=2))
    meter = make_meter(task, "texts", words=TruthWords(characters=("a", "b", " ")))
    steps = [[1, 1, 0, 1, 3, 2, 0]]  # "aa b"
    meter.add({"y": np.eye(4)[steps]}, ["ab b"])
    figure = meter.figure()
    assert (figure.measure, figure.higher_is_better) == ("CER", False)
    assert figure.value == pytest.approx(1 / 4)
    assert figure.details == {"right texts": 0.0, "WER": pytest.approx(1 / 2)}


def test_texts_may_be_the_numbers_of_their_classes():
    task = Task(kind="text", reason="", blank=0, outputs=_meaning("characters", axis=2))
    meter = make_meter(task, "texts")
    meter.add({"y": np.eye(4)[[[1, 0, 2, 3]]]}, [(1, 2, 2)])
    assert meter.figure().value == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="characters"):
        meter.add({"y": np.eye(4)[[[1, 0, 2, 3]]]}, ["ab"])


def test_characters_are_counted_with_the_blank_and_a_space():
    assert class_names("ab", 3, 0) == ["", "a", "b"]
    assert class_names("ab", 4, 3) == ["a", "b", " ", ""]
    assert class_names("ab", 2, None) == ["a", "b"]
    with pytest.raises(ValueError, match="knows 5"):
        class_names("ab", 6, 0)


def test_decisions_are_right_or_wrong():
    task = Task(kind="decisions", reason="", threshold=0.6, outputs=_meaning("probabilities", scores="probabilities"))
    meter = make_meter(task, "classes")
    meter.add({"y": np.float32([[0.7], [0.5], [0.9], [0.1]])}, [1, 1, 0, 0])
    figure = meter.figure()
    assert figure.value == 0.5
    assert figure.details == {"recall": 0.5, "precision": 0.5}
    with pytest.raises(ValueError, match="0 and 1"):
        meter.add({"y": np.float32([[0.7]])}, [2])


def test_labels_that_say_nothing_of_a_task_have_no_meter():
    task = Task(kind="text", reason="", blank=0, outputs=_meaning("characters", axis=2))
    assert make_meter(task, "boxes", size=(4, 4)) is None
    assert make_meter(task, "masks") is None
