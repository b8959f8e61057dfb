"""The numbers of a quantized network that learning may change, by name, and how they stand in the QDQ graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from passes.plan import QuantizationPlan, Scale, WeightSite
from passes.qdq_names import dequantized_name, scale_name
from zsq_compile.differentiable.fake_quantize import round_to_codes
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias.bias_correction import dequantize_biases
from zsq_compile.quantization.state import QuantizedState, make_state, replace_initializers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedValues:
    """Real values of the constants of a quantized network, float32.

    Attributes:
        weights: on their grids, by initializer.
        steps: weight steps, broadcastable to the weight, by initializer.
        biases: by initializer.
        scales: activation steps, of one element, by group.

    """

    weights: Mapping[str, Tensor]
    steps: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]

    def feeds(self, layers: Sequence[WeightSite], plan: QuantizationPlan) -> dict[str, Tensor]:
        """Values of the QDQ graph to run some of its layers with, in the place of what it dequantizes.

        Biases are rounded to the step that they have with these scales: at few bits it is too coarse to be left out.
        """
        groups = {site.value: site.group for site in plan.activations}
        made = {dequantized_name(site.initializer): self.weights[site.initializer] for site in layers}
        for site in layers:
            if site.bias and site.bias in self.biases:
                step = self.scales[groups[site.data_input]] * self.steps[site.initializer].flatten()
                made[dequantized_name(site.bias)] = torch.round(self.biases[site.bias] / step) * step
        return made

    def replacements(self) -> dict[str, Tensor]:
        """Return initializers of the QDQ graph to run it with."""
        return {scale_name(group): scale for group, scale in self.scales.items()}

    def to(self, device: torch.device) -> "QuantizedValues":
        """Return these values on a device."""
        kinds = (self.weights, self.steps, self.biases, self.scales)
        weights, steps, biases, scales = ({name: x.to(device) for name, x in kind.items()} for kind in kinds)
        return QuantizedValues(weights=weights, steps=steps, biases=biases, scales=scales)

    def merge(self, newer: "QuantizedValues") -> "QuantizedValues":
        """Return these values with some replaced."""
        return replace(
            self,
            weights={**self.weights, **newer.weights},
            steps={**self.steps, **newer.steps},
            biases={**self.biases, **newer.biases},
            scales={**self.scales, **newer.scales},
        )


def prepare_learning(state: QuantizedState) -> tuple[ir.Model, QuantizedValues]:
    """Read off a state what learning starts from.

    Returns ``base`` with the corrected biases of those layers whose inputs stay float, and the values of all others.
    """
    plan, weights, corrected = state.plan, TorchGraph(state.base).initializers, TorchGraph(state.qdq)
    floats = [str(site.bias) for site in plan.weights if site.bias in corrected.initializers]  # of float inputs
    base = replace_initializers(state.base, {name: corrected.initializers[name] for name in floats})
    steps = {
        site.initializer: _along(plan.weight_scales[site.initializer].scale, site.axis, weights[site.initializer].ndim)
        for site in plan.weights
    }
    formats = {site.initializer: site.number_format for site in plan.weights}
    return base, QuantizedValues(
        weights={name: round_to_codes(weights[name], step, formats[name]) * step for name, step in steps.items()},
        steps=steps,
        biases=dequantize_biases(plan, corrected),
        scales={group: torch.from_numpy(scale.scale.copy()) for group, scale in plan.activation_scales.items()},
    )


def _along(steps: np.ndarray, axis: int | None, rank: int) -> Tensor:
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return torch.from_numpy(steps.copy()).reshape(shape)


def write_values(model: ir.Model, plan: QuantizationPlan, values: QuantizedValues) -> QuantizedState:
    """Write values into copies of a float model and of its plan; the QDQ graph of both has their codes."""
    weights = {name: _scale(step, plan.weight_scales[name]) for name, step in values.steps.items()}
    scales = {group: _scale(step, plan.activation_scales[group]) for group, step in values.scales.items()}
    written = replace_initializers(model, {**values.weights, **values.biases})
    return make_state(written, plan.with_scales(weights=weights, activations=scales))


def _scale(step: Tensor, old: Scale) -> Scale:
    number = step.detach().cpu().numpy().astype(np.float32).reshape(old.scale.shape)
    return Scale(scale=number, zero_point=old.zero_point)
