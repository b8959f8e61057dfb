"""The operator table: (domain, op_type, since_version) -> operator, and the lookup in it."""

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from zsq_compile.differentiable.arguments import Kernel, Operator, Row, describe
from zsq_compile.differentiable.ops.elementwise import attention as ops_attention
from zsq_compile.differentiable.ops.elementwise import create as ops_create
from zsq_compile.differentiable.ops.elementwise import detection as ops_detection
from zsq_compile.differentiable.ops.elementwise import elementwise as ops
from zsq_compile.differentiable.ops.elementwise import index as ops_index
from zsq_compile.differentiable.ops.elementwise import nn as ops_nn
from zsq_compile.differentiable.ops.elementwise import pad as ops_pad
from zsq_compile.differentiable.ops.elementwise import pool as ops_pool
from zsq_compile.differentiable.ops.elementwise import quant as ops_quant
from zsq_compile.differentiable.ops.elementwise import recurrent as ops_recurrent
from zsq_compile.differentiable.ops.elementwise import reduce as ops_reduce
from zsq_compile.differentiable.ops.elementwise import resize as ops_resize
from zsq_compile.differentiable.ops.elementwise import shape as ops_shape
from zsq_compile.differentiable.ops.elementwise import signal as ops_signal
from zsq_compile.errors import UnsupportedModelError

NEWEST_OPSET = 28  # newest ONNX opset whose schemas the table was held against


def _expand(rows: Iterable[Row]) -> dict[tuple[str, str, int], Operator]:
    return {("", row[0], since): Operator(row[2], *row[3:]) for row in rows for since in row[1]}


OPERATORS: Mapping[tuple[str, str, int], Operator] = {
    **_expand(ops.ROWS),
    **_expand(ops_attention.ROWS),
    **_expand(ops_create.ROWS),
    **_expand(ops_detection.ROWS),
    **_expand(ops_index.ROWS),
    **_expand(ops_nn.ROWS),
    **_expand(ops_pad.ROWS),
    **_expand(ops_pool.ROWS),
    **_expand(ops_quant.ROWS),
    **_expand(ops_recurrent.ROWS),
    **_expand(ops_reduce.ROWS),
    **_expand(ops_resize.ROWS),
    **_expand(ops_shape.ROWS),
    **_expand(ops_signal.ROWS),
}


def _versions() -> dict[tuple[str, str], list[int]]:
    versions: dict[tuple[str, str], list[int]] = {}
    for domain, op_type, since in sorted(OPERATORS):
        versions.setdefault((domain, op_type), []).append(since)
    return versions


_VERSIONS: Mapping[tuple[str, str], list[int]] = _versions()


def find_operator(node: ir.Node, opset: int | None) -> Operator:
    """Return the operator with the newest ``since_version`` not above ``opset``.

    Raises UnsupportedModelError, naming node, operator and opset, when there is none.
    """
    where = describe(node)
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        message = (
            f"{where} holds a subgraph; control flow (If, Loop, Scan) cannot be executed in torch. "
            "Export the model with the branch taken or the loop unrolled."
        )
        raise UnsupportedModelError(message)
    known = _VERSIONS.get((node.domain, node.op_type), [])
    if opset is None or opset > NEWEST_OPSET:
        message = f"{where}: opsets up to {NEWEST_OPSET} can be executed in torch, the model imports {opset}."
        raise UnsupportedModelError(message)
    fitting = [since for since in known if since <= opset]
    if not fitting:
        if known:
            advice = f"it can be executed in torch from opset {known[0]} on. Convert the model to a newer opset."
        else:
            advice = (
                "there is no torch kernel for this operator. "
                "Simplify the model so that it goes away, or cut the model before this node."
            )
        message = f"{where} at opset {opset}: {advice}"
        raise UnsupportedModelError(message)
    return OPERATORS[node.domain, node.op_type, fitting[-1]]


def build_kernel(node: ir.Node, opset: int | None) -> tuple[Kernel, tuple[int, ...]]:
    """Build the kernel of ``node``; also return the positions of its inputs that are read on the host."""
    operator = find_operator(node, opset)
    return operator.build(node), operator.host
