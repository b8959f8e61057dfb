"""Write a finished quantization plan into the graph as QuantizeLinear / DequantizeLinear.

    activation   v            ->  v -> [Clip] -> QuantizeLinear -> DequantizeLinear -> readers of v
    moved codes  Pad(v)       ->  v -> QuantizeLinear -> Pad -> DequantizeLinear -> readers of Pad(v)
    weight       w (float)    ->  w_quantized (int8) -> DequantizeLinear(axis) -> node
    bias         b (float)    ->  b_quantized (int32) -> DequantizeLinear(axis=0) -> node

The scale of a bias is scale(data) * scale(weight), the only one that integer kernels take. The Clip stands only where a
grid of fewer codes than its storage type is wanted (3 and 2 bit activations in UINT4). Graph outputs keep their float
value. Weights of any width are written as int8 codes; PackWeights packs them later.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.target import NumberFormat
from passes.plan import ActivationSite, QuantizationPlan, Scale, WeightSite

_INT32_LIMIT = 2.0**31 - 1
_Number = TypeVar("_Number", np.float32, np.int32)


def quantize_array(
    array: NDArray[np.floating], scale: Scale, number_format: NumberFormat, axis: int | None = None
) -> NDArray[np.int32]:
    """Round an array to codes of a grid: clip(rint(array / scale) + zero_point, qmin, qmax).

    Args:
        array: float values, any shape.
        scale: per tensor (shape ()) or per channel (shape (array.shape[axis],)).
        number_format: the grid.
        axis: channel axis of per-channel scales.

    """
    step, zero_point = _along(scale.scale, array.ndim, axis), _along(scale.zero_point, array.ndim, axis)
    codes = np.rint(array.astype(np.float64) / step) + zero_point
    return np.asarray(np.clip(codes, number_format.qmin, number_format.qmax), np.int32)


def dequantize_array(codes: NDArray[np.integer], scale: Scale, axis: int | None = None) -> NDArray[np.float32]:
    """Give codes their real values: (codes - zero_point) * scale, as float32."""
    step, zero_point = _along(scale.scale, codes.ndim, axis), _along(scale.zero_point, codes.ndim, axis)
    return np.asarray((codes.astype(np.int32) - zero_point).astype(np.float32) * step, np.float32)


@dataclass(frozen=True, slots=True)
class InsertQdq(ir.passes.InPlacePass):
    """Insert the quantizers of a plan whose scales are all known."""

    plan: QuantizationPlan

    def requires(self, model: ir.Model) -> None:
        """Refuse a plan with missing scales."""
        missing = {site.group for site in self.plan.activations} - set(self.plan.activation_scales)
        missing |= {site.initializer for site in self.plan.weights} - set(self.plan.weight_scales)
        if missing:
            raise ir.passes.PreconditionError(
                f"InsertQdq wants a scale for every site of the plan, got none for {sorted(missing)[:5]}: "
                "calibrate first"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert all sites that are not there yet."""
        writer = _Writer(model.graph, self.plan)
        modified = False
        for site in self.plan.weights:
            modified |= writer.weight(site)
        for activation in self.plan.activations:
            modified |= writer.activation(activation)
        if modified:
            writer.drop_unused_floats()
        return ir.passes.PassResult(model, modified)


