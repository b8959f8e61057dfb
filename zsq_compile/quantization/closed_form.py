"""From a plan and data to the QDQ graph, in closed form: ranges, scales, rounding, insertion, bias correction."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan, WeightSite
from passes.qdq_names import codes_name
from passes.quantize.insert_qdq import InsertQdq
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias.bias_correction import analytic_correction, empirical_correction
from zsq_compile.quantization.bias.moment_propagation import propagate_moments
from zsq_compile.quantization.calibration.calibrate import Batch, calibrate
from zsq_compile.quantization.calibration.scales import weight_scales
from zsq_compile.quantization.rounding.gptq import compensated_rounding
from zsq_compile.quantization.rounding.second_moments import SecondMoments, measure_second_moments
from zsq_compile.quantization.rounding.squant import squant_rounding


def calibrated_plan(
    plan: QuantizationPlan,
    teacher: TorchGraph,
    batches: Sequence[Batch],
    config: QuantizationConfig,
    advance: Callable[[int], None] = lambda steps: None,
) -> QuantizationPlan:
    """Give a plan all its scales: activations from the data, weights from the weights themselves."""
    plan = plan.with_scales(activations=calibrate(plan, teacher, batches, config.calibration_method, advance))
    return plan.with_scales(weights=weight_scales(plan, teacher.initializers, config.weight_scales))


def rounded_model(
    model: ir.Model,
    plan: QuantizationPlan,
    teacher: TorchGraph,
    batches: Sequence[Batch],
    config: QuantizationConfig,
    advance: Callable[[int], None] = lambda steps: None,
    *,
    moments: Mapping[str, SecondMoments] | None = None,
) -> tuple[ir.Model, QuantizationPlan]:
    """Copy a float model with every weight moved onto its grid, as ``config.rounding`` chooses the codes.

    Args:
        model: the float model; ``teacher`` runs it.
        plan: the calibrated plan; its weight scales start the search for better ones.
        teacher: the float graph.
        batches: calibration data, seen once for ``gptq`` and not at all for the others.
        config: ``rounding`` chooses the method.
        advance: told the number of batches done.
        moments: second moments of these very data by node name, where they are known; None measures them.

    Returns:
        The copy, and the plan with the scales of its grids. Inserting that plan finds the codes again, exactly.

    """
    copy = model.clone()
    match config.rounding:
        case "nearest":
            return copy, plan
        case "squant":
            write_initializers(copy, squant_rounding(plan, teacher.initializers))
            return copy, plan
        case _:  # gptq, from which learning starts as well
            if moments is None:
                moments = measure_second_moments(model, plan, teacher, batches, advance)
            rounded = compensated_rounding(plan, teacher.initializers, moments)
            write_initializers(copy, {name: weight for name, (weight, _) in rounded.items()})
            return copy, plan.with_scales(weights={name: scale for name, (_, scale) in rounded.items()})


def insert_quantizers(model: ir.Model, plan: QuantizationPlan, *, final: bool = True) -> ir.Model:
    """Copy a float model and write a calibrated plan into the copy; not ``final`` where scales are to be learned."""
    quantized = model.clone()
    InsertQdq(plan, final)(quantized)
    return quantized


def correct_biases(
    model: ir.Model,
    quantized_model: ir.Model,
    plan: QuantizationPlan,
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    batches: Sequence[Batch],
    config: QuantizationConfig,
) -> dict[str, str]:
    """Correct the biases of a QDQ model in place.

    Args:
        model: the float model; ``teacher`` runs it.
        quantized_model: made from it by ``insert_quantizers``; its biases are replaced.
        plan: the calibrated plan.
        teacher: the float graph.
        statistics: BatchNormalization statistics of the float model, possibly none.
        batches: calibration data for the empirical form.
        config: ``bias_correction`` chooses the form; ``auto`` is analytic where the moments of a layer's input are
            known and empirical elsewhere.

    Returns:
        The form used, by node name.

    """
    if config.bias_correction == "none":
        return {}
    quantized = TorchGraph(quantized_model, device=teacher.device)
    used: dict[str, str] = {}
    if config.bias_correction in ("auto", "analytic"):
        moments = propagate_moments(model, statistics, teacher.initializers)
        changed = analytic_correction(model, plan, quantized, teacher, moments)
        quantized.initializers.update(changed)
        write_initializers(quantized_model, changed)
        used = {site.node: "analytic" for site in plan.weights if _has_changed(site, changed)}
    if config.bias_correction in ("auto", "empirical"):
        rest = [site.node for site in plan.weights if site.node not in used]
        changed = empirical_correction(plan, quantized, teacher, batches, rest)
        write_initializers(quantized_model, changed)
        behind = (site for site in plan.weights if site.node in rest)
        used |= {site.node: "empirical" for site in behind if _has_changed(site, changed)}
    return used


def _has_changed(site: WeightSite, changed: Mapping[str, Tensor]) -> bool:
    return site.bias in changed or codes_name(site.bias) in changed


def write_initializers(model: ir.Model, changed: Mapping[str, Tensor]) -> None:
    """Replace initializers of a model by torch tensors, keeping their ONNX types."""
    for name, tensor in changed.items():
        value = model.graph.initializers[name]
        assert value.dtype is not None
        array = tensor.detach().cpu().numpy().astype(value.dtype.numpy())
        value.const_value = ir.tensor(array, dtype=value.dtype, name=name)
