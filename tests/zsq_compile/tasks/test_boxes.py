import math

import numpy as np
import pytest

from zsq_compile.tasks.boxes import (
    Places,
    best_classes,
    best_scores,
    box_corners,
    box_groups,
    box_numbers,
    class_count,
    class_probabilities,
    place_count,
)
from zsq_compile.tasks.suppress import overlaps, pair_overlaps, suppress
from zsq_compile.tasks.task import BoxHead, Columns


def _columns(output, axis, start, stop):
    return Columns(output=output, axis=axis, start=start, stop=stop)


def _head(form, *, boxes=None, scores=None, **settings):
    return BoxHead(
        boxes=boxes or _columns("b", 2, 0, 4),
        form=form,
        scores=scores or (_columns("s", 2, 0, 1),),
        **{"logits": (False,), "exclusive": (False,), **settings},
    )


def _all(count):
    return Places(samples=np.zeros(count, np.int64), places=np.arange(count))


def _decode(head, outputs):
    where = _all(place_count(head, outputs))
    return box_corners(head, box_numbers(head, outputs, where), outputs, where)


@pytest.mark.parametrize(
    "form, numbers, stride, expected",
    [
        ("corners", [1, 2, 5, 8], None, [1, 2, 5, 8]),
        ("corners", [5, 8, 1, 2], None, [1, 2, 5, 8]),
        ("center and size", [4, 6, 2, 4], None, [3, 4, 5, 8]),
        ("distances", [1, 2, 3, 4], 8, [(2.5 - 1) * 8, (1.5 - 2) * 8, (2.5 + 3) * 8, (1.5 + 4) * 8]),
        ("offsets", [0.25, 0.5, math.log(2), math.log(3)], 4, [5, 0, 13, 12]),
    ],
)
def test_box_forms_are_decoded_in_their_grid(form, numbers, stride, expected):
    outputs = {"b": np.zeros((1, 12, 4), np.float32), "s": np.zeros((1, 12, 1), np.float32)}
    outputs["b"][0, 6] = numbers  # row 1, column 2 of a grid of 3 rows and 4 columns
    head = _head(form, height=3 if stride else 0, width=4 if stride else 0, stride=stride)
    assert _decode(head, outputs)[6] == pytest.approx(expected, abs=1e-5)


def test_bins_are_read_as_the_mean_of_their_softmax():
    outputs = {"b": np.full((1, 4 * 16, 2, 3), -30.0, np.float32), "s": np.zeros((1, 1, 2, 3), np.float32)}
    for side, distance in enumerate((1, 2, 3, 4)):
        outputs["b"][0, 16 * side + distance] = 0.0
        outputs["b"][0, 16 * side + distance + 1] = 0.0
    head = _head(
        "bins", boxes=_columns("b", 1, 0, 64), scores=(_columns("s", 1, 0, 1),), height=2, width=3, stride=10.0
    )
    assert _decode(head, outputs)[4] == pytest.approx([15 - 15, 15 - 25, 15 + 35, 15 + 45], abs=1e-4)


def test_maps_of_anchors_are_read_anchor_by_anchor_at_each_place():
    rng = np.random.default_rng(0)
    outputs = {"b": rng.random((2, 8, 2, 3)).astype(np.float32), "s": rng.random((2, 6, 2, 3)).astype(np.float32)}
    head = _head(
        "corners", boxes=_columns("b", 1, 0, 8), scores=(_columns("s", 1, 0, 6),), exclusive=(True,), nothing=0
    )
    assert place_count(head, outputs) == 12
    scores, classes = best_scores(head, outputs), best_classes(head, outputs, _all(12))
    rows = outputs["s"].transpose(0, 2, 3, 1).reshape(2, 12, 3)[:, :, 1:]
    np.testing.assert_array_equal(scores, rows.max(2))
    np.testing.assert_array_equal(classes, rows.argmax(2)[0])
    where = Places(samples=np.int64([1]), places=np.int64([7]))
    np.testing.assert_array_equal(
        box_numbers(head, outputs, where)[0], outputs["b"].transpose(0, 2, 3, 1).reshape(2, 12, 4)[1, 7]
    )


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("axis", [1, 2])
def test_best_scores_are_products_of_probabilities(exclusive, axis):
    rng = np.random.default_rng(1)
    classes, objects = rng.normal(0, 20, (2, 5, 4)), rng.normal(size=(2, 5, 1))
    shape = {1: (0, 2, 1), 2: (0, 1, 2)}[axis]
    outputs = {"b": np.zeros((2, 5, 4)), "c": classes.transpose(shape), "o": objects.transpose(shape)}
    head = _head(
        "corners",
        scores=(_columns("o", axis, 0, 1), _columns("c", axis, 0, 4)),
        logits=(True, True),
        exclusive=(False, exclusive),
        nothing=2 if exclusive else None,
    )
    odds = 1 / (1 + np.exp(-classes))
    if exclusive:
        powers = np.exp(classes - classes.max(2, keepdims=True))
        odds = np.delete(powers / powers.sum(2, keepdims=True), 2, axis=2)
    expected = odds / (1 + np.exp(-objects))
    scores = best_scores(head, outputs)
    np.testing.assert_allclose(scores, expected.max(2), rtol=1e-5, atol=1e-12)
    where = Places(samples=np.int64([0, 1, 1]), places=np.int64([4, 0, 3]))
    own = best_classes(head, outputs, where)
    np.testing.assert_array_equal(own, odds.argmax(2)[where.samples, where.places])
    assert class_count(head, outputs) == odds.shape[2]
    np.testing.assert_allclose(
        class_probabilities(head, outputs, where, own), expected.max(2)[where.samples, where.places], rtol=1e-6
    )


def test_boxes_without_known_anchors_are_of_one_object_at_one_place_only():
    where, classes = _all(3), np.int64([0, 0, 1])
    assert list(box_groups(_head("corners"), 0, where, classes)) == [0, 0, 1]
    assert len(set(box_groups(_head("offsets"), 0, where, classes))) == 3
    assert len(set(box_groups(_head("offsets", height=1, width=3), 1, where, classes))) == 2


def _overlap(one, other):
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return wide * high / (area(one) + area(other) - wide * high)


def test_suppression_is_greedy_and_within_groups():
    rng = np.random.default_rng(2)
    low = rng.random((60, 2))
    boxes = np.concatenate([low, low + 0.05 + rng.random((60, 2)) / 2], 1)
    scores, groups = rng.random(60), rng.integers(0, 2, 60)
    table = overlaps(boxes, boxes)
    assert table[3, 5] == pytest.approx(_overlap(boxes[3], boxes[5]))
    np.testing.assert_allclose(pair_overlaps(boxes, boxes[::-1]), np.diag(table[:, ::-1]))
    kept = []
    for index in np.argsort(-scores):
        if all(groups[index] != groups[other] or _overlap(boxes[index], boxes[other]) < 0.3 for other in kept):
            kept.append(index)
    assert list(suppress(boxes, scores, groups, 0.3)) == kept
