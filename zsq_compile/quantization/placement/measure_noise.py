"""Measure what rounding harms: each group of values alone, and joint choices of what is left in float.

Samples come from those held out, and from calibration where these are few. They fall into two halves, one to choose by
and one to judge by.
"""

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from passes.analysis.count_work import count_work
from passes.plan import QuantizationPlan, Refusal, Scale
from passes.quantize.integer_kernels import IntegerKernels
from passes.surgery import is_standard
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.calibration.scales import scale_from_range
from zsq_compile.quantization.mixed_precision.sensitivity import measure_activation_nsr
from zsq_compile.quantization.placement.judge import Judgement, join_runs, judge, worst
from zsq_compile.quantization.samples import Samples, count_fitting_samples
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, insert_quantizers

REASON = "it stays float, because its rounding would harm the outputs"
_BESIDE = "it reads or makes a value whose rounding would harm the outputs"
_ENOUGH = 8  # samples of a half
_WORK = 4e10  # multiplications that measuring the groups of values one by one may take


class Bench:
    """Runs networks in which some groups of values are relieved: left in float, or given a wider format.

    Args:
        network: the float network.
        state: calibrated and rounded.

    Attributes:
        kernels: of the plan of the state.
        measured: joint choices that were run.

    """

    def __init__(self, network: FloatNetwork, state: QuantizedState) -> None:
        self.network, self.state = network, state
        self.kernels = IntegerKernels(network.model, state.plan, network.target)
        self.wide = network.target.wide_activation_bits
        self.measured = 0
        self._halves = _split(network)
        self._wanted: dict[int, list[dict[str, Tensor]]] = {}

    def close(self, groups: Set[str]) -> frozenset[str]:
        """Return the groups that are relieved with some: more where they are left in float."""
        return frozenset(groups) if self.wide else self.kernels.close(groups)

    def plan(self, groups: Set[str]) -> QuantizationPlan:
        """Plan in which some groups are relieved."""
        if not groups:
            return self.state.plan
        if self.wide:
            return _widened(self.state.plan, groups, self.wide)
        plan = self.state.plan.without(self.kernels.values(groups), REASON)
        running = {kernel.node for kernel in self.kernels.running(groups)}
        types = {str(node.name): node.op_type for node in self.network.model.graph}
        lost = tuple(
            Refusal(where=kernel.node, op_type=types[kernel.node], reason=_BESIDE)
            for kernel in self.kernels.kernels
            if kernel.weighted and kernel.node not in running
        )
        return replace(plan, refusals=(*plan.refusals, *lost))

    def noise(self, advance: Advance = ignore_steps) -> dict[str, float]:
        """NSR that the rounding of each group brings alone, on the population that suffers most from it."""
        teacher, found = self.network.teacher, dict[str, float]()
        work = max(count_work(self.network.model).multiplications, 1)
        most = max(int(_WORK / work / max(len(self.kernels.groups), 1)), 1)
        for part in self._halves[0]:
            batches = part.batches(min(count_fitting_samples(self.network.model), most))
            for group, nsr in measure_activation_nsr(self.state.plan, teacher, batches[:1], advance).items():
                found[group] = max(found.get(group, 0.0), nsr)
        return found

    def measure(self, groups: Set[str], *, other_half: bool = False) -> Judgement:
        """Judge the network in which some groups are relieved; by the user's metric, where there is one."""
        self.measured += 1
        half = int(other_half)
        if half not in self._wanted:
            self._wanted[half] = self._run(self.network.teacher, half)
        plan = self.plan(groups)
        qdq = insert_quantizers(self.state.base, plan)
        got = self._run(TorchGraph(qdq), half)
        judged = worst([judge(self.network.task, *pair) for pair in zip(self._wanted[half], got, strict=True)])
        if self.network.asked is None:
            return judged
        what = f"{len(self.kernels.values(groups))} values relieved"
        kept = self.network.asked(what, QuantizedState(base=self.state.base, qdq=qdq, plan=plan))
        return replace(judged, kept=kept, measure="the metric", decides=True)

    def _run(self, graph: TorchGraph, half: int) -> list[dict[str, Tensor]]:
        names = self.network.teacher.even_outputs
        makers = {str(value.name): value.producer() for value in self.network.model.graph.outputs}
        codes = {name for name, node in makers.items() if node is not None and is_standard(node, "QuantizeLinear")}
        with torch.inference_mode():
            runs = [
                join_runs([graph.run(batch, names) for batch in part.fitting(self.network.model)])
                for part in self._halves[half]
            ]
        # Codes are numbers: that many of them change by one tells nothing.
        return [{name: one.float() if name in codes else one for name, one in run.items()} for run in runs]


def _split(network: FloatNetwork) -> tuple[Sequence[Samples], Sequence[Samples]]:
    """Cut the samples of each population that is not improbable in two: some to choose by, and some to judge by."""
    halves: tuple[list[Samples], list[Samples]] = ([], [])
    given = network.calibration.probable().parts()
    for number, part in enumerate(network.held_out.probable().parts()):
        pair = part.halves()
        for side, (half, own) in enumerate(zip(halves, pair, strict=True)):
            more = given[number].halves()[side] if number < len(given) else None
            half.append(_joined(own, more))
    return halves


def _joined(own: Samples, more: Samples | None) -> Samples:
    """Add as many samples as are missing, in whole batches, and leave out those that are too many."""
    feed = own.fixed or 1
    wanted = max(_ENOUGH // feed, 1) * feed
    inputs = {name: value[:wanted] for name, value in own.inputs.items()}
    if more is not None and own.count < wanted:
        count = (min(wanted - own.count, more.count)) // feed * feed
        inputs = {name: torch.cat([value, more.inputs[name][:count]]) for name, value in inputs.items()}
    return replace(own, inputs=inputs, populations=None, probabilities=())


def _widened(plan: QuantizationPlan, groups: Set[str], bits: int) -> QuantizationPlan:
    """Give some groups a wider format over the range that they have."""
    scales: dict[str, Scale] = {}
    sites = []
    for site in plan.activations:
        if site.group not in groups:
            sites.append(site)
            continue
        old, scale = site.number_format, plan.activation_scales[site.group]
        sites.append(replace(site, number_format=old.with_bits(bits)))
        step, zero = np.float64(scale.scale), int(scale.zero_point)
        low, high = float(step * (old.qmin - zero)), float(step * (old.qmax - zero))
        scales[site.group] = scale_from_range(low, high, sites[-1].number_format)
    return replace(plan, activations=tuple(sites)).with_scales(activations=scales)
