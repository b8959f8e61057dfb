"""Run calibration data through the float graph and give every activation of a plan its scale."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

import onnx_ir as ir
import torch
from torch import Tensor

from passes.plan import ActivationSite, QuantizationPlan, Scale
from zsq_compile.config.compile import CalibrationMethod
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import QuantizationError
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.calibration.answering_places import weigh_by_answers
from zsq_compile.quantization.calibration.few_numbers import FewNumbers
from zsq_compile.quantization.calibration.observers import Extremes, Histogram
from zsq_compile.quantization.calibration.scales import scale_from_range
from zsq_compile.quantization.calibration.worst_population import choose_joint_range, find_activation
from zsq_compile.quantization.samples import PROBABLE, Batch, Population

_SENTINEL = 1e30  # beyond it stand numbers that mask others, such as the lowest float32, and none that is computed


def calibrate(
    plan: QuantizationPlan,
    teacher: TorchGraph,
    batches: Sequence[Batch] | Sequence[Population],
    method: CalibrationMethod,
    advance: Advance = ignore_steps,
) -> dict[str, Scale]:
    """Scale of every activation group, on batches that are seen twice (once for ``minmax``) and never held together.

    The sites of a group share the range that covers all of them. Numbers that only mask others (minus infinity, which a
    Pad in front of a MaxPool fills in, or 1e38) are not covered: the lowest code does the same there. For ``method``
    see ``choose_range``; under ``mse`` places count more from which answers come (``answering_places``).
    Of batches from several populations the range is for the worst, see ``worst_population``.

    Raises:
        QuantizationError: there is no data, or a value holds NaN or plus infinity on it, or an input minus infinity.

    """
    if not batches:
        raise QuantizationError("calibration wants at least one batch of data, got none: give or synthesize samples")
    groups = {site.value: site.group for site in plan.activations}
    parts = [one for one in batches if isinstance(one, Population)] or [Population(cast(Sequence[Batch], batches))]
    few = [{group: FewNumbers() for group in groups.values()} for _ in parts]
    seen = [_find_extremes(teacher, part.batches, groups, advance, own) for part, own in zip(parts, few, strict=True)]
    histograms = [{group: Histogram(ends) for group, ends in extremes.items()} for extremes in seen]
    if method != "minmax":
        for part, observers in zip(parts, histograms, strict=True):
            _observe(observers, teacher, part.batches, groups, advance)
            if method == "mse":
                weigh_by_answers(observers, teacher, part.batches, groups)
    least = PROBABLE * max(part.probability for part in parts)
    probable = [number for number, part in enumerate(parts) if part.probability >= least]
    scales = {}
    for group, members in _by_group(plan.activations).items():
        number_format = members[0].number_format
        low, high = min(seen[one][group].low for one in probable), max(seen[one][group].high for one in probable)
        if method != "minmax":
            weights = [part.probability for part in parts]
            activate = find_activation(teacher, members[0].value) if len(members) == 1 else None
            counted = [one[group] for one in histograms]
            low, high = choose_joint_range(counted, weights, number_format, method, activate)
        if method == "mse":
            widened = [few[one][group].widen(number_format) for one in probable]
            if len(parts) == 1:
                low, high = widened[0] or (low, high)
            elif known := [ends for ends in widened if ends is not None]:  # so few numbers show no range of the unseen
                low, high = min(low, *(end for end, _ in known)), max(high, *(end for _, end in known))
        scales[group] = scale_from_range(low, high, number_format)
    return scales


def _find_extremes(
    teacher: TorchGraph,
    batches: Sequence[Batch],
    groups: Mapping[str, str],
    advance: Advance,
    few: Mapping[str, FewNumbers],
) -> dict[str, Extremes]:
    """Smallest and largest number of every group, on the batches of one population."""
    extremes = {group: Extremes() for group in groups.values()}
    _observe(extremes, teacher, batches, groups, advance, few)
    for group, seen in extremes.items():
        if not seen.high - seen.low < float("inf"):
            raise QuantizationError(
                f"calibration wants finite numbers, got [{seen.low}, {seen.high}] in '{group}': check the input range"
            )
    return extremes


def watch(
    teacher: TorchGraph,
    batches: Sequence[Batch],
    groups: Mapping[str, str],
    observe: Callable[[str, Tensor, ir.Node | None], None],
    advance: Advance,
    *,
    partial: bool = False,
) -> None:
    """Run batches and hand every value that ``groups`` names to ``observe``: (its group, the value, its producer).

    A ``partial`` run computes nothing that these values do not need.
    """
    wanted = _last_ones(teacher, groups) if partial else None

    def visit(node: ir.Node, outputs: tuple[Tensor, ...]) -> None:
        for value, tensor in zip(node.outputs, outputs, strict=False):
            if value.name is not None and value.name in groups:
                observe(groups[value.name], tensor, node)

    with torch.inference_mode():
        for batch in batches:
            for name, tensor in batch.items():
                if name in groups:
                    observe(groups[name], tensor, None)
            teacher.run(batch, wanted, visit=visit)
            advance(1)


def _last_ones(teacher: TorchGraph, names: Collection[str]) -> list[str]:
    """Those of some values that none of the others needs: a run that is to keep no more computes all of them."""
    last, needed = [], set[str]()
    for node in reversed(list(teacher.model.graph)):
        made = {str(value.name) for value in node.outputs}
        if made.isdisjoint(needed):
            last += sorted(made.intersection(names))
        if not made.isdisjoint([*last, *needed]):
            needed.update(str(value.name) for value in node.inputs if value is not None)
    return last


def _observe(
    observers: Mapping[str, Extremes] | Mapping[str, Histogram],
    teacher: TorchGraph,
    batches: Sequence[Batch],
    groups: Mapping[str, str],
    advance: Advance,
    few: Mapping[str, FewNumbers] | None = None,
) -> None:
    def observe(group: str, value: Tensor, node: ir.Node | None) -> None:
        if few is not None:
            few[group].observe(value)
        seen = _without_sentinels(value, lowest=None if node is None else -torch.inf)
        if seen.numel():
            observers[group].observe(seen)

    watch(teacher, batches, groups, observe, advance)


def _without_sentinels(values: Tensor, lowest: float | None) -> Tensor:
    """Leave out ``lowest`` and what is finite and huge."""
    if not values.numel() or not values.is_floating_point():
        return values
    low, high = torch.aminmax(values)
    if low >= -_SENTINEL and high <= _SENTINEL:
        return values
    masks = (values.abs() > _SENTINEL) & torch.isfinite(values)
    return values[~(masks if lowest is None else masks | (values == lowest))]


def _by_group(sites: Sequence[ActivationSite]) -> dict[str, list[ActivationSite]]:
    members: dict[str, list[ActivationSite]] = {}
    for site in sites:
        members.setdefault(site.group, []).append(site)
    return members
