"""The operator table: (domain, op_type, since_version) -> operator, and the lookup in it."""

from collections.abc import Mapping
from functools import cache

import onnx_ir as ir

from zsq_compile.differentiable.arguments import Kernel, Operator, describe
from zsq_compile.differentiable.ops import (
    attention,
    col2im,
    control,
    create,
    detection,
    elementwise,
    index,
    linear_attention,
    loss,
    nn,
    pad,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    sampling,
    shape,
    signal,
)
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.executable import NEWEST_VERSION, version_of

_MODULES = (
    *(elementwise, attention, col2im, control, create, detection, index, linear_attention, loss, nn, pad),
    *(pool, quant, recurrent, reduce, resize, sampling, shape, signal),
)
OPERATORS: Mapping[tuple[str, str, int], Operator] = {
    ("", row[0], since): Operator(row[2], *row[3:]) for module in _MODULES for row in module.ROWS for since in row[1]
}


@cache
def _versions(domain: str, op_type: str) -> tuple[int, ...]:
    return tuple(sorted(since for *name, since in OPERATORS if name == [domain, op_type]))


def find_operator(node: ir.Node, opset: int | None) -> Operator:
    """Return the operator with the newest ``since_version`` not above ``opset``, or raise UnsupportedModelError."""
    where = describe(node)
    if opset is None or (opset > NEWEST_VERSION and version_of(node, opset) > NEWEST_VERSION):
        raise UnsupportedModelError(
            f"{where}: operators as of opset {NEWEST_VERSION} can be executed in torch, the model imports {opset}, "
            "in which this one is newer."
        )
    known = _versions(node.domain, node.op_type)
    fitting = [since for since in known if since <= opset]
    if fitting:
        return OPERATORS[node.domain, node.op_type, fitting[-1]]
    advice = (
        f"it can be executed in torch from opset {known[0]} on. Convert the model to a newer opset."
        if known
        else "there is no torch kernel for this operator. "
        "Simplify the model so that it goes away, or cut the model before this node."
    )
    raise UnsupportedModelError(f"{where} at opset {opset}: {advice}")


def build_kernel(node: ir.Node, opset: int | None) -> tuple[Kernel, tuple[int, ...]]:
    """Build the kernel of a node, and return the positions of its inputs that it reads as Python numbers."""
    operator = find_operator(node, opset)
    return operator.build(node), operator.host
