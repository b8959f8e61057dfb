"""From a tiny ONNX graph to a calibrated plan with nothing but numpy and ONNX Runtime, as an oracle for the passes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from backends.session import open_session
from backends.target import NumberFormat
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.normalize.share_weights import ShareWeights
from passes.plan import QuantizationPlan, Scale
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.insert_qdq import InsertQdq

Arrays = dict[str, NDArray[Any]]


def prepare(model: onnx.ModelProto) -> ir.Model:
    """Fold BatchNormalization, own weights and biases for every layer, known shapes: what place_quantizers reads."""
    working = ir.from_proto(model)
    return ir.passes.Sequential(ShareWeights(), FoldBatchNorm(), AddMissingBias(), common.ShapeInferencePass())(
        working
    ).model


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
        others = None if site.axis is None else tuple(i for i in range(len(constant.shape)) if i != site.axis)
        reach = np.maximum(np.abs(constant.numpy()).max(others), 1e-6)
        step = np.asarray(reach / site.number_format.qmax, np.float32)
        weights[site.initializer] = Scale(scale=step, zero_point=np.zeros(step.shape, np.int32))
    for stored in plan.stored:
        constant = model.graph.initializers[stored.initializer].const_value
        assert constant is not None
        reach = np.maximum(np.abs(constant.numpy()).max(-1, keepdims=True), 1e-6)
        step = np.asarray(reach / stored.number_format.qmax, np.float32)
        weights[stored.initializer] = Scale(scale=step, zero_point=np.zeros(step.shape, np.int32))
    return plan.with_scales(activations=activations, weights=weights)


def _asymmetric(low: float, high: float, number_format: NumberFormat) -> Scale:
    if number_format.symmetric:
        middle = 0 if number_format.signed else (number_format.qmax + 1) // 2
        half = np.float32(max(-low, high, 1e-3) / (number_format.qmax - middle))
        return Scale(scale=np.asarray(half), zero_point=np.asarray(middle, np.int32))
    levels = number_format.qmax - number_format.qmin
    step = np.float32(max(high - low, 1e-3) / levels)
    if low == 0.0:
        step = np.nextafter(step, np.float32(0.0))
    zero_point = np.clip(round(-low / float(step)), 0, levels) + number_format.qmin
    return Scale(scale=np.asarray(step, np.float32), zero_point=np.asarray(zero_point, np.int32))


def fake_quantized(array: NDArray[Any], scale: Scale, number_format: NumberFormat, axis: int | None = None) -> Any:
    """Round to the grid and back, in float32 as ONNX defines QuantizeLinear and DequantizeLinear."""
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    step, zero = scale.scale.reshape(shape), scale.zero_point.reshape(shape)
    codes = np.clip(np.rint(array / step) + zero, number_format.qmin, number_format.qmax)
    return ((codes - zero) * step).astype(np.float32).reshape(array.shape)


def simulate(model: ir.Model, plan: QuantizationPlan, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run the float graph node by node in numpy, rounding every site of the plan to its grid as soon as it is made."""
    proto = ir.to_proto(model)
    values: Arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    groups = {site.value: site.group for site in plan.activations}
    biases: Arrays = {}  # by node: layers that share one round it to steps of their own
    for site in plan.weights:
        scale = plan.weight_scales[site.initializer]
        values[site.initializer] = fake_quantized(values[site.initializer], scale, site.number_format, site.axis)
        if site.bias is not None and site.data_input in groups:
            step = plan.activation_scales[groups[site.data_input]].scale * scale.scale
            biases[site.node] = (np.rint(values[site.bias] / step) * step).astype(np.float32)
    rounded = {site.value: site for site in plan.activations}
    kept = {site.value: site.float_readers for site in plan.activations}
    outputs: Arrays = {}
    floats: Arrays = {}

    def made(name: str, array: NDArray[Any]) -> None:
        values[name] = outputs[name] = floats[name] = array
        if name in rounded:
            site = rounded[name]
            values[name] = fake_quantized(array, plan.activation_scales[site.group], site.number_format)
            outputs[name] = values[name] if plan.quantize_outputs else array

    for name, array in feeds.items():
        made(name, array)
    for node in proto.graph.node:
        inputs = {name: values[name] for name in node.input if name}
        inputs |= {name: floats[name] for name in inputs if node.name in kept.get(name, ())}
        if node.name in biases:
            inputs[node.input[2]] = biases[node.name]
        for name, array in zip(node.output, _one_node(node, inputs, proto), strict=True):
            made(name, array)
    return {value.name: outputs[value.name] for value in proto.graph.output}


def _one_node(node: onnx.NodeProto, inputs: Arrays, proto: onnx.ModelProto) -> list[Any]:
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import)
    if node.op_type == "ConvTranspose":  # the reference implementation fails on groups
        model.ir_version = proto.ir_version
        return list(open_session(model, threads=1, optimize="none").run(inputs).values())
    return list(onnx.reference.ReferenceEvaluator(model).run(None, inputs))


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
    """Standard normal numbers, of its type, for every graph input; dynamic sizes become ``batch``."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.standard_normal([dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]).astype(
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in proto.graph.input
    }
