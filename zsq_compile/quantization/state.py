"""What every step of quantization takes and gives: the float network, and the state that the quantized one is in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import onnx_ir as ir
import torch
from torch import Tensor

from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from passes.quantize.insert_qdq import InsertQdq
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Clock
from zsq_compile.quantization.samples import Samples
from zsq_compile.tasks.task import Task

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatNetwork:
    """What is quantized, for what, and with what.

    Attributes:
        teacher: runs the float model on the processor; folded, with a bias in every layer that can have one.
        target: where the quantized network will run.
        statistics: BatchNormalization statistics that hold for the channels of the model, possibly none.
        calibration: samples to quantize with.
        held_out: samples to judge with.
        limit: bytes that the file may have; None for any number.
        device: where networks are reconstructed and distilled; the closed forms run on the processor.
        task: what the outputs are; None where nobody has looked.
        asked: the user's metric: what share of the float model's number the file of a state keeps, by what it is in
            words; None where the user has none.

    """

    teacher: TorchGraph
    target: Target
    statistics: BatchNormStatistics
    calibration: Samples
    held_out: Samples
    limit: int | None = None
    device: torch.device = _CPU
    task: Task | None = None
    asked: Callable[[str, "QuantizedState"], float] | None = None

    @property
    def model(self) -> ir.Model:
        """The float model."""
        return self.teacher.model

    def learner(self) -> TorchGraph:
        """Return the float graph on the device."""
        return self.teacher if self.device.type == "cpu" else TorchGraph(self.model, device=self.device)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedState:
    """A network between two steps. Nobody changes its graphs: a step makes copies.

    Attributes:
        base: the float model with its weights on their grids.
        qdq: the graph that ships, weights not packed yet; its biases may be better than those of ``base``.
        plan: of both; with all scales, but in front of the first step.

    """

    base: ir.Model
    qdq: ir.Model
    plan: QuantizationPlan


class Step(Protocol):
    """One step of quantization.

    Attributes:
        name: of its stage, its state and its record.

    """

    name: ClassVar[str]

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, Any]:
        """Return the state behind the step, and the record of the step for the report.

        A step that has nothing to do returns the very state that it was given. ``clock`` times it under its name.
        """


def insert_quantizers(model: ir.Model, plan: QuantizationPlan, *, final: bool = True) -> ir.Model:
    """Copy a float model and write a calibrated plan into the copy; not ``final`` where scales are to be learned."""
    quantized = model.clone()
    InsertQdq(plan, final)(quantized)
    return quantized


def make_state(base: ir.Model, plan: QuantizationPlan) -> QuantizedState:
    """State of a model whose weights lie on the grids of a calibrated plan."""
    return QuantizedState(base=base, qdq=insert_quantizers(base, plan), plan=plan)


def replace_initializers(model: ir.Model, changed: Mapping[str, Tensor]) -> ir.Model:
    """Copy a model with some initializers replaced by torch tensors; their ONNX types stay."""
    copy = model.clone()
    for name, tensor in changed.items():
        value = copy.graph.initializers[name]
        assert value.dtype is not None
        array = tensor.detach().cpu().numpy().astype(value.dtype.numpy(), copy=False)
        value.const_value = ir.tensor(array, dtype=value.dtype, name=name)
    return copy
