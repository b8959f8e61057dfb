import math
from itertools import combinations

import pytest
import torch

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.adversarial.diversity import Diversity, RunningMeans, class_distance, mean_distance


def test_distances_are_means_over_pairs() -> None:
    points, labels = torch.randn(7, 3, generator=seeded()), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    pairs = list(combinations(range(7), 2))
    every = [float((points[i] - points[j]).norm()) for i, j in pairs]
    same = [float((points[i] - points[j]).norm()) for i, j in pairs if labels[i] == labels[j]]
    assert mean_distance(points) == pytest.approx(sum(every) / len(every), rel=1e-5)
    assert class_distance(points, labels) == pytest.approx(sum(same) / len(same), rel=1e-5)
    assert len(same) == 4
    assert mean_distance(points[:1]) is None
    assert class_distance(points, torch.arange(7)) is None


def test_samples_that_become_alike_are_seen() -> None:
    watch, base = Diversity(window=3), torch.randn(8, 4, generator=seeded())
    labels = torch.arange(8) % 2
    wide, narrow = (watch(scale * base, labels) for scale in (1.0, 0.1))
    assert wide["novelty"] is None and narrow["novelty"] is not None
    for name in ("diversity", "class_diversity"):
        assert narrow[name] == pytest.approx(0.1 * (wide[name] or math.nan), rel=1e-4)


def test_batches_are_compared_over_a_window() -> None:
    watch, labels = Diversity(window=2), torch.arange(3)
    found = [watch(torch.full((3, 2), level), labels)["novelty"] for level in (0.0, 1.0, 1.0, 4.0)]
    assert found == [None, *(pytest.approx(math.sqrt(2) * step) for step in (1.0, 0.0, 3.0))]
    other = Diversity(window=2)
    other.restore(watch.state())
    batch = torch.randn(3, 2, generator=seeded())
    assert other(batch, labels) == watch(batch, labels)


def test_means_begin_anew_and_can_be_put_away() -> None:
    means, other = RunningMeans(), RunningMeans()
    assert means.take() is None
    means.add({"a": 1.0, "b": None})
    means.add({"a": 2.0, "b": 5.0})
    other.restore(means.state())
    assert means.take() == other.take() == {"a": 1.5, "b": 5.0}
    assert means.take() is None
