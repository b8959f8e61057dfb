"""Which layers the runtime executes in integers, read from the graph that its optimiser writes."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from backends.session import open_session

WEIGHTED_INTEGER = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger", "QAttention"}
)
WEIGHTED_FLOAT = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)
BLOCKWISE = "MatMulNBits"
"""Matrix product of float data and 4-bit weights, which its kernel reads in blocks, as they are stored."""
WEIGHTED_QUANTIZED = WEIGHTED_INTEGER | {BLOCKWISE}
# Endings that ONNX Runtime appends to the name of a node that it rewrites.
_REWRITTEN = re.compile(r"(_token_\d+|_nchwc|/MatMulAddFusion|/GemmActivationFusion)+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """Counts of the optimised graph.

    Attributes:
        fused: weighted nodes (convolutions, matrix products) that run in integers.
        fused_others: other nodes with an integer kernel of their own (QLinearAdd, QLinearConcat...).
        blockwise: names of weighted nodes whose kernel reads 4-bit weights in blocks, with float data.
        unfused: names of weighted nodes that are quantized (data and weight behind DequantizeLinear, or weights in
            blocks) but executed in float.
        left_float: names of weighted nodes that are not quantized.
        quantize_nodes: QuantizeLinear nodes left over.
        dequantize_nodes: DequantizeLinear nodes left over.
        operators: count of each operator in the optimised graph, most frequent first.

    """

    fused: int
    fused_others: int
    unfused: tuple[str, ...]
    left_float: tuple[str, ...]
    quantize_nodes: int
    dequantize_nodes: int
    operators: tuple[tuple[str, int], ...]
    blockwise: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Count all weighted nodes."""
        return self.fused + len(self.blockwise) + len(self.unfused) + len(self.left_float)


def inspect_fusion(
    emitted: Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), config: Mapping[str, str] | None = None
) -> Fusion:
    """Open a file with all optimisations and count its nodes.

    Raises:
        RuntimeModelError: the runtime cannot load the file.

    """
    with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(emitted, providers=providers, optimized_path=path, config=config)
        optimized = onnx.load(path, load_external_data=False)
    return count_fusion(optimized, onnx.load(emitted, load_external_data=False))


def count_fusion(optimized: onnx.ModelProto, emitted: onnx.ModelProto) -> Fusion:
    """Count the nodes of an optimised graph, subgraphs included; ``emitted`` is the graph before, with all names."""
    makers = makers_of(emitted)
    counts: Counter[str] = Counter()
    unfused: list[str] = []
    left_float: list[str] = []
    blockwise: list[str] = []
    for graph in _graphs(optimized.graph):
        dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
        for node in graph.node:
            counts[node.op_type] += 1
            if node.op_type == BLOCKWISE:
                blockwise.append(source_name(node, makers))
            elif node.op_type in WEIGHTED_FLOAT:
                planned = all(name in dequantized for name in node.input[:2]) or _in_blocks(node, dequantized)
                (unfused if planned else left_float).append(source_name(node, makers))
    others = [name for name in counts if name.startswith("QLinear") and name not in WEIGHTED_INTEGER]
    return Fusion(
        fused=sum(counts[name] for name in WEIGHTED_INTEGER),
        fused_others=sum(counts[name] for name in others),
        unfused=tuple(unfused),
        left_float=tuple(left_float),
        quantize_nodes=counts["QuantizeLinear"],
        dequantize_nodes=counts["DequantizeLinear"],
        operators=tuple(counts.most_common()),
        blockwise=tuple(blockwise),
    )


def _in_blocks(node: onnx.NodeProto, dequantized: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the weight of a node has a scale for each block."""
    maker = dequantized.get(node.input[1]) if len(node.input) > 1 else None
    return maker is not None and any(one.name == "block_size" and one.i for one in maker.attribute)


def makers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Map each value to its producer, subgraphs included."""
    return {name: node for graph in _graphs(model.graph) for node in graph.node for name in node.output}


def source_name(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Name that a rewritten node had before; a blocked convolution is named after its output, not after its node."""
    name = _REWRITTEN.sub("", node.name) or node.output[0]
    maker = makers.get(name)
    for _ in range(4):  # the normalisation, the Add and the activations that the convolution may have swallowed
        if maker is None or maker.op_type in WEIGHTED_FLOAT:
            break
        maker = next((makers[source] for source in maker.input if source in makers), None)
    return maker.name if maker is not None and maker.name else name


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)
