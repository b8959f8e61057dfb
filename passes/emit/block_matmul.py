"""Write large 4-bit matrix products so that ONNX Runtime fuses them into MatMulNBits, which reads INT4 weights.

    Gemm(DQ(Q(x)), DQ(w int8, scale), DQ(bias))   ->
    Sub(MatMul(x, DQ(w INT4, Expand(scale), axis=0, block_size)), -bias)

Weights keep their numbers: every block of a column has the scale of the column, and the file does not grow. The codes
of a transposed Gemm are transposed. Data that are made in float lose their quantizer, if nobody else reads it. Outputs
of integer kernels keep it (that kernel would run in float without it), and so do values of fewer bits, as requested:

    MatMul(DQ(Q(x)), w)   ->   MatMul(Flatten(DQ(Q(x))), w)

The Flatten, of a matrix to itself, and the Sub in place of an Add keep other fusions of the runtime away: with
DequantizeLinear directly in front of the MatMul, or an Add, Relu, Clip or QuantizeLinear directly behind it, it would
make no MatMulNBits, but widen the weights on every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.constants import constant_value
from passes.emit.pack_weights import narrow
from passes.graph_pass import GraphPass, Outcome
from passes.operators import DENSE
from passes.plan import Refusal
from passes.surgery import (
    add_constant,
    dequantizer,
    drop_unused,
    free_name,
    free_node_name,
    has_readers,
    input_at,
    is_standard,
    producer,
    remove_unread,
    rule_of,
    take_over,
)

UNFUSABLE_READERS = ("Add", "Relu", "Clip", "QuantizeLinear")
"""Operators that keep the runtime from fusing a MatMul which they read."""


@dataclass(frozen=True, slots=True)
class BlockMatMul(GraphPass):
    """Rewrite those Gemm and MatMul whose weight is a candidate; refused are those that do not fit the target's rule.

    ``candidates`` names int8 initializers whose codes fit into INT4.
    """

    candidates: frozenset[str]
    target: Target

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in graph order, so that the data of a layer behind a rewritten one are known to be float."""
        if not self.target.blockwise.block_size:
            return Outcome(model, False)
        writer, refusals, modified = _Writer(model.graph, self.target), [], False
        for node in list(model.graph):
            codes = _codes(node)
            if codes is None or codes.name not in self.candidates:
                continue
            reason = self._refusal(node, codes)
            if reason is None:
                writer.rewrite(node)
                modified = True
            else:
                refusals.append(Refusal.of(node, reason))
        return Outcome(model, modified, tuple(refusals))

    def _refusal(self, node: ir.Node, codes: ir.Value) -> str | None:
        """Why a layer does not fit, or None."""
        rule, count = self.target.blockwise, prod(_sizes(codes))
        if count < rule.least_weights:
            return f"it has {count} weights, and {self.target.name} writes them in blocks from {rule.least_weights} on"
        if len(_sizes(codes)) != 2:
            return "its weight is no matrix"
        if len(codes.uses()) > 1 or node.inputs[1] is None or len(node.inputs[1].uses()) > 1:
            return "others read its weight, too"
        scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
        if scaled or node.attributes.get_int("transA", 0) == 1:
            return "it transposes its data, or scales its product or its bias"
        if input_at(node, 2) is not None and constant_value(node.inputs[2]) is None:
            return "its bias is computed"
        rows = row_count(node.inputs[0])
        if rows is None:
            return "the number of rows of its data is not known"
        if rows > rule.most_rows:
            return f"its data have {rows} rows, and with more than {rule.most_rows} blocks are slower"
        return _flatten_refusal(node, self.target)


