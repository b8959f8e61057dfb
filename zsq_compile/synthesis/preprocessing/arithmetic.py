"""What the arithmetic of a graph in front of its first layer tells of its input.

It counts by what the first layer then sees: arithmetic that brings one usual preprocessing into another tells which one
it starts from.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork, pooled_moments

_SAME, _CLEARLY = 0.02, 3.0
_MOST_MISFIT, _BY_FAR = 2.0, 10.0
_SCALING = ("Add", "Sub", "Mul", "Div")
_FIRST_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


def find_by_arithmetic(network: TrialNetwork) -> Preprocessing | None:
    """Return the usual preprocessing that a graph which scales its input starts from; None where that tells nothing."""
    scales, first_input, _ = find_opening(network.model, network.spec.name)
    if not scales or first_input is None:
        return None
    candidates = usual_preprocessings(network.spec.channels, network.spec.layout or "NCHW")
    return _by_what_is_seen(network, candidates, first_input)


def _by_what_is_seen(network: TrialNetwork, candidates: Sequence[Preprocessing], value: str) -> Preprocessing | None:
    """Choose the candidate under which the first layer sees what first layers usually see; None where not one does.

    Arithmetic in front of that layer that brings one usual preprocessing into another tells which one it starts from.
    That it leaves one as it is tells nothing. Weights of the layer may hold a factor of any size, so that what is seen
    may be no usual one, and then raw pixels only can be told from the others.
    """
    images = network.draw()
    seen = network.seen_moments(value, candidates, images)
    if seen is None:
        return None
    named = {candidate.name: candidate for candidate in candidates}
    centred = [replace(named[name], mean=named["symmetric"].mean) for name in ("unit", "byte")]
    pixels = [replace(one, layout="NCHW").encode(images) for one in (*candidates, *centred)]
    usual = [*map(pooled_moments, pixels), (0.0, 1.0)]
    misfits = [min(_misfit(one, wanted) for wanted in usual) for one in seen]
    for number, one in enumerate(seen):
        if _misfit(one, usual[number]) <= _CLEARLY * _SAME:
            misfits[number] = float("inf")
    nearest = min(range(len(candidates)), key=misfits.__getitem__)
    exact = misfits[nearest] <= _CLEARLY * _SAME
    clear = (_CLEARLY if exact else _BY_FAR) * max(misfits[nearest], _SAME)
    alike = [one for one, misfit in enumerate(misfits) if misfit <= clear]
    if misfits[nearest] > _MOST_MISFIT or len({candidates[one].std for one in alike}) > 1:
        return None
    nearest = alike[0]  # of raw pixels, those without a mean
    mean, deviation = seen[nearest]
    reason = (
        f"the graph scales its input itself, and its first layer then sees mean {mean:.2g}, deviation {deviation:.2g}"
    )
    return replace(candidates[nearest], reason=reason)


def _misfit(seen: tuple[float, float], wanted: tuple[float, float]) -> float:
    """Squares of the distance of means in deviations, and of the logarithm of the deviations' ratio."""
    ratio = np.log(max(seen[1], 1e-12) / wanted[1])
    return float(((seen[0] - wanted[0]) / wanted[1]) ** 2 + ratio**2)


def find_opening(model: ir.Model, name: str) -> tuple[bool, str | None, str | None]:
    """Look at what the graph does with an input before its first layer.

    Returns:
        Whether it scales or shifts it by constants, and what that layer reads and writes; None where it is not there.

    """
    follows: set[str | None] = {name}
    scales = False
    for node in model.graph:
        reads = [value.name for value in node.inputs if value is not None and value.name in follows]
        if not reads:
            continue
        if node.op_type in _FIRST_LAYERS:
            return scales, reads[0], node.outputs[0].name
        follows.update(value.name for value in node.outputs if value.name)
        for array in (constant_value(value) for value in node.inputs) if node.op_type in _SCALING else ():
            scales |= array is not None and array.size > 0 and np.issubdtype(array.dtype, np.floating)
    return scales, None, None
