"""Stage: see what the network is for, by its graph and by what it says on a few samples."""

import torch

from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress
from zsq_compile.quantization.samples import Samples
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import Task, TaskKind

_SAMPLES = 4


def recognise_task(
    loaded: LoadedModel, teacher: TorchGraph, samples: Samples, asked: TaskKind | None, progress: Progress
) -> Task:
    """Say what a network is for; the user's word wins.

    Raises:
        ConfigError: no output of the network can be what ``asked`` wants.

    """
    batches = samples.batches(_SAMPLES)
    names = [name for name in loaded.outputs if name not in loaded.uneven_outputs]
    with torch.inference_mode():
        made = teacher.run(batches[0], names) if batches and names else {}
    outputs = {name: value.numpy(force=True) for name, value in made.items()}
    task = find_task(loaded.model, outputs or None, asked=asked)
    progress.note(f"task: {task.kind}, because {task.reason}")
    return task
