"""Oracle: networks that hand their inputs on, so that what they find is what the test fed."""

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests.models import HEADER
from tests.zsq_compile.verification.test_task_figures import DETECTOR
from zsq_compile.data.annotations import Annotations, BoxRow
from zsq_compile.data.batch_axes import FIRST
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.task import OutputMeaning, Task
from zsq_compile.tasks.truths import TruthWords
from zsq_compile.verification.labelled_quality import measure_labelled

BOXES = np.float32([[2, 2, 12, 12], [20, 20, 30, 28]])
DECISIONS = Task(
    kind="decisions",
    reason="r",
    outputs=(OutputMeaning(name="y", role="probabilities", reason="r", scores="probabilities"),),
)


def session(text):
    return open_session(onnx.parser.parse_model(HEADER + text), threads=1)


def detector(factor):
    text = "g (float[N,2,4] b, float[N,2,1] s, float[N,3,32,32] x) => (float[N,2,4] boxes, float[N,2,1] scores)"
    return session(f"{text} <float f = {{{factor}}}> {{ boxes = Identity(b) scores = Mul(s, f) }}")


def boxes_of(count):
    samples = {
        "b": np.tile(BOXES, (count, 1, 1)),
        "s": np.tile(np.float32([[0.9], [0.6]]), (count, 1, 1)),
        "x": np.zeros((count, 3, 32, 32), np.float32),
    }
    row = BoxRow(corners=BOXES.astype(np.float64), classes=np.zeros(2, np.int64), crowds=np.zeros(2, bool))
    return Dataset(
        samples=samples,
        labels=None,
        preparation=None,
        annotations=Annotations(kind="boxes", rows=[row] * count, words=TruthWords()),
    )


def test_boxes_give_the_mean_average_precision_of_both_and_what_is_kept():
    found = measure_labelled(detector(1.0), detector(0.0), boxes_of(40), DETECTOR, axes=FIRST, uneven=())
    assert (found.samples, found.top1_float, found.agreement) == (40, None, None)
    assert found.float_figure is not None
    assert found.quantized_figure is not None
    assert found.quality is not None
    assert found.float_figure.value == pytest.approx(1.0)
    assert found.quantized_figure.value == pytest.approx(0.0)
    assert (found.quality.kept, found.quality.count) == (pytest.approx(0.0), 80)


def test_without_labels_what_is_kept_is_counted_all_the_same():
    data = Dataset(samples=boxes_of(3).samples, labels=None, preparation=None)
    found = measure_labelled(detector(1.0), detector(1.0), data, DETECTOR, axes=FIRST, uneven=())
    assert found.quality is not None
    assert (found.quality.kept, found.float_figure, found.quantized_figure) == (1.0, None, None)


def test_labels_of_decisions_are_yes_or_no():
    model = session("g (float[N,1] x) => (float[N,1] y) { y = Identity(x) }")
    other = session("g (float[N,1] x) => (float[N,1] y) <float one = {1.0}> { y = Sub(one, x) }")
    x = np.float32([[0.9], [0.8], [0.2], [0.1]])
    data = Dataset(samples={"x": x}, labels=np.int64([1, 1, 0, 1]), preparation=None)
    found = measure_labelled(model, other, data, DECISIONS, axes=FIRST, uneven=())
    assert found.float_figure is not None
    assert found.quantized_figure is not None
    assert (found.float_figure.value, found.quantized_figure.value) == (0.75, 0.25)
    assert found.top1_float is None


def test_labels_that_say_nothing_of_the_task_are_refused():
    data = boxes_of(2)
    with pytest.raises(ConfigError, match="boxes"):
        measure_labelled(detector(1.0), detector(1.0), data, DECISIONS, axes=FIRST, uneven=())
