"""Diversity of samples: distances between the network's penultimate features."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def mean_distance(points: Tensor) -> float | None:
    """Mean Euclidean distance over all pairs of (count, size) points; None where there are fewer than two."""
    return float(torch.pdist(points.float()).mean()) if len(points) > 1 else None


def class_distance(points: Tensor, labels: Tensor) -> float | None:
    """Mean Euclidean distance over the pairs of points that share a label; None where there is no such pair.

    Args:
        points: (count, size).
        labels: (count,).

    """
    row, column = torch.triu_indices(len(points), len(points), offset=1, device=points.device)
    same = labels[row] == labels[column]
    return float(torch.pdist(points.float())[same].mean()) if same.any() else None


class Diversity:
    """Measures diversity within batches and between successive ones.

    Args:
        window: batches whose mean features are compared.

    """

    def __init__(self, window: int = 16) -> None:
        self._means: deque[Tensor] = deque(maxlen=window)

    def __call__(self, features: Tensor, labels: Tensor) -> dict[str, float | None]:
        """Measure a batch; None for what needs more samples or batches than there are.

        Args:
            features: (samples, size).
            labels: the asked classes, (samples,).

        Returns:
            ``diversity``, the mean distance within the batch; ``class_diversity``, the same within its classes, which
            a generator loses first; ``novelty``, the mean distance between the mean features of successive batches.

        """
        self._means.append(features.float().mean(0).cpu())
        return {
            "diversity": mean_distance(features),
            "class_diversity": class_distance(features, labels),
            "novelty": mean_distance(torch.stack(tuple(self._means))),
        }

    def state(self) -> list[Tensor]:
        """Return the mean features of the window."""
        return list(self._means)

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go back to what ``state`` gave."""
        self._means.clear()
        self._means.extend(mean.cpu() for mean in state)


class RunningMeans:
    """Means of named figures since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: Mapping[str, float | None]) -> None:
        """Add figures; None adds nothing."""
        for name, figure in figures.items():
            if figure is not None:
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + figure, count + 1)

    def take(self) -> dict[str, float] | None:
        """Return the means and start anew; None where nothing was added."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means or None

    def state(self) -> dict[str, list[float]]:
        """Return sum and count by name."""
        return {name: [total, count] for name, (total, count) in self._sums.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self._sums = {name: (float(total), int(count)) for name, (total, count) in state.items()}
