"""Error-compensated rounding of the stored weights of recurrent layers.

W multiplies the inputs of all steps, and R the states between them, which are the layer's first output; so both have
second moments as a Gemm has (see ``gptq``). States that another gate has scaled, as in a GRU, count as what they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from passes.operators import RECURRENT
from passes.plan import QuantizationPlan, Scale, StoredSite
from passes.surgery import is_standard
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import ignore_steps
from zsq_compile.quantization.calibration.calibrate import watch
from zsq_compile.quantization.rounding.gptq import choose_step
from zsq_compile.quantization.rounding.second_moments import GROUP_BYTES, SecondMoments
from zsq_compile.quantization.samples import Batch

_INPUT_WEIGHT, _STATE_WEIGHT = 1, 2


def round_recurrent(
    plan: QuantizationPlan, teacher: TorchGraph, batches: Sequence[Batch]
) -> dict[str, tuple[Tensor, Scale]]:
    """Round the stored weights of recurrent layers whose inputs or states are seen, in one pass over the data.

    The search over steps starts at the scales of the plan. Returns (weight on its grid, float32, in its shape; scale of
    its rows) by initializer name.
    """
    matrices = _find_matrices(plan, teacher)
    if not matrices:
        return {}
    _measure(matrices, teacher, batches)
    rounded = {}
    for one in matrices:
        weight, site = teacher.initializers[one.site.initializer].detach(), one.site
        if not one.moments.count:
            continue
        rows = weight.reshape(one.moments.groups, -1, weight.shape[-1])
        step = torch.from_numpy(plan.weight_scales[site.initializer].scale).to(rows.device, torch.float64)
        codes, chosen = choose_step(rows, one.moments, step.reshape(rows.shape[:2]), site.number_format)
        scale = chosen.float().reshape(*weight.shape[:-1], 1)
        on_grid = codes.reshape(weight.shape) * scale
        zero_point = np.zeros(tuple(scale.shape), np.int32)
        rounded[site.initializer] = on_grid, Scale(scale=scale.cpu().numpy(), zero_point=zero_point)
    return rounded


@dataclass(frozen=True, slots=True, eq=False)
class _Matrix:
    """One weight, the name of the value that it multiplies, and the moments of that."""

    site: StoredSite
    value: str
    moments: SecondMoments

    def observe(self, value: Tensor) -> None:
        """Add (steps, samples, numbers), or states, (steps, directions, samples, numbers)."""
        columns = value if value.ndim == 4 else value[:, None]
        self.moments.observe(columns.permute(1, 3, 0, 2).flatten(2))


def _find_matrices(plan: QuantizationPlan, teacher: TorchGraph) -> list[_Matrix]:
    nodes = {str(node.name): node for node in teacher.model.graph}
    found = []
    for site in plan.stored:
        node, weight = nodes[site.node], teacher.initializers[site.initializer]
        value = _multiplied(node, site) if is_standard(node, *RECURRENT) else None
        if value is None or not value.name:
            continue
        groups = 1 if value is node.inputs[0] else weight.shape[0]
        if 4 * groups * weight.shape[-1] ** 2 <= GROUP_BYTES:
            found.append(_Matrix(site, value.name, SecondMoments(groups, weight.shape[-1])))
    return found


def _multiplied(node: ir.Node, site: StoredSite) -> ir.Value | None:
    """Return the value that a weight of a layer multiplies; None where there is none by itself."""
    names = [None if value is None else value.name for value in node.inputs]
    if names[_INPUT_WEIGHT] == site.initializer:
        return node.inputs[0]
    return node.outputs[0] if names[_STATE_WEIGHT] == site.initializer else None


def _measure(matrices: Sequence[_Matrix], teacher: TorchGraph, batches: Sequence[Batch]) -> None:
    readers: Mapping[str, list[_Matrix]] = {
        one.value: [other for other in matrices if other.value == one.value] for one in matrices
    }

    def observe(name: str, value: Tensor, _: ir.Node | None) -> None:
        for matrix in readers[name]:
            matrix.observe(value)

    watch(teacher, batches, {name: name for name in readers}, observe, ignore_steps, partial=True)
