"""Sample inputs for a package, the expected outputs, and the tolerance of the comparison on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import Session, open_session
from zsq_compile.data.input_spec import PICTURE_CHANNELS, InputSpec
from zsq_compile.data.preprocessing import Preprocessing, imagenet_preprocessing
from zsq_compile.errors import ConfigError

_SAFETY = 4.0
_FLOOR = 0.02

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """Inputs and expected outputs of one run, by name."""

    inputs: Feed
    outputs: Feed


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Largest difference from an expected output: ``atol`` of floats, ``may_differ`` elements of any other."""

    atol: float | None
    may_differ: int | None


def make_feeds(
    session: Session,
    count: int,
    contract: Mapping[str, Any] | None,
    given: Mapping[str, NDArray[Any]] | None,
    *,
    sizes: Mapping[str, Sequence[int | None]] | None = None,
) -> list[Feed]:
    """Make feeds for ``count`` runs, from given arrays (samples, ...) by input name or procedurally.

    Images are procedural, preprocessed by ``contract``; other float inputs are standard normal. ``sizes`` are shapes
    for what is made here, of inputs whose own ones are open.

    Raises:
        ConfigError: given arrays do not fit, or there are no synthetic values for an input.

    """
    arrays = {
        name: _synthetic(session, name, tuple((sizes or {}).get(name, session.input_shapes[name])), count, contract)
        if given is None
        else _given(session, name, count, given)
        for name in session.input_names
    }
    runs = min(len(array) // _batch(session, name) for name, array in arrays.items())
    return [{name: _feed(session, name, array, run) for name, array in arrays.items()} for run in range(runs)]


def expected_outputs(model: Path, session: Session, feeds: list[Feed]) -> tuple[list[Sample], dict[str, Tolerance]]:
    """Run a model, and derive tolerances from the difference of two correct ways to compute it.

    The runtime's integer kernels and the same graph in float, node by node, round at different places. Another
    processor has other kernels again, and is allowed four times that difference, or two hundredths of the largest
    output if that is more. Outputs of other types (classes, indices) may differ in four times as many elements, or in
    one of a hundred.
    """
    other = open_session(model, threads=1, optimize="none")
    samples = [Sample(inputs=feed, outputs=session.run(feed)) for feed in feeds]
    tolerances = {}
    for name in session.output_names:
        pairs = [(sample.outputs[name], other.run(sample.inputs, [name])[name]) for sample in samples]
        tolerances[name] = _tolerance(pairs)
    return samples, tolerances


def _tolerance(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> Tolerance:
    if all(np.issubdtype(made.dtype, np.floating) for made, _ in pairs):
        made = np.concatenate([one.astype(np.float64).reshape(-1) for one, _ in pairs])
        finite = made[np.isfinite(made)]
        largest = float(np.abs(finite).max(initial=0.0))
        apart = 0.0
        for one, other in pairs:
            if one.shape == other.shape:
                error = np.abs(one.astype(np.float64) - other)
                apart = max(apart, float(error[np.isfinite(error)].max(initial=0.0)))
        return Tolerance(atol=max(_SAFETY * apart, _FLOOR * largest, 1e-6), may_differ=None)
    differing = max(int(np.count_nonzero(one != other)) for one, other in pairs if one.shape == other.shape)
    elements = max(made.size for made, _ in pairs)
    return Tolerance(atol=None, may_differ=max(int(_SAFETY) * differing, -(-elements // 100)))


def _batch(session: Session, name: str) -> int:
    shape = session.input_shapes[name]
    return 1 if not shape or shape[0] is None else int(shape[0])


def _feed(session: Session, name: str, array: NDArray[Any], run: int) -> NDArray[Any]:
    batch = _batch(session, name)
    part = array[run * batch : (run + 1) * batch] if session.input_shapes[name] else array[run]
    return np.ascontiguousarray(part, session.input_dtypes.get(name, array.dtype))


def _given(session: Session, name: str, count: int, given: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if name not in given:
        raise ConfigError(f"the samples have no array for the input {name!r}, only {', '.join(given) or 'none'}")
    array, shape = given[name], session.input_shapes[name]
    fits = array.ndim == max(len(shape), 1) and all(
        size is None or size == there for size, there in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits or len(array) < _batch(session, name):
        raise ConfigError(f"samples for {name!r} must be (samples, *{shape[1:]}), got {array.shape}")
    return array[: count * _batch(session, name)]


def _synthetic(
    session: Session, name: str, shape: tuple[int | None, ...], count: int, contract: Mapping[str, Any] | None
) -> NDArray[Any]:
    dtype = session.input_dtypes.get(name)
    known = None if contract is None else Preprocessing.from_json(contract)
    layout = "NCHW" if known is None else known.layout
    spec = InputSpec(name=name, shape=shape, dtype=np.dtype(dtype or np.void), layout=layout)
    pictures = len(shape) == 4 and spec.channels in PICTURE_CHANNELS
    bytes_known = dtype == np.uint8 and known is not None and pictures
    if None in shape[1:] or not (bytes_known or np.issubdtype(spec.dtype, np.floating)):
        raise ConfigError(
            f"samples for the input {name!r} ({dtype}, {list(shape)}) cannot be synthesized: give them with --samples"
        )
    total = count * _batch(session, name)
    if not pictures:
        return np.random.default_rng(0).standard_normal(spec.batched(total))
    import torch

    from zsq_compile.synthesis.images.dead_leaves import prior_images

    pixels = prior_images(*spec.pictures(total), torch.Generator().manual_seed(0)).numpy()
    return spec.typed((known or imagenet_preprocessing(spec.channels)).encode(pixels))
