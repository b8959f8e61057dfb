"""Bring a user's graph to an opset that the compiler and the target can work with, and prove that it is the same."""

from pathlib import Path

import onnx

from backends.session import RuntimeModelError
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.equivalence import TOLERANCE, Reference
from zsq_compile.frontend.find_faults import graph_fault
from zsq_compile.frontend.opset import MINIMUM_OPSET, OpsetError, convert_opset


def lower_to_runnable(proto: onnx.ModelProto, opset: int, notes: list[str]) -> tuple[onnx.ModelProto, int]:
    """Lower a graph until the runtime has every kernel, where that is possible; return it with its opset.

    A runtime may know an opset, and still lack kernels of it: ONNX Runtime 1.32 has Swish at opset 24 only.
    """
    if opset <= MINIMUM_OPSET or graph_fault(proto) is None:
        return proto, opset
    for earlier in range(opset - 1, MINIMUM_OPSET - 1, -1):
        try:
            lowered = convert_opset(proto, opset, earlier)
        except OpsetError:
            break
        if graph_fault(lowered) is None:
            notes.append(f"opset {opset} was lowered to {earlier}, as ONNX Runtime lacks operators of the later one")
            return lowered, earlier
    return proto, opset


def settle_opset(
    proto: onnx.ModelProto, path: Path, opset: int, newest: int, reference: Reference | None, notes: list[str]
) -> onnx.ModelProto:
    """Raise a graph to opset 21, or lower it to the newest that the target knows (0: any); others keep their own.

    Raises:
        UnsupportedModelError: that is not possible, or (with a reference) computes something else.

    """
    wanted = max(min(opset, newest or opset), MINIMUM_OPSET)
    verb = "lowered" if opset > wanted else "raised"
    advice = f"export the model with opset {wanted}"
    try:
        settled = convert_opset(proto, opset, wanted)
        difference = 0.0 if reference is None else reference.difference(settled)
    except (OpsetError, RuntimeModelError) as error:
        raise UnsupportedModelError(
            f"{path} cannot be {verb} from opset {opset} to {wanted}: {error}; {advice}"
        ) from error
    if difference > TOLERANCE:
        raise UnsupportedModelError(
            f"{path} computes something else once it is {verb} from opset {opset} to {wanted} (outputs differ "
            f"by {difference:.1e} of their scale, at most {TOLERANCE:.0e} is allowed): {advice}"
        )
    if opset != wanted:
        reason = "which the quantized file needs too" if opset < wanted else "the newest that the target knows"
        notes.append(f"opset {opset} was {verb} to {wanted}, {reason}")
    return settled
