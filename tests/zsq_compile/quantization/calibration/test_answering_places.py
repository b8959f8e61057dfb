"""Ranges that reach where answers come from, though these are one place in a hundred."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests import models
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.calibration.answering_places import weigh_by_answers
from zsq_compile.quantization.calibration.observers import Extremes, Histogram

GAIN, BIAS = 2.0, -8.0


def finder(activation: str = "Sigmoid", batch: str = "N") -> TorchGraph:
    """What is found lies where the second of two channels is large; the first says nothing of it."""
    weight = np.float32([0.0, GAIN]).reshape(1, 2, 1, 1)
    text = f"""
        finder (float[{batch},2,10,10] x) => (float[{batch},1,10,10] y) <float[1,2,1,1] w, float[1] b>
        {{ r = Relu(x) c = Conv(r, w, b) y = {activation}(c) }}
        """
    return TorchGraph(ir.from_proto(models.parse(text, weights={"w": weight, "b": np.float32([BIAS])})))


def samples(seed: int = 0) -> torch.Tensor:
    """Twelve maps with small numbers, and one large one in each, of which the second channel is 6."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.rand(12, 2, 10, 10, generator=rng)
    for index in range(12):
        values[index, :, index % 10, 3] = torch.tensor([2.0, 6.0])
    return values


def counted(teacher: TorchGraph, batches: list[dict[str, torch.Tensor]]) -> tuple[Histogram, Histogram]:
    """What is counted of ``r`` without and with weights."""
    found = []
    for weighed in (False, True):
        histogram = Histogram(Extremes(low=0.0, high=6.0))
        for batch in batches:
            histogram.observe(batch["x"].relu())
        if weighed:
            weigh_by_answers({"r": histogram}, teacher, batches, {"r": "r"})
        found.append(histogram)
    return found[0], found[1]


@pytest.mark.parametrize("feed", [12, 4])
def test_half_of_the_counts_are_of_places_with_answers_and_the_sum_stays(feed: int) -> None:
    plain, weighed = counted(finder(), [{"x": part} for part in samples().split(feed)])
    assert float(weighed.counts.sum()) == pytest.approx(float(plain.counts.sum()))
    # softplus has the sigmoid for its gradient: (sigmoid(2 r - 8) w)^2 at each place, of which both channels take part
    values = samples()
    weights = (GAIN * torch.sigmoid(GAIN * values[:, 1:] + BIAS)).square().expand_as(values).double()
    share = float(weights[values >= 2.0].sum() / weights.sum())
    expected = 0.5 * share + 0.5 * float(plain.counts[plain.centres() > 1.5].sum() / plain.counts.sum())
    assert share > 0.9
    assert float(weighed.counts[weighed.centres() > 1.5].sum() / weighed.counts.sum()) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_networks_without_answers_keep_their_counts(activation: str) -> None:
    plain, weighed = counted(finder(activation), [{"x": samples()}])
    assert torch.equal(plain.counts, weighed.counts)


def test_a_fixed_batch_is_run_as_a_whole() -> None:
    plain, weighed = counted(finder(batch="4"), [{"x": part} for part in samples().split(4)])
    high = plain.centres() > 5.0
    assert float(weighed.counts[high].sum()) > 20.0 * float(plain.counts[high].sum())


def test_weights_count_as_often_as_they_say() -> None:
    histogram = Histogram(Extremes(low=-1.0, high=3.0))
    histogram.weigh(torch.tensor([-1.0, 0.0, 3.0, 4.0]), torch.tensor([0.5, 2.0, 3.0, 9.0]))
    assert float(histogram.counts.sum()) == 5.5, "what lies beyond the ends is not counted"
    assert float(histogram.counts[-1]) == 3.0 and float(histogram.counts[0]) == 0.5


def test_answers_without_a_gradient_keep_the_counts() -> None:
    text = "net (float[N,2,10,10] x) => (float[N,2,10,10] y) { r = Relu(x) f = Floor(r) c = Sub(f, z) y = Sigmoid(c) }"
    text = text.replace("{ r", "<float[1] z> { r")
    teacher = TorchGraph(ir.from_proto(models.parse(text, weights={"z": np.float32([1.5])})))
    plain, weighed = counted(teacher, [{"x": samples()}])
    assert torch.equal(plain.counts, weighed.counts)
