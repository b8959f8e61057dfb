"""Give the outputs of several samples an axis for these in front, wherever a network has it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.task import OutputMeaning, Task


def by_samples(task: Task, outputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Bring outputs to (samples, ...), as the task says of each; others as they are, a scalar as that of one sample."""
    meanings = {one.name: one for one in task.outputs}
    return {name: arrange_output(array, meanings.get(name)) for name, array in outputs.items()}


def arrange_output(array: NDArray[Any], meaning: OutputMeaning | None) -> NDArray[Any]:
    """Bring one output to (samples, ...)."""
    array = np.asarray(array)
    if not array.ndim:
        return array.reshape(1)
    return array if meaning is None else bring_in_front(array, meaning.samples, meaning.entries)


def bring_in_front(array: NDArray[Any], samples: int, entries: int) -> NDArray[Any]:
    """Bring the axis ``samples`` in front, of runs that are joined along axis 0 with ``entries`` each.

    Lists (runs * entries, columns) become (runs, entries, columns), and steps (runs * entries, samples, columns)
    become (runs * samples, entries, columns). Nothing moves where the samples are in front, and have one entry.

    Raises:
        ValueError: axis 0 is no multiple of ``entries``.

    """
    if not samples:
        return array.reshape(-1, entries, *array.shape[1:]) if entries > 1 else array
    runs = array.reshape(-1, entries, *array.shape[1:])
    moved = np.moveaxis(runs, samples + 1, 1)
    return moved.reshape(-1, *moved.shape[2:])