class _Writer:
    """Adds quantizers to one graph; initializers of a same-scale group are made once."""

    def __init__(self, graph: ir.Graph, plan: QuantizationPlan) -> None:
        self.graph = graph
        self.plan = plan
        self.values = _values_by_name(graph)
        self.groups = {site.value: site.group for site in plan.activations}
        self._replaced: list[ir.Value] = []

    def weight(self, site: WeightSite) -> bool:
        """Quantize one weight and its bias; False when it was done before."""
        name = f"{site.initializer}_quantized"
        if name in self.graph.initializers:
            return False
        node = next(node for node in self.graph if node.name == site.node)
        scale = self.plan.weight_scales[site.initializer]
        codes = quantize_array(self._float(site.initializer), scale, site.number_format, site.axis)
        stored = ir.Value(name=name, const_value=ir.tensor(codes.astype(np.int8), name=name))
        self._dequantize_initializer(node, 1, stored, site.initializer, scale, site.axis, ir.DataType.INT8)
        if site.bias is not None and site.data_input in self.groups:
            self._bias(node, site, scale)
        return True

    def _bias(self, node: ir.Node, site: WeightSite, weight_scale: Scale) -> None:
        assert site.bias is not None
        data_scale = self.plan.activation_scales[self.groups[site.data_input]].scale
        bias = self._float(site.bias).reshape(-1)
        step = (data_scale * weight_scale.scale * np.ones_like(bias)).astype(np.float32)
        codes = np.clip(np.rint(bias.astype(np.float64) / step), -_INT32_LIMIT, _INT32_LIMIT).astype(np.int32)
        scale = Scale(scale=step, zero_point=np.zeros(step.shape, np.int32))
        stored = ir.Value(name=f"{site.bias}_quantized", const_value=ir.tensor(codes, name=f"{site.bias}_quantized"))
        self._dequantize_initializer(node, 2, stored, site.bias, scale, 0, ir.DataType.INT32)

    def _dequantize_initializer(
        self, node: ir.Node, index: int, stored: ir.Value, name: str, scale: Scale, axis: int, dtype: ir.DataType
    ) -> None:
        assert stored.const_value is not None
        _set_type(stored, stored.const_value)
        self.graph.register_initializer(stored)
        dequantize = ir.node(
            "DequantizeLinear",
            [stored, *self._parameters(name, scale, dtype)],
            {"axis": axis},
            name=f"{name}_DequantizeLinear",
        )
        _name_output(dequantize, f"{name}_dequantized", ir.DataType.FLOAT, stored.shape)
        self.graph.insert_before(node, dequantize)
        old = node.inputs[index]
        assert old is not None
        self._replaced.append(old)
        node.replace_input_with(index, dequantize.outputs[0])

    def activation(self, site: ActivationSite) -> bool:
        """Quantize one value; False when it was done before."""
        value = self.values[site.value]
        uses = list(value.uses())
        if not uses or f"{site.value}_dequantized" in self.values:
            return False
        scale = self.plan.activation_scales[site.group]
        storage, limited = _storage(site.number_format)
        if site.moved_from is not None:
            return self._moved_codes(site, value, scale, storage)
        nodes: list[ir.Node] = []
        source = value
        if limited:
            nodes.append(self._clip(site, value, scale))
            source = nodes[-1].outputs[0]
        parameters = self._parameters(site.group, scale, storage)
        nodes.append(ir.node("QuantizeLinear", [source, *parameters], name=f"{site.value}_QuantizeLinear"))
        nodes.append(
            ir.node("DequantizeLinear", [nodes[-1].outputs[0], *parameters], name=f"{site.value}_DequantizeLinear")
        )
        _name_output(nodes[-2], f"{site.value}_quantized", storage, value.shape)
        _name_output(nodes[-1], f"{site.value}_dequantized", ir.DataType.FLOAT, value.shape)
        self._insert_behind(value, nodes)
        self.values[f"{site.value}_quantized"] = nodes[-2].outputs[0]
        for use in uses:
            use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
        return True

    def _moved_codes(self, site: ActivationSite, value: ir.Value, scale: Scale, storage: ir.DataType) -> bool:
        """Let the producer read and make codes, and dequantize behind it."""
        node = value.producer()
        codes = self.values.get(f"{site.moved_from}_quantized")
        assert node is not None and codes is not None, "sites are in graph order, so the source was quantized before"
        node.replace_input_with(0, codes)
        if node.op_type == "Pad":
            self._fill_with_code(node, site, scale, storage)
        parameters = self._parameters(site.group, scale, storage)
        dequantize = ir.node("DequantizeLinear", [value, *parameters], name=f"{site.value}_DequantizeLinear")
        _name_output(dequantize, f"{site.value}_dequantized", ir.DataType.FLOAT, value.shape)
        uses = list(value.uses())
        self._insert_behind(value, [dequantize])
        for use in uses:
            if use.node is not dequantize:
                use.node.replace_input_with(use.idx, dequantize.outputs[0])
        value.dtype = storage
        self.values[f"{site.value}_quantized"] = value
        return True

    def _fill_with_code(self, node: ir.Node, site: ActivationSite, scale: Scale, storage: ir.DataType) -> None:
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        real = np.zeros((), np.float32) if fill is None else self._float(str(fill.name)).reshape(())
        code = quantize_array(real, scale, site.number_format).astype(storage.numpy())
        node.resize_inputs(max(3, len(node.inputs)))
        node.replace_input_with(2, self._initializer(f"{site.value}_fill", ir.tensor(code, dtype=storage)))
        if fill is not None:
            self._replaced.append(fill)

    def _clip(self, site: ActivationSite, value: ir.Value, scale: Scale) -> ir.Node:
        codes = np.array([site.number_format.qmin, site.number_format.qmax], np.int32)
        low, high = dequantize_array(codes, scale)
        limits = [
            self._initializer(f"{site.group}_{name}", ir.tensor(np.float32(limit)))
            for name, limit in (("low", low), ("high", high))
        ]
        clip = ir.node("Clip", [value, *limits], name=f"{site.value}_Clip")
        _name_output(clip, f"{site.value}_clipped", ir.DataType.FLOAT, value.shape)
        return clip

    def _insert_behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    def _parameters(self, name: str, scale: Scale, dtype: ir.DataType) -> tuple[ir.Value, ir.Value]:
        zero_point = ir.tensor(scale.zero_point.astype(dtype.numpy()), dtype=dtype)
        return (
            self._initializer(f"{name}_scale", ir.tensor(scale.scale.astype(np.float32))),
            self._initializer(f"{name}_zero_point", zero_point),
        )

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self.graph.initializers:
            value = ir.Value(name=name, const_value=tensor)
            _set_type(value, tensor)
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def _float(self, name: str) -> NDArray[np.float32]:
        tensor = self.graph.initializers[name].const_value
        assert tensor is not None
        return np.asarray(tensor.numpy(), np.float32)

    def drop_unused_floats(self) -> None:
        """Remove the float initializers that nothing reads any more."""
        for value in self._replaced:
            if not value.uses() and value.name in self.graph.initializers:
                del self.graph.initializers[str(value.name)]


def _storage(number_format: NumberFormat) -> tuple[ir.DataType, bool]:
    """ONNX type that holds the codes, and whether it has more codes than the grid."""
    width = next(width for width in (4, 8, 16) if width >= number_format.bits)
    dtype = ir.DataType[f"{'' if number_format.signed else 'U'}INT{width}"]
    limited = number_format.bits < width or number_format.narrow
    return dtype, limited


def _along(parameter: NDArray[_Number], rank: int, axis: int | None) -> NDArray[_Number]:
    if axis is None or parameter.ndim == 0:
        return parameter
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


def _name_output(node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, dtype, shape


def _set_type(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.dtype, value.shape = tensor.dtype, ir.Shape(tensor.shape.numpy())


def _values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    values = {str(value.name): value for value in graph.inputs}
    values.update({str(value.name): value for node in graph for value in node.outputs})
    return values
