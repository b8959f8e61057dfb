"""Take a model that is quantized, wholly or in part, as the float model that it was made from, as far as that is left.

Weights keep the values that they were rounded to; activations lose their rounding and keep their limits (see
``passes.dequantize.restore_float``). All that follows learns from, measures against and times this float model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from backends.session import RuntimeModelError
from passes.dequantize.restore_float import Restored, RestoreFloat
from passes.plan import Refusal
from zsq_compile.errors import LoadError, UnsupportedModelError
from zsq_compile.frontend.equivalence import Reference
from zsq_compile.frontend.read_onnx import is_quantized

LEAST_SQNR, LEAST_COARSE_SQNR = 10.0, 0.0
"""SQNR in dB of the file against its float form, below which the two are taken for different functions.

Measured on the inputs of the loading check: files of nine networks with 8-bit activations reach 24 to 50 and one of a
tenth, which has nothing left of its float original, 12; resnet20 with one layer doubled, negated or transposed, with
zero points ignored or limits left out, reaches -70 to 13. Rounding to 4 bits and fewer is noise of that size by itself
(right ones reach 7 to 24), so there only what is more noise than signal is refused.
"""

_NOISY_SQNR = 15.0
_FINE_LEVELS = 1 << 7
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatForm:
    """A model without quantizers, but for those at graph inputs and outputs.

    Attributes:
        model: the float model; the model of the file itself if that has no quantizers.
        given: the model of the file, where it is another one.
        levels: fewest quantization levels of an activation there, None where none was quantized.
        notes: what was done, in sentences for the user.
        warning: what the user should do instead, or None.

    """

    model: onnx.ModelProto
    given: onnx.ModelProto | None = None
    levels: int | None = None
    notes: tuple[str, ...] = ()
    warning: str | None = None


def dequantize(proto: onnx.ModelProto, path: Path) -> FloatForm:
    """Remove the quantizers of a model, whose external data is in memory.

    Raises:
        UnsupportedModelError: it has integer arithmetic that no float model is known for.

    """
    if not is_quantized(proto):
        return FloatForm(model=proto)
    model = ir.from_proto(proto)
    restored = RestoreFloat().call(model)
    if restored.refusals:
        raise UnsupportedModelError(_describe_refusals(restored.refusals, path))
    if not restored.modified and not restored.kept:
        return FloatForm(model=proto)
    return FloatForm(
        model=ir.to_proto(model),
        given=proto,
        levels=restored.levels,
        notes=tuple(_notes(restored)),
        warning=_warning(restored, path),
    )


def require_equivalent(reference: Reference, form: FloatForm, path: Path) -> str:
    """Compare the file with its float form in ONNX Runtime, and return a note on how close they are.

    Args:
        reference: of the float form.
        form: with the model as given.
        path: of the file.

    Raises:
        LoadError: the file as given does not run.
        UnsupportedModelError: it computes something else than its float form.

    """
    assert form.given is not None
    try:
        sqnr = reference.sqnr(form.given)
    except RuntimeModelError as error:
        raise LoadError(f"{path} cannot be run: {error}") from error
    coarse = form.levels is not None and form.levels < _FINE_LEVELS
    least = LEAST_COARSE_SQNR if coarse else LEAST_SQNR
    if sqnr < least:
        raise UnsupportedModelError(
            f"{path} is quantized, and its float form does not compute what the file does (SQNR {sqnr:.1f} dB on "
            f"random inputs, expected at least {least:.0f}): give the float model that it was made from"
        )
    close = "with equal outputs" if sqnr == math.inf else f"with an SQNR of {sqnr:.1f} dB"
    noisy = (
        f"; {form.levels} levels for an activation are few: much of what the file computes is rounding noise"
        if sqnr < _NOISY_SQNR
        else ""
    )
    return (
        f"the float form was compared with the file on random inputs, {close}{noisy}. Agreement, SQNR, sizes and times "
        "are measured against the float form"
    )


def _describe_refusals(refusals: tuple[Refusal, ...], path: Path) -> str:
    shown = "; ".join(f"{item.op_type} '{item.where}': {item.reason}" for item in refusals[:_SHOWN])
    more = f"; and {len(refusals) - _SHOWN} more" if len(refusals) > _SHOWN else ""
    return (
        f"{path} is quantized already, in a way that cannot be turned back into a float model: {shown}{more}. "
        "Supported are integer weights, and quantizers with constant scales, one for each activation: give the float "
        "model that it was made from"
    )


def _notes(restored: Restored) -> Iterator[str]:
    layers, found = restored.layers, restored.restored_layers
    if found:
        part = "" if found == layers else " in part"
        dynamic = f" ({restored.dynamic} of them with dynamic quantization)" if restored.dynamic else ""
        yield (
            f"the file is quantized{part} and was turned back into a float model: weights of {found} of its "
            f"{_count(layers, 'layer')}{dynamic} became floats, at the values that they were rounded to"
        )
    if restored.ranges:
        needless = f"; {restored.needless} of them clipped nothing and were dropped" if restored.needless else ""
        yield (
            f"{_count(restored.ranges, 'quantizer')} of activations became clipping to the quantization range{needless}"
            ": limits stay, as they may be all that is left of a Relu, and rounding goes"
        )
    if restored.kept:
        names = ", ".join(repr(name) for name in restored.kept)
        yield f"inputs and outputs of the graph that hold integers stay as they are, with their quantizers: {names}"


def _warning(restored: Restored, path: Path) -> str | None:
    if not restored.layers or restored.restored_layers < restored.layers:
        return None
    return (
        f"all layers of {path} were already quantized, and rounding errors add up: compile the float model that it "
        "was made from, if you have it"
    )


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}{'' if number == 1 else 's'}"
