"""A float network ready to be quantized, with everything that a step of quantization asks for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import onnx_ir as ir
from torch import Tensor

from backends.catalog import load_target
from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Clock, Silent
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork, QuantizedState

TARGET = load_target("ort_cpu")
NO_STATISTICS = BatchNormStatistics(entries=(), refusals=(), layers_total=0, layers_covered=0, degenerate=())


def float_network(
    model: ir.Model,
    data: Mapping[str, Tensor],
    *,
    held_out: Mapping[str, Tensor] | None = None,
    statistics: BatchNormStatistics = NO_STATISTICS,
    fixed: int | None = None,
    target: Target = TARGET,
    limit: int | None = None,
) -> FloatNetwork:
    """A folded model with its calibration samples, which judge as well where none are held out."""
    return FloatNetwork(
        teacher=TorchGraph(model),
        target=target,
        statistics=statistics,
        calibration=Samples(inputs=data, fixed=fixed),
        held_out=Samples(inputs=data if held_out is None else held_out, fixed=fixed),
        limit=limit,
    )


def planned_state(network: FloatNetwork, plan: QuantizationPlan) -> QuantizedState:
    """The state in front of the first step."""
    return QuantizedState(base=network.model, qdq=network.model, plan=plan)


class Watcher(Silent):
    """Keeps the stages with their totals, and the steps that each was told."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.steps: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        self.totals[name], self.steps[name] = total, 0

        def advance(steps: int) -> None:
            self.steps[name] += steps

        yield advance


def silent_clock() -> Clock:
    return Clock(Silent())
