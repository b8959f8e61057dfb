"""Bring a graph into the normal form that the rest of the compiler reads, BatchNormalization kept.

onnxsim folds shape arithmetic, constants and Pad nodes; the passes below do what it leaves. The caller, who has a
runtime, checks that the result still computes the same.
"""

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from passes.graph_pass import run_passes
from passes.normalize.decide_branches import decide_branches
from passes.normalize.drop_identity import DropIdentity
from passes.normalize.fold_constants import FoldConstants
from passes.normalize.fold_gemm import FoldGemm
from passes.normalize.fold_pad import FoldPad
from passes.normalize.fuse_activation import FuseActivation
from passes.normalize.fuse_bias import FuseBias
from passes.normalize.fuse_norm import FuseNorm
from passes.normalize.fuse_scale import FuseScale
from passes.normalize.infer_shapes import InferShapes, Trial
from passes.normalize.name_nodes import NameNodes
from passes.normalize.outline_bodies import inline_bodies, outline_bodies
from passes.normalize.resolve_auto_pad import ResolveAutoPad
from passes.normalize.resolve_shapes import ResolveShapes
from passes.normalize.set_aside import with_weights_aside
from passes.normalize.share_weights import ShareWeights
from passes.normalize.turn_left_weights import TurnLeftWeights
from passes.normalize.unify_divisions import UnifyDivisions
from passes.normalize.unify_means import UnifyMeans
from passes.normalize.unify_operators import UnifyOperators


class SimplifierError(ValueError):
    """onnxsim failed on this graph, or returned one that is not valid."""


def normalize(model: ir.Model, *, simplify: bool = True, trials: Sequence[Trial] = ()) -> ir.Model:
    """Return a copy of a valid model of opset 21 or later in normal form: NORMALIZED, see also ShareWeights.

    With ``simplify`` onnxsim runs first; raises SimplifierError where it fails. For ``trials`` see InferShapes.
    """
    working = with_weights_aside(model, run_onnxsim) if simplify else model.clone()
    return run_passes(_passes(trials), _with_decided_branches(working, trials))


def _with_decided_branches(model: ir.Model, trials: Sequence[Trial]) -> ir.Model:
    """Outline control flow, without the branches whose condition turns out to be constant, at any depth."""
    model = outline_bodies(model)
    while model.functions:
        fold = ir.passes.PassManager([InferShapes(trials), ResolveShapes(), FoldConstants()], steps=4)
        run_passes(ir.passes.Sequential(*_lifting(), fold), model)
        if not decide_branches(model):
            break
        model = outline_bodies(inline_bodies(model))
    return model


def _lifting() -> tuple[ir.passes.PassBase, ...]:
    return (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    )


def _passes(trials: Sequence[Trial]) -> ir.passes.Sequential:
    return ir.passes.Sequential(
        *_lifting(),
        NameNodes(),
        DropIdentity(),
        FoldConstants(),
        # a resolved Reshape lets shapes behind it be inferred, and those resolve further ones
        ir.passes.PassManager(
            [
                InferShapes(trials),
                FuseActivation(),
                UnifyDivisions(),
                FuseNorm(),
                TurnLeftWeights(),
                UnifyMeans(),
                UnifyOperators(),
                ResolveShapes(),
                FoldConstants(),
            ],
            steps=4,
        ),
        common.RemoveUnusedNodesPass(),  # a dead reader would keep a Pad or an Add from being fused
        ResolveAutoPad(),
        FoldPad(),
        FoldGemm(),
        ir.passes.PassManager([FuseBias(), FuseScale()], steps=4),  # sums and products may take turns
        common.RemoveUnusedNodesPass(),
        ShareWeights(),
        NameNodes(),
        InferShapes(trials),
    )


def run_onnxsim(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Run onnxsim, BatchNormalization kept; raise SimplifierError where it fails."""
    import onnxsim  # takes a second, and brings torch with it

    try:
        result, _ = onnxsim.simplify(proto, skip_fuse_bn=True, certify=False)
        onnx.checker.check_model(result)
    except Exception as error:  # its C++ core raises bare RuntimeError and worse
        raise SimplifierError(f"onnxsim could not simplify the graph: {error}") from error
    assert isinstance(result, onnx.ModelProto)
    return result
