"""Store 2- and 3-bit weights without gaps, as digits of integer words that the runtime unpacks once, at load.

    w_quantized (int8) -> DequantizeLinear   ->

    w_quantized (int64, one row per word) -> Div(powers) -> Mod(base) -> Sub(half) -> Cast(to=INT8)
                                          -> Reshape(-1) -> Slice(:count) -> Reshape(shape) -> DequantizeLinear

A word holds 63 // bits digits code + half in base 2^bits, the first code lowest: 31 codes of 2 bits or 21 of 3 bits in
8 bytes, so 2.06 and 3.05 bits a code. Words stay below 2^63 and are never negative, so integer division is exact. ONNX
has no 3-bit type, and its 2-bit type needs opset 25; these operators work in every runtime of opset 21. ONNX Runtime
folds the whole chain when it opens the model and then fuses the integer kernel as for any INT8 weight. Reshape(-1) and
Slice stand only where the last word is not full.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.graph_pass import GraphPass
from passes.surgery import add_constant, first_reader, set_type

DENSE_BITS = (2, 3)
_WORD_BITS = 63
_NODES_BYTES = 300  # of the nodes and constants of one weight in the file, beyond those of INT4 and its Cast


def digits_bytes(count: int, bits: int) -> int:
    """Estimate the bytes of so many codes in the file as words, with the nodes that unpack them."""
    return 8 * -(-count // (_WORD_BITS // bits)) + _NODES_BYTES


def digits_pay(count: int, bits: int) -> bool:
    """Tell whether words take fewer bytes of the file than INT4 does, for a weight of so many codes."""
    return bits in DENSE_BITS and digits_bytes(count, bits) < (count + 1) // 2


@dataclass(frozen=True, slots=True, eq=False)
class PackDigits(GraphPass):
    """Pack int8 weights that take fewer bytes as digits of words; ``bits`` are those of the candidates, by name."""

    bits: Mapping[str, int]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pack all candidates."""
        writer = _Writer(model.graph)
        modified = False
        for name in sorted(self.bits.keys() & set(model.graph.initializers)):
            modified |= writer.pack(model.graph.initializers[name], self.bits[name])
        return ir.passes.PassResult(model, modified)


class _Writer:
    """Packs weights of one graph, which share constants."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._constants: dict[str, ir.Value] = {}

    def pack(self, value: ir.Value, bits: int) -> bool:
        readers = tuple(value.uses())
        if value.dtype != ir.DataType.INT8 or value.const_value is None or not readers:
            return False
        codes = value.const_value.numpy()
        if not digits_pay(codes.size, bits):
            return False
        half = 1 << (bits - 1)
        if codes.min() < -half or codes.max() >= half:
            raise ir.passes.PassError(
                f"PackDigits requires codes in [{-half}, {half - 1}] for {bits} bits, "
                f"got [{codes.min()}, {codes.max()}] in '{value.name}': give it more bits in the plan"
            )
        words = to_words(codes, bits)
        value.const_value = ir.tensor(words, dtype=ir.DataType.INT64, name=value.name)
        set_type(value, ir.DataType.INT64, ir.Shape(words.shape))
        nodes = self._unpacking(value, codes.shape, bits)
        self._graph.insert_before(first_reader(self._graph, value), nodes)
        for use in readers:
            use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
        return True

    def _unpacking(self, value: ir.Value, shape: tuple[int, ...], bits: int) -> list[ir.Node]:
        """Make the nodes from words to int8 codes of a shape."""
        per_word, count = _WORD_BITS // bits, int(np.prod(shape))
        padded = -(-count // per_word) * per_word
        matrix = (padded // per_word, per_word)
        steps: list[tuple[str, list[ir.Value], ir.DataType, tuple[int, ...]]] = [
            ("Div", [self._constant(f"powers_{bits}", _powers(bits))], ir.DataType.INT64, matrix),
            ("Mod", [self._number(1 << bits)], ir.DataType.INT64, matrix),
            ("Sub", [self._number(1 << (bits - 1))], ir.DataType.INT64, matrix),
            ("Cast", [], ir.DataType.INT8, matrix),
        ]
        if padded > count:
            steps.append(("Reshape", [self._numbers(-1)], ir.DataType.INT8, (padded,)))
            steps.append(("Slice", [self._numbers(0), self._numbers(count)], ir.DataType.INT8, (count,)))
        steps.append(("Reshape", [self._numbers(*shape)], ir.DataType.INT8, shape))
        nodes: list[ir.Node] = []
        for position, (op_type, others, dtype, made) in enumerate(steps):
            attributes = {"to": dtype.value} if op_type == "Cast" else {}
            source = nodes[-1].outputs[0] if nodes else value
            node = ir.node(op_type, [source, *others], attributes, name=f"{value.name}_unpack{position}")
            node.outputs[0].name = f"{node.name}d"
            set_type(node.outputs[0], dtype, ir.Shape(made))
            nodes.append(node)
        return nodes

    def _number(self, number: int) -> ir.Value:
        return self._constant(f"i{number}", np.array(number, np.int64))

    def _numbers(self, *numbers: int) -> ir.Value:
        return self._constant(f"s{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def _constant(self, name: str, array: NDArray[np.int64]) -> ir.Value:
        if name not in self._constants:
            self._constants[name] = add_constant(self._graph, name, array)
        return self._constants[name]


def to_words(codes: NDArray[np.integer], bits: int) -> NDArray[np.int64]:
    """Pack signed codes of any shape into words, (words, 1), the last one padded with zero digits."""
    per_word = _WORD_BITS // bits
    digits = codes.astype(np.int64).reshape(-1) + (1 << (bits - 1))
    filled = np.concatenate([digits, np.zeros(-len(digits) % per_word, np.int64)]).reshape(-1, per_word)
    return np.asarray((filled * _powers(bits)).sum(1, keepdims=True), np.int64)


def _powers(bits: int) -> NDArray[np.int64]:
    """Powers of the base, lowest first."""
    return np.int64(1) << (bits * np.arange(_WORD_BITS // bits, dtype=np.int64))
