"""Sample inputs for a package, the expected outputs, and the tolerance of the comparison on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import Session, open_session
from zsq_compile.data.input_spec import PICTURE_CHANNELS, STAND_INS, InputSpec
from zsq_compile.data.preprocessing import Preprocessing, imagenet_preprocessing
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.find_kinds import find_kinds
from zsq_compile.synthesis.stand_ins import draw_stand_ins

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
    model: onnx.ModelProto | None = None,
) -> list[Feed]:
    """Make feeds for ``count`` runs, from given arrays (samples, ...) by input name or procedurally.

    Images are procedural, preprocessed by ``contract``, and so are signals; ids, masks and the like, which the graph
    of ``model`` tells, get stand-ins; other float inputs are standard normal. ``sizes`` are shapes for what is made
    here, of inputs whose own ones are open.

    Raises:
        ConfigError: given arrays do not fit, or there are no synthetic values for an input.

    """
    if given is None:
        specs = _describe_inputs(session, sizes or {}, model)
        arrays = {spec.name: _synthetic(spec, count * _batch(session, spec.name), contract) for spec in specs}
    else:
        arrays = {name: _given(session, name, count, given) for name in session.input_names}
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


def _describe_inputs(
    session: Session, sizes: Mapping[str, Sequence[int | None]], model: onnx.ModelProto | None
) -> tuple[InputSpec, ...]:
    """Describe the inputs of a session, with what they take as far as the graph tells it."""
    specs = []
    for name in session.input_names:
        shape = tuple(sizes.get(name, session.input_shapes[name]))
        specs.append(InputSpec(name=name, shape=shape, dtype=np.dtype(session.input_dtypes.get(name) or np.void)))
    return tuple(specs) if model is None else find_kinds(ir.from_proto(model), specs)


def _synthetic(spec: InputSpec, total: int, contract: Mapping[str, Any] | None) -> NDArray[Any]:
    """Make ``total`` samples of an input; ConfigError where nothing can be made for it."""
    contract = None if contract is None or contract.get("input", spec.name) != spec.name else contract
    known = None if contract is None else Preprocessing.from_json(contract)
    spec = replace(spec, layout="NCHW" if known is None else known.layout)
    pictures = len(spec.shape) == 4 and spec.is_image and spec.channels in PICTURE_CHANNELS
    bytes_known = spec.dtype == np.uint8 and known is not None and pictures
    stands_in = spec.kind in STAND_INS and spec.can_be_made
    if None in spec.shape[1:] or not (bytes_known or stands_in or np.issubdtype(spec.dtype, np.floating)):
        raise ConfigError(
            f"samples for the input {spec.name!r} ({spec.dtype}, {list(spec.shape)}) cannot be synthesized: give them "
            "with --samples"
        )
    if stands_in:
        return draw_stand_ins(spec, total, np.random.default_rng(0))
    if not pictures and (known is None or known.layout is not None):
        return np.random.default_rng(0).standard_normal(spec.batched(total))
    import torch

    from zsq_compile.synthesis.images.dead_leaves import prior_images
    from zsq_compile.synthesis.signals.draw import signals

    rng = torch.Generator().manual_seed(0)
    if pictures:
        made = prior_images(*spec.pictures(total), rng).numpy()
        return spec.typed((known or imagenet_preprocessing(spec.channels)).encode(made))
    assert known is not None
    return spec.typed(known.encode(signals(spec.batched(total), known.family or "noise", rng).numpy()))
