"""From a tiny ONNX graph to a calibrated plan with nothing but numpy and ONNX Runtime, as an oracle for the passes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from backends.session import open_session
from backends.target import NumberFormat
from passes.add_missing_bias import AddMissingBias
from passes.fold_batchnorm import FoldBatchNorm
from passes.insert_qdq import InsertQdq
from passes.plan import QuantizationPlan, Scale

Arrays = dict[str, NDArray[Any]]


def prepare(model: onnx.ModelProto) -> ir.Model:
    """Fold BatchNormalization, add biases, and infer shapes: the form that place_quantizers reads."""
    working = ir.from_proto(model)
    return ir.passes.Sequential(FoldBatchNorm(), AddMissingBias(), common.ShapeInferencePass())(working).model


def execute(model: ir.Model | onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], *, optimize: Any = "all") -> Arrays:
    """Graph outputs in ONNX Runtime, after a full check."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    onnx.checker.check_model(proto, full_check=True)
    return open_session(proto, threads=1, optimize=optimize).run(feeds)


def every_value(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """Every value of the graph, feeds included, as ONNX Runtime computes it without optimisation."""
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return {**feeds, **open_session(proto, threads=1, optimize="none").run(feeds)}


def with_scales(plan: QuantizationPlan, model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> QuantizationPlan:
    """Min-max scales: of every group over its values on the feeds, of every weight channel over its numbers."""
    values = every_value(model, feeds)
    reached: dict[str, list[float]] = {}
    formats: dict[str, NumberFormat] = {}
    for site in plan.activations:
        array = values[site.value]
        reached.setdefault(site.group, [0.0]).extend((float(array.min()), float(array.max())))
        formats[site.group] = site.number_format
    activations = {group: _asymmetric(min(ends), max(ends), formats[group]) for group, ends in reached.items()}
    weights = {}
    for site in plan.weights:
        constant = model.graph.initializers[site.initializer].const_value
        assert constant is not None
        rows = np.moveaxis(constant.numpy(), site.axis, 0).reshape(constant.shape[site.axis], -1)
        step = (np.maximum(np.abs(rows).max(1), 1e-6) / site.number_format.qmax).astype(np.float32)
        weights[site.initializer] = Scale(scale=step, zero_point=np.zeros(step.shape, np.int32))
    return plan.with_scales(activations=activations, weights=weights)


def _asymmetric(low: float, high: float, number_format: NumberFormat) -> Scale:
    levels = number_format.qmax - number_format.qmin
    step = np.float32(max(high - low, 1e-3) / levels)
    if low == 0.0:
        step = np.nextafter(step, np.float32(0.0))
    zero_point = np.clip(round(-low / float(step)), 0, levels) + number_format.qmin
    return Scale(scale=np.asarray(step, np.float32), zero_point=np.asarray(zero_point, np.int32))


def inserted(model: ir.Model, plan: QuantizationPlan) -> ir.Model:
    """A copy of the model with the plan written in."""
    copy = model.clone()
    InsertQdq(plan)(copy)
    return copy


def optimized_operators(model: ir.Model | onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime executes."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    open_session(proto, threads=1, optimized_path=folder / "optimized.onnx")
    optimized = onnx.load(folder / "optimized.onnx", load_external_data=False)
    return [node.op_type for node in optimized.graph.node]


def sqnr(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to quantization noise in dB."""
    error = np.square(np.asarray(reference, np.float64) - other).sum()
    return float(10.0 * np.log10(np.square(np.asarray(reference, np.float64)).sum() / max(error, 1e-300)))


def random_feeds(model: ir.Model | onnx.ModelProto, *, batch: int = 4, seed: int = 0) -> Arrays:
    """Standard normal numbers for every graph input; dynamic sizes become ``batch``."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.standard_normal(
            [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in proto.graph.input
    }