class _Writer:
    """Rewrites layers of one graph; several that read one value share a Flatten."""

    def __init__(self, graph: ir.Graph, target: Target) -> None:
        self._graph = graph
        self._target = target
        self._flattened: dict[ir.Value, ir.Value] = {}

    def rewrite(self, node: ir.Node) -> None:
        former = tuple(node.inputs)
        product = ir.node("MatMul", [self._data(node), self._weight(node)], name=node.name)
        product.outputs[0].name = free_name(self._graph, f"{node.name}_product")
        makers = dict.fromkeys(producer(node, position) for position in range(len(former)))
        behind = self._behind(node, product.outputs[0])
        self._place(node, [product, *behind])
        for maker in makers:
            if maker is not None and maker.graph is not None and not has_readers(maker):
                remove_unread(self._graph, maker)
        drop_unused(self._graph, former)

    def _data(self, node: ir.Node) -> ir.Value:
        """Return float data that no DequantizeLinear makes."""
        data = node.inputs[0]
        assert data is not None
        source = _before_quantizer(data, self._target)
        if source is not None:
            return source
        if data not in self._flattened:
            self._flattened[data] = self._insert(node, "Flatten", [data], f"{node.name}_data", {"axis": 1})
        return self._flattened[data]

    def _weight(self, node: ir.Node) -> ir.Value:
        """Make the dequantizer of a weight one of INT4 in blocks."""
        weight, codes = node.inputs[1], _codes(node)
        dequantize = None if weight is None else weight.producer()
        assert weight is not None and codes is not None and codes.const_value is not None and dequantize is not None
        array = codes.const_value.numpy()
        array = np.ascontiguousarray(array.T) if node.attributes.get_int("transB", 0) == 1 else array
        codes.const_value, codes.shape = ir.tensor(array, name=codes.name), ir.Shape(array.shape)
        narrow(codes, "BlockMatMul")
        size = self._target.blockwise.block_size
        shape = np.array([-(-array.shape[0] // size), array.shape[1]], np.int64)
        blocks = add_constant(self._graph, f"{codes.name}_blocks", shape)
        former = tuple(dequantize.inputs[1:])
        scales = self._insert(dequantize, "Expand", [former[0], blocks], f"{codes.name}_scales", {})
        scales.shape = ir.Shape(shape.tolist())
        dequantize.resize_inputs(2)
        dequantize.replace_input_with(1, scales)
        dequantize.attributes["axis"] = ir.AttrInt64("axis", 0)
        dequantize.attributes["block_size"] = ir.AttrInt64("block_size", size)
        weight.shape = ir.Shape(array.shape)
        drop_unused(self._graph, former[1:])
        return weight

    def _behind(self, node: ir.Node, product: ir.Value) -> list[ir.Node]:
        """Make the node that adds the bias, or that only separates the product from an UNFUSABLE_READER."""
        name, value = free_node_name(self._graph, f"{node.name}_behind"), input_at(node, 2)
        if value is not None:
            bias = constant_value(value)
            assert bias is not None
            negative = add_constant(self._graph, f"{value.name}_negative", -bias.astype(np.float32))
            return [ir.node("Sub", [product, negative], name=name)]
        if _unfusable_readers(node.outputs[0]):
            return [ir.node("Flatten", [product], {"axis": 1}, name=name)]
        return []

    def _place(self, node: ir.Node, made: Sequence[ir.Node]) -> None:
        """Put nodes in the place of one, whose output the last one makes."""
        old, new = node.outputs[0], made[-1].outputs[0]
        for one in made:
            one.outputs[0].type, one.outputs[0].shape = old.type, None if old.shape is None else old.shape.copy()
        self._graph.insert_before(node, made)
        take_over(old, new)
        self._graph.remove(node, safe=True)

    def _insert(
        self, before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], name: str, attributes: dict[str, int]
    ) -> ir.Value:
        made = ir.node(op_type, inputs, attributes, name=free_node_name(self._graph, f"{name}_{op_type}"))
        output, like = made.outputs[0], inputs[0]
        output.name, output.type = free_name(self._graph, name), None if like is None else like.type
        output.shape = None if like is None or like.shape is None else like.shape.copy()
        self._graph.insert_before(before, made)
        return output


def row_count(data: ir.Value | None) -> int | None:
    """Count the rows of a value for one sample, along all axes but the last; None where they are not known.

    An open first axis is the batch, unless a Reshape in front has put other axes into it, whose sizes count then.
    """
    if data is None or data.shape is None:
        return None
    if len(data.shape) < 2:
        return 1
    inner = [size for size in data.shape[1:-1] if isinstance(size, int)]
    first = _first_size(data)
    return None if first is None or len(inner) < len(data.shape) - 2 else first * prod(inner)


def _first_size(value: ir.Value) -> int | None:
    """Size of a value's first axis for one sample."""
    size = None if value.shape is None else value.shape[0]
    if isinstance(size, int):
        return size
    maker = value.producer()
    while maker is not None and not is_standard(maker, "Reshape"):  # all other operators keep the first axis
        maker = producer(maker, 0)
    source = None if maker is None else maker.inputs[0]
    if maker is None or source is None:
        return 1
    before, after = (_sizes_behind(one) for one in (source, maker.outputs[0]))
    first = _first_size(source)
    return None if before is None or not after or first is None else first * before // after


def _sizes_behind(value: ir.Value) -> int | None:
    """Product of all sizes of a value but the first; None where one is open."""
    sizes = () if value.shape is None else value.shape[1:]
    if value.shape is None or not all(isinstance(size, int) for size in sizes):
        return None
    return prod(int(size) for size in sizes if isinstance(size, int))


def is_block_matmul(node: ir.Node | None) -> bool:
    """Tell whether a node multiplies by weights in blocks."""
    maker = None if node is None else _weight_maker(node)
    return maker is not None and maker.attributes.get_int("block_size", 0) != 0


def _weight_maker(node: ir.Node) -> ir.Node | None:
    """DequantizeLinear of a Gemm's or MatMul's weight."""
    return dequantizer(node, 1) if is_standard(node, *DENSE) else None


def _codes(node: ir.Node) -> ir.Value | None:
    """Constant int8 codes of a Gemm's or MatMul's weight."""
    maker = _weight_maker(node)
    codes = None if maker is None else maker.inputs[0]
    return codes if codes is not None and codes.const_value is not None and codes.dtype == ir.DataType.INT8 else None


def _sizes(codes: ir.Value) -> tuple[int, ...]:
    assert codes.const_value is not None
    return tuple(codes.const_value.shape.numpy())


def _flatten_refusal(node: ir.Node, target: Target) -> str | None:
    """Why a Flatten, which only keeps a matrix as it is, cannot separate the layer from its neighbours, or None."""
    data = node.inputs[0]
    if data is None or data.shape is None or len(data.shape) == 2:
        return None
    if _before_quantizer(data, target) is None:
        return "its data are quantized and no matrix"
    if _unfusable_readers(node.outputs[0]):
        return f"its output is no matrix, and one of {', '.join(UNFUSABLE_READERS)} reads it"
    return None


def _unfusable_readers(output: ir.Value) -> bool:
    return any(is_standard(use.node, *UNFUSABLE_READERS) for use in output.uses())


def _before_quantizer(data: ir.Value, target: Target) -> ir.Value | None:
    """Float value that can be read in the place of ``data``; None where its quantizer has to stay."""
    dequantize = data.producer()
    if dequantize is None or not is_standard(dequantize, "DequantizeLinear"):
        return data
    quantize = producer(dequantize, 0)
    if quantize is None or not is_standard(quantize, "QuantizeLinear"):  # a Clip to fewer bits, or codes moved about
        return None
    source = quantize.inputs[0]
    return source if source is not None and _is_made_in_float(source, target) else None


def _is_made_in_float(value: ir.Value, target: Target) -> bool:
    maker = value.producer()
    if maker is None or is_block_matmul(maker):
        return True
    rule = rule_of(maker, target)
    if rule is None:
        return not is_standard(maker, "DequantizeLinear")
    return rule.kind == "activation" and maker.inputs[0] is not None and _is_made_in_float(maker.inputs[0], target)
