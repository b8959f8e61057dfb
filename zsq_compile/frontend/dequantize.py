"""Take a model that is quantized, wholly or in part, as the float model that it stands for.

Weights keep the numbers that they were rounded to, activations lose their rounding and keep their limits: see
``passes.dequantize.restore_float``. From there on the float form is the model: what is learned from, measured against
and timed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from passes.dequantize.restore_float import Restored, RestoreFloat
from passes.plan import Refusal
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.equivalence import Reference
from zsq_compile.frontend.read_onnx import is_quantized

LEAST_RATIO, LEAST_COARSE_RATIO = 10.0, 0.0
"""Signal to noise in dB, of the file against its float form, below which that is taken for another function.

Measured on the loading check's inputs: files of nine networks with 8-bit activations reach 24 to 50 and one of a tenth,
which has nothing left of its float original, 12; resnet20 with one layer doubled, negated or transposed, with zero
points ignored or limits left out, reaches -70 to 13. Roundings to 4 bits and fewer are noise of that size by themselves
(right ones reach 7 to 24), so only what is more noise than signal is refused there.
"""

_LOUD_RATIO = 15.0
_FINE_LEVELS = 1 << 7
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatForm:
    """A model without quantizers, but for those at the border.

    Attributes:
        model: the float model; the model of the file itself if that has no quantizers.
        given: the model of the file, where it is another one.
        levels: fewest codes that an activation had there, None where none was quantized.
        notes: what was done, in sentences for the user.
        warning: what the user should do instead, or None.

    """

    model: onnx.ModelProto
    given: onnx.ModelProto | None = None
    levels: int | None = None
    notes: tuple[str, ...] = ()
    warning: str | None = None


def float_form(proto: onnx.ModelProto, path: Path) -> FloatForm:
    """Take the quantizers out of a model, whose external data is in memory.

    Raises:
        UnsupportedModelError: something computes in integers in a way that no float model is known for.

    """
    if not is_quantized(proto):
        return FloatForm(model=proto)
    model = ir.from_proto(proto)
    restored = RestoreFloat().call(model)
    if restored.refusals:
        raise UnsupportedModelError(_refused(restored.refusals, path))
    if not restored.modified and not restored.kept:
        return FloatForm(model=proto)
    return FloatForm(
        model=ir.to_proto(model),
        given=proto,
        levels=restored.levels,
        notes=tuple(_notes(restored)),
        warning=_warning(restored, path),
    )


def require_alike(reference: Reference, form: FloatForm, path: Path) -> str:
    """Hold the file against its float form, in the runtime, and say how near they are.

    Args:
        reference: of the float form.
        form: with the model as given.
        path: of the file.

    Raises:
        RuntimeModelError: the file as given does not run.
        UnsupportedModelError: it computes something else than its float form.

    """
    assert form.given is not None
    ratio = reference.signal_to_noise(form.given)
    coarse = form.levels is not None and form.levels < _FINE_LEVELS
    least = LEAST_COARSE_RATIO if coarse else LEAST_RATIO
    if ratio < least:
        raise UnsupportedModelError(
            f"{path} is quantized, and its float form does not compute what the file does (signal to noise {ratio:.1f} "
            f"dB on random inputs; wanted at least {least:.0f}): give the float model that it was made from"
        )
    near = "no difference was seen" if ratio == math.inf else f"the signal to noise ratio is {ratio:.1f} dB"
    noisy = f": with {form.levels} steps for an activation, what the file rounds off is much of what it computes"
    return (
        f"the float form was held against the file on random inputs, and {near}{noisy if ratio < _LOUD_RATIO else ''}; "
        "agreement, SQNR, sizes and times are measured against the float form"
    )


def _refused(refusals: tuple[Refusal, ...], path: Path) -> str:
    shown = "; ".join(f"{item.op_type} '{item.where}': {item.reason}" for item in refusals[:_SHOWN])
    more = f"; and {len(refusals) - _SHOWN} more" if len(refusals) > _SHOWN else ""
    return (
        f"{path} is quantized already, in a way that cannot be turned back into a float model: {shown}{more}. Wanted "
        "integer weights, and quantizers with constant scales, one for each activation: give the float model it was "
        "made from"
    )


def _notes(restored: Restored) -> Iterator[str]:
    layers, found = restored.layers, restored.restored_layers
    if found:
        part = "" if found == layers else " in part"
        own = (
            f", {_some(restored.dynamic, 'layer')} of them quantized what they read as it came,"
            if restored.dynamic
            else ""
        )
        yield (
            f"the file is quantized{part} and was taken as the float model that it stands for: weights of {found} of "
            f"its {_some(layers, 'layer')}{own} were turned into floats, which lie on the grid that they were rounded "
            "to (precision that is gone does not come back)"
        )
    if restored.ranges:
        became = "became the range that it cuts to" if restored.ranges == 1 else "became the ranges that they cut to"
        needless = f" ({restored.needless} of them cut nothing off)" if restored.needless else ""
        yield (
            f"{_some(restored.ranges, 'quantizer')} of activations {became}{needless}: limits stay, as they may be all "
            "that is left of a Relu, and roundings go"
        )
    if restored.kept:
        names = ", ".join(repr(name) for name in restored.kept)
        yield f"codes go in or out of the graph and stay what they are, with the quantizers next to them: {names}"


def _warning(restored: Restored, path: Path) -> str | None:
    if not restored.layers or restored.restored_layers < restored.layers:
        return None
    return (
        f"all layers of {path} were quantized before: compile the float model that it was made from if you have it, "
        "because what its roundings lost is lost, and ours come on top"
    )


def _some(number: int, kind: str) -> str:
    return f"{number} {kind}{'' if number == 1 else 's'}"
