"""Write a calibrated quantization plan into the graph as QuantizeLinear / DequantizeLinear.

    activation   v            ->  v -> QuantizeLinear -> [Clip] -> DequantizeLinear -> readers of v
    moved codes  Pad(v)       ->  v -> QuantizeLinear -> Pad -> DequantizeLinear -> readers of Pad(v)
    weight       w (float)    ->  w_quantized (int8) -> DequantizeLinear(axis) -> node
    constant     c (float)    ->  c_quantized (int8) -> Cast -> Mul(c_stored_scale) -> node, which computes in float
    bias         b (float)    ->  b_quantized (int32) -> DequantizeLinear(axis=0) -> node; see also ``shared_bias``

The scale of a bias is scale(data) * scale(weight), the only one that integer kernels take. It is written as that
product, which a runtime computes once, at load: so it stays true while scales are learned, and takes no room. The Clip
works on codes and stands only where a format has fewer codes than its storage type: 4 bits are uint8 codes clipped to
0..15, because ONNX Runtime fuses convolutions between UINT4 quantizers into nodes that it cannot load. Graph outputs
stay float unless the plan says otherwise. Weights of any width are written as int8 codes; PackWeights packs them later.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.target import NumberFormat
from passes.graph_pass import GraphPass
from passes.plan import ActivationSite, QuantizationPlan, Scale, StoredSite, WeightSite
from passes.qdq_names import (
    codes_name,
    dequantized_name,
    end_code_name,
    fill_name,
    node_name,
    rounded_name,
    scale_name,
    undone_name,
    zero_point_name,
)
from passes.quantize.quantized_clips import before_redundant_clip, close_clip
from passes.quantize.shared_bias import bias_codes
from passes.quantizer_grid import quantize_array, storage_type
from passes.surgery import first_reader, input_at, set_type

_INT32_LIMIT = 2.0**31 - 1


@dataclass(frozen=True, slots=True)
class InsertQdq(GraphPass):
    """Insert the quantizers of a plan whose scales are all known.

    With ``final`` a float Clip that its quantizer makes redundant is left out; a graph whose scales are still to be
    learned keeps it.
    """

    plan: QuantizationPlan
    final: bool = True

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError for missing scales, or constants that would need two."""
        missing = {site.group for site in self.plan.activations} - set(self.plan.activation_scales)
        missing |= self.plan.bits_by_initializer.keys() - set(self.plan.weight_scales)
        if missing:
            raise ir.passes.PreconditionError(
                f"InsertQdq requires a scale for every site of the plan, got none for {sorted(missing)[:5]}: "
                "calibrate first"
            )
        grids = {(site.initializer, (site.axis, site.number_format)) for site in self.plan.weights}
        owners = {(site.bias, site.initializer) for site in self.plan.weights if site.bias}
        shared = [name for name, count in Counter(name for name, _ in (*grids, *owners)).items() if count > 1]
        if shared:
            raise ir.passes.PreconditionError(
                f"InsertQdq requires one grid for a weight that layers share, one weight for a bias that they share, "
                f"got others that share {shared[:5]}: run ShareWeights before the plan is made"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert all sites that are not inserted yet."""
        writer = _Writer(model.graph, self.plan, self.final)
        modified = False
        for site in self.plan.weights:
            modified |= writer.weight(site)
        for constant in self.plan.stored:
            modified |= writer.constant(constant)
        for activation in self.plan.activations:
            modified |= writer.activation(activation)
        if modified:
            writer.drop_unused()
        return ir.passes.PassResult(model, modified)


class _Writer:
    """Adds quantizers to one graph; initializers of a same-scale group are made once."""

    def __init__(self, graph: ir.Graph, plan: QuantizationPlan, final: bool) -> None:
        self.graph = graph
        self.final = final
        self.plan = plan
        self.groups = {site.value: site.group for site in plan.activations}
        self.nodes = {node.name: node for node in graph}
        self.values = _values_by_name(graph)
        self.codes: dict[str, ir.Value] = {}
        self._names = {**self.values, **graph.initializers}
        self._made: dict[str, ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}
        self._bias_readers = Counter(site.bias for site in plan.weights)
        self._replaced: list[ir.Value] = []

    def weight(self, site: WeightSite) -> bool:
        """Quantize one weight and its bias; False when it was done before."""
        node = self.nodes[site.node]
        weight = node.inputs[1]
        if weight is None or weight.const_value is None:  # by now it may have another name
            return False
        scale = self.plan.weight_scales[site.initializer]
        if weight not in self._weights:  # else a layer in front shares it
            codes = quantize_array(_float(weight), scale, site.number_format, site.axis).astype(np.int8)
            parameters = self._parameters(site.initializer, scale, ir.DataType.INT8)
            stored = self._initializer(codes_name(site.initializer), ir.tensor(codes))
            self._weights[weight] = self._dequantized_constant(node, stored, site.initializer, parameters, site.axis)
        self._replace(node, 1, self._weights[weight])
        if site.bias is not None and site.data_input in self.groups:
            self._bias(node, site, scale)
        return True

    def _bias(self, node: ir.Node, site: WeightSite, weight_scale: Scale) -> None:
        group, value = self.groups[site.data_input], node.inputs[2]
        assert value is not None
        owner = str(site.bias) if self._bias_readers[site.bias] == 1 else f"{site.node}.bias"
        data_scale = self.plan.activation_scales[group].scale
        factors = [self._scale(group, data_scale), self._scale(site.initializer, weight_scale.scale)]
        name = scale_name(owner)
        product = ir.node("Mul", factors, name=node_name(name, "Mul"))
        self._name_output(product, name, ir.DataType.FLOAT, factors[1].shape)
        self.graph.insert_before(node, product)
        if owner == site.bias:
            bias = _float(value).reshape(-1)
            step = (data_scale * weight_scale.scale * np.ones_like(bias)).astype(np.float32)
            codes = np.clip(np.rint(bias.astype(np.float64) / step), -_INT32_LIMIT, _INT32_LIMIT).astype(np.int32)
            stored = self._initializer(codes_name(owner), ir.tensor(codes))
        else:
            made = bias_codes(value, product.outputs[0], codes_name(owner))
            self.graph.insert_before(node, made)
            stored = made[-1].outputs[0]
        axis = None if weight_scale.scale.ndim == 0 else 0
        self._replace(node, 2, self._dequantized_constant(node, stored, owner, product.outputs, axis))

    def _dequantized_constant(
        self, node: ir.Node, stored: ir.Value, name: str, parameters: Sequence[ir.Value], axis: int | None
    ) -> ir.Value:
        attributes = {} if axis is None else {"axis": axis}
        op_type = "DequantizeLinear"
        dequantize = ir.node(op_type, [stored, *parameters], attributes, name=node_name(name, op_type))
        self._name_output(dequantize, dequantized_name(name), ir.DataType.FLOAT, stored.shape)
        self.graph.insert_before(node, dequantize)
        return dequantize.outputs[0]

    def constant(self, site: StoredSite) -> bool:
        """Store one constant as codes, widened in front of its first reader; False when it was done before.

        The codes of a tied one are those of a layer's weight, transposed where its channels are columns.
        """
        value = self.graph.initializers.get(site.initializer)
        if value is None or value.const_value is None:
            return False
        readers, owner = value.uses(), f"{site.initializer}_stored"
        scale, nodes = self.plan.weight_scales[site.tied or site.initializer], list[ir.Node]()
        if site.tied is None:
            codes = quantize_array(_float(value), scale, site.number_format).astype(np.int8)
            stored = self._initializer(codes_name(site.initializer), ir.tensor(codes))
        else:
            stored = self.graph.initializers[codes_name(site.tied)]
            if next(one.axis for one in self.plan.weights if one.initializer == site.tied) == 1:
                nodes.append(ir.node("Transpose", [stored], {"perm": [1, 0]}, name=node_name(owner, "Transpose")))
                self._name_output(nodes[0], codes_name(site.initializer), ir.DataType.INT8, value.shape)
                stored = nodes[0].outputs[0]
        step = self._scale(owner, scale.scale if site.tied is None else scale.scale.reshape(-1, 1))
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value}, name=node_name(owner, "Cast"))
        product = ir.node("Mul", [cast.outputs[0], step], name=node_name(owner, "Mul"))
        self._name_output(cast, rounded_name(site.initializer), ir.DataType.FLOAT, value.shape)
        self._name_output(product, dequantized_name(site.initializer), ir.DataType.FLOAT, value.shape)
        self.graph.insert_before(first_reader(self.graph, value), [*nodes, cast, product])
        for use in readers:
            self._replace(use.node, use.idx, product.outputs[0])
        return True

    def activation(self, site: ActivationSite) -> bool:
        """Quantize one value; False when it was done before, or when nobody would read it."""
        if node_name(site.value, "QuantizeLinear") in self.nodes:
            return False
        value, storage = self.values[site.value], _storage(site.number_format)
        exposed = self.plan.quantize_outputs and value.is_graph_output() and not value.is_graph_input()
        readers = [use for use in value.uses() if not self._reads_float(use.node, site)]
        if value.dtype == storage or not (readers or exposed):
            return False
        op_type = "DequantizeLinear"
        nodes = self._quantize(site, value) if site.moved_from is None else self._move_codes(site, value)
        parameters = self._parameters(site.group, self.plan.activation_scales[site.group], storage)
        nodes.append(ir.node(op_type, [self.codes[site.value], *parameters], name=node_name(site.value, op_type)))
        self._name_output(nodes[-1], dequantized_name(site.value), ir.DataType.FLOAT, value.shape)
        self._insert_behind(value, nodes)
        for use in readers:
            use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
        close_clip(self.graph, value, self.plan.activation_scales[site.group])
        if exposed:
            self._expose(value, nodes[-1].outputs[0])
        return True

    def _reads_float(self, node: ir.Node, site: ActivationSite) -> bool:
        return node.graph is self.graph and node.name in site.float_readers

    def _quantize(self, site: ActivationSite, value: ir.Value) -> list[ir.Node]:
        """Make the nodes from a float value to its codes."""
        storage, scale = _storage(site.number_format), self.plan.activation_scales[site.group]
        clipped = site.number_format.levels < 1 << storage.bitwidth
        source = before_redundant_clip(value, scale, site.number_format) if clipped and self.final else value
        if source is not value:
            self._replaced.append(value)
        parameters = self._parameters(site.group, scale, storage)
        op_type = "QuantizeLinear"
        nodes = [ir.node(op_type, [source, *parameters], name=node_name(site.value, op_type))]
        name = rounded_name(site.value) if clipped else codes_name(site.value)
        self._name_output(nodes[0], name, storage, value.shape)
        if clipped:
            limits = [
                self._initializer(name, ir.tensor(np.array(code, storage.numpy())))
                for name, code in (
                    (end_code_name(site.group, "lowest"), site.number_format.qmin),
                    (end_code_name(site.group, "highest"), site.number_format.qmax),
                )
            ]
            nodes.append(ir.node("Clip", [nodes[0].outputs[0], *limits], name=node_name(site.value, "Clip")))
            self._name_output(nodes[-1], codes_name(site.value), storage, value.shape)
        self.codes[site.value] = nodes[-1].outputs[0]
        return nodes

    def _move_codes(self, site: ActivationSite, value: ir.Value) -> list[ir.Node]:
        """Make the producer of a value read and make codes, without further nodes."""
        node, storage = value.producer(), _storage(site.number_format)
        assert node is not None and site.moved_from is not None
        # sites are in graph order, so the source was quantized before
        self._replace(node, 0, self.codes[site.moved_from])
        if node.op_type == "Pad":
            fill = input_at(node, 2)
            real = np.zeros((), np.float32) if fill is None else _float(fill).reshape(())
            scale = self.plan.activation_scales[site.group]
            code = quantize_array(real, scale, site.number_format).astype(storage.numpy())
            node.resize_inputs(max(3, len(node.inputs)))
            self._replace(node, 2, self._initializer(fill_name(site.value), ir.tensor(code)))
        set_type(value, storage, value.shape)
        self.codes[site.value] = value
        return []

    def _expose(self, value: ir.Value, dequantized: ir.Value) -> None:
        """Make a dequantized value the graph output, under the name of the float one."""
        outputs, name = self.graph.outputs, value.name
        for index in [index for index, output in enumerate(outputs) if output is value]:
            outputs[index] = dequantized
        self._claim(undone_name(name))
        value.name, dequantized.name = undone_name(name), name

    def _insert_behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    def _parameters(self, name: str, scale: Scale, dtype: ir.DataType) -> tuple[ir.Value, ir.Value]:
        zero_point = ir.tensor(scale.zero_point.astype(dtype.numpy()), dtype=dtype)
        return self._scale(name, scale.scale), self._initializer(zero_point_name(name), zero_point)

    def _scale(self, name: str, scale: NDArray[np.float32]) -> ir.Value:
        return self._initializer(scale_name(name), ir.tensor(scale.astype(np.float32)))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self._made:
            self._claim(name)
            kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            value = ir.Value(name=name, const_value=tensor, type=kind, shape=shape)
            self.graph.register_initializer(value)
            self._made[name] = value
        return self._made[name]

    def _name_output(self, node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
        self._claim(name)
        node.outputs[0].name = name
        set_type(node.outputs[0], dtype, shape)

    def _claim(self, name: str) -> None:
        """Rename the value of the model, if any, that has a name which is needed here."""
        value = self._names.pop(name, None)
        if value is None:
            return
        if value.is_graph_input() or value.is_graph_output():
            raise ir.passes.PassError(
                f"InsertQdq requires the name '{name}' for a value of its own, got a graph input or output of that "
                "name: run FreeNames before the plan is made"
            )
        value.name = next(free for free in (f"{name}_{i}" for i in itertools.count(1)) if free not in self._names)
        self._names[value.name] = value

    def _replace(self, node: ir.Node, index: int, new: ir.Value) -> None:
        old = node.inputs[index]
        node.replace_input_with(index, new)
        if old is not None:
            self._replaced.append(old)

    def drop_unused(self) -> None:
        """Remove what was replaced and has no readers left: float constants, Clips, dequantizers in front of moves."""
        pending = list(dict.fromkeys(self._replaced))
        while pending:
            value = pending.pop()
            node = value.producer()
            if value.uses() or value.is_graph_output():
                continue
            if node is not None and node.graph is not None:
                pending.extend(source for source in node.inputs if source is not None and source.is_initializer())
                self.graph.remove(node, safe=True)
            elif value.is_initializer() and value.name in self.graph.initializers:
                del self.graph.initializers[str(value.name)]


def _storage(number_format: NumberFormat) -> ir.DataType:
    return storage_type(number_format.bits, number_format.signed)


def _float(value: ir.Value | None) -> NDArray[np.float32]:
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float32)


def _values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    values = {str(value.name): value for value in graph.inputs}
    values.update({str(value.name): value for node in graph for value in node.outputs})
    return values
