"""Give outputs that list rows of all samples an axis for the samples."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from zsq_compile.tasks.task import Task


def by_samples(task: Task, outputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Bring (samples * entries, columns) to (samples, entries, columns) where the task says so; others as they are."""
    entries = {one.name: one.entries for one in task.outputs if one.entries > 1 and one.name in outputs}
    if not entries:
        return outputs
    return {
        name: array.reshape(-1, entries[name], *array.shape[1:]) if name in entries else array
        for name, array in outputs.items()
    }
