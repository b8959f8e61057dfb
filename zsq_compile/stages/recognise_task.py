"""What a network is for, told by its graph and by its outputs on a few samples."""

import onnx_ir as ir
import torch

from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.samples import Samples
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import Task, TaskKind


def recognise_task(model: ir.Model, teacher: TorchGraph, samples: Samples, asked: TaskKind | None = None) -> Task:
    """Say what a float network is for.

    Args:
        model: the network as it was loaded, normalised.
        teacher: what runs it, folded; its outputs have the same names.
        samples: a few are run; without any, the graph alone tells.
        asked: the kind that the user names.

    Raises:
        ConfigError: no output of the network can be what ``asked`` wants.

    """
    batches = samples.take_few(model)
    if not batches:
        return find_task(model, None, asked=asked)
    with torch.inference_mode():
        outputs = teacher.run(batches[0], teacher.even_outputs)
    return find_task(model, {name: value.numpy(force=True) for name, value in outputs.items()}, asked=asked)
