"""Recognise what the outputs of a network are, by structure and by what they hold on samples."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from zsq_compile.tasks.task import Task, TaskKind


def find_task(
    model: ir.Model, outputs: Mapping[str, NDArray[Any]] | None = None, *, asked: TaskKind | None = None
) -> Task:
    """Say what a network is for.

    Args:
        model: the float network, with shapes inferred as far as they can be.
        outputs: (count, ...) of a few samples, by name, the batch on axis 0; None knows the graph alone.
        asked: the kind that the user names; its outputs are found all the same.

    Raises:
        ConfigError: no output of the network can be what ``asked`` wants.

    """
    raise NotImplementedError
