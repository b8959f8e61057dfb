"""Compare the outputs of two networks by what they are for."""

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from zsq_compile.tasks.task import Task, TaskQuality


def compare_outputs(task: Task, wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> TaskQuality:
    """Say how much of what ``wanted`` says ``got`` says as well.

    Args:
        task: of both networks.
        wanted: outputs (count, ...) of the float network by name, the batch on axis 0.
        got: those of the other, of the same shapes.

    """
    raise NotImplementedError


def join_qualities(parts: Iterable[TaskQuality]) -> TaskQuality | None:
    """Quality over parts of the samples, each weighted by its count; None without parts."""
    raise NotImplementedError
