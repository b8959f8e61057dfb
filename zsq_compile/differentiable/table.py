"""The operator table: (domain, op_type, since_version) -> operator, and the lookup in it."""

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from zsq_compile.differentiable.arguments import Kernel, Operator, Row, describe
from zsq_compile.differentiable.ops import (
    attention,
    create,
    detection,
    elementwise,
    index,
    nn,
    pad,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    shape,
    signal,
)
from zsq_compile.errors import UnsupportedModelError

NEWEST_OPSET = 28  # newest ONNX opset whose schemas the table was held against


def _expand(rows: Iterable[Row]) -> dict[tuple[str, str, int], Operator]:
    return {("", row[0], since): Operator(row[2], *row[3:]) for row in rows for since in row[1]}


OPERATORS: Mapping[tuple[str, str, int], Operator] = {
    **_expand(elementwise.ROWS),
    **_expand(attention.ROWS),
    **_expand(create.ROWS),
    **_expand(detection.ROWS),
    **_expand(index.ROWS),
    **_expand(nn.ROWS),
    **_expand(pad.ROWS),
    **_expand(pool.ROWS),
    **_expand(quant.ROWS),
    **_expand(recurrent.ROWS),
    **_expand(reduce.ROWS),
    **_expand(resize.ROWS),
    **_expand(shape.ROWS),
    **_expand(signal.ROWS),
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
