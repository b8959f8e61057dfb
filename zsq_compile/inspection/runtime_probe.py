"""Run a network in ONNX Runtime on a few synthetic samples made without torch, and find the range of its values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily, unit_preprocessing
from zsq_compile.frontend.partial_session import open_partial_session
from zsq_compile.synthesis.images.natural_images import natural_images, one_over_f
from zsq_compile.synthesis.stand_ins import draw_stand_ins

Arrays = dict[str, NDArray[Any]]

_QUIET, _LOUD = 0.006, 0.2  # deviation of a sound at full scale 1
_HIGHEST = 2.0  # logarithm of the highest peak of a burst


def draw_inputs(
    inputs: Sequence[InputSpec],
    count: int,
    rng: np.random.Generator,
    preprocessing: Mapping[str, Preprocessing] | None = None,
) -> Arrays | None:
    """Draw samples for all inputs: images, stand-ins, and signals with a 1/f spectrum for other floats.

    ``preprocessing`` is that of images and signals, by name; other images get plain pixels.

    Returns:
        ``count`` samples by name, or a batch where that is fixed; None where there are no synthetic values for one.

    """
    drawn: Arrays = {}
    for spec in inputs:
        if not spec.can_be_made:
            return None
        shape = spec.batched(int(spec.shape[0] or count)) if spec.shape else ()
        if spec.takes_stand_ins:
            stand_ins = draw_stand_ins(spec, shape[0] if shape else 1, rng)
            drawn[spec.name] = stand_ins if shape else stand_ins[0]
            continue
        if spec.is_image:
            encoding = (preprocessing or {}).get(spec.name) or unit_preprocessing(spec)
            values: NDArray[Any] = encoding.encode(natural_images(*spec.pictures(shape[0]), rng))
        else:
            scale = (preprocessing or {}).get(spec.name)
            values = draw_signal((scale and scale.family) or "noise", shape, rng)
            values = values if scale is None else scale.encode(values)
        drawn[spec.name] = spec.typed(values)
    return drawn


def draw_signal(family: SignalFamily, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw signals without torch: independent numbers, numbers above 0, or a 1/f spectrum, of deviation 1.

    Sounds are at full scale 1, and louder and softer.

    What stands here for a family is its rough likeness: enough to see a scale by.
    """
    if family in ("white", "rows") or len(shape) < 2 or shape[-1] < 2:
        return rng.standard_normal(shape).astype(np.float32)
    made = one_over_f((*shape[:-1], 1, shape[-1]), rng).reshape(shape)
    if family in ("bursts", "positive", "mel"):
        made = np.exp(np.minimum(made, _HIGHEST))
    elif family in ("sound", "speech", "music", "noises"):
        levels = _QUIET * (_LOUD / _QUIET) ** rng.random(shape[0])
        made = np.clip(made * levels.reshape(-1, *(1,) * (len(shape) - 1)), -1.0, 1.0)
    elif family == "levelled":
        made = made - made.mean(-1, keepdims=True)
        made = made / np.maximum(made.std(-1, keepdims=True), 1e-8)
    return made.astype(np.float32)


def find_ranges(
    model: ir.Model, values: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest element of values of a model on one feed.

    They are computed inside the graph, so that no value has to be copied out. Values that hold anything but finite
    floats are left out.

    Raises:
        RuntimeModelError: the runtime cannot load or run the model.

    """
    copy = model.clone()
    known = {value.name: value for node in copy.graph for value in node.outputs}
    known |= {value.name: value for value in copy.graph.inputs}
    ends: dict[str, tuple[str, str]] = {}
    for number, name in enumerate(dict.fromkeys(values)):
        if name in known and known[name].dtype in (None, ir.DataType.FLOAT):
            ends[name] = (f"zsq_Min_{number}", f"zsq_Max_{number}")
            for kind, output in zip(("Min", "Max"), ends[name], strict=True):
                node = ir.node(f"Reduce{kind}", [known[name]], attributes={"keepdims": 0})
                node.outputs[0].name = output
                node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(())
                copy.graph.append(node)
    if not ends:
        return {}
    found = open_partial_session(copy, [output for pair in ends.values() for output in pair]).run(feeds)
    ranges = {name: (float(found[low]), float(found[high])) for name, (low, high) in ends.items()}
    return {name: pair for name, pair in ranges.items() if np.isfinite(pair).all()}


def find_outputs(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the outputs of a model on one feed, by name.

    Raises:
        RuntimeModelError: the runtime cannot load or run the model.

    """
    names = [str(value.name) for value in model.graph.outputs]
    found = open_partial_session(model.clone(), names).run(feeds)
    return {name: np.atleast_1d(found[name]) for name in names}
