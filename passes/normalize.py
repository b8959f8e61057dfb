"""Bring a graph into the one form that the rest of the compiler reads, BatchNormalization kept.

onnxsim folds shape arithmetic, constants and Pad nodes; the passes below do what it leaves. Whether the result still
computes the same is checked by the caller, who has a runtime.
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from passes.fold_constants import FoldConstants


class SimplifierError(ValueError):
    """The simplifier failed on this graph, or returned one that is not valid."""


def normalize(model: ir.Model, *, simplify: bool = True) -> ir.Model:
    """Return the graph in normal form; the model given is not changed.

    The result has no Constant nodes, dead code, Identity or Dropout, no initializer among the graph inputs, unique node
    names, and known shapes.

    Args:
        model: a valid model of opset 21 or later.
        simplify: run onnxsim first.

    Raises:
        SimplifierError: onnxsim failed.

    """
    proto = ir.to_proto(model)
    working = ir.from_proto(_simplified(proto) if simplify else proto)
    pipeline = ir.passes.Sequential(
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        FoldConstants(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        NameNodes(),
        common.ShapeInferencePass(),
    )
    return pipeline(working).model


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim  # takes a second, and brings torch with it

    try:
        simplified, _ = onnxsim.simplify(proto, skip_fuse_bn=True, certify=False)
        onnx.checker.check_model(simplified)
    except Exception as error:  # its C++ core raises bare RuntimeError and worse
        raise SimplifierError(f"onnxsim could not simplify the graph: {error}") from error
    assert isinstance(simplified, onnx.ModelProto)
    return simplified


class NameNodes(ir.passes.InPlacePass):
    """Give every node a unique name: its own where it has one, else its operator and first output."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name them; the first of several nodes of one name keeps it."""
        taken: set[str] = set()
        modified = False
        for node in model.graph:
            wanted = node.name or f"{node.op_type}_{node.outputs[0].name}"
            name, count = wanted, 0
            while name in taken:
                count += 1
                name = f"{wanted}_{count}"
            taken.add(name)
            if name != node.name:
                node.name = name
                modified = True
        return ir.passes.PassResult(model, modified)
