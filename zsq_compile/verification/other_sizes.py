"""Run an emitted file at other sizes than those that it was made with, beside the float model and the simulation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import RuntimeModelError, open_session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.metrics import is_silent, sqnr_db
from zsq_compile.verification.held_out import Simulate
from zsq_compile.verification.running import Arrays, run_batched
from zsq_compile.verification.simulation import match_simulation

_SAMPLES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherSizes:
    """What came of one set of sizes.

    Attributes:
        shapes: of the inputs, by name; None is an open batch.
        sqnr_db: lowest ratio of signal to quantization noise over the float outputs; None where there is none.
        failure: why the file must not be used at these sizes; None where it may.

    """

    shapes: Mapping[str, tuple[int | None, ...]]
    sqnr_db: float | None
    failure: str | None

    def words(self) -> str:
        """Name the sizes as ``--input-shape`` takes them."""
        return ", ".join(
            f"{name}:{'x'.join('?' if size is None else str(size) for size in shape)}"
            for name, shape in self.shapes.items()
        )


def run_other_sizes(
    original: onnx.ModelProto,
    emitted: Path,
    samples: Arrays,
    others: Sequence[Sequence[InputSpec]],
    simulate: Simulate,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
) -> tuple[OtherSizes, ...]:
    """Run the float model and an emitted file at other sizes, on a few samples repeated or cut to them.

    Args:
        original: the float model, which was seen to run at these sizes.
        emitted: the quantized file.
        samples: inputs (count, ...) by name.
        others: inputs with other sizes, one entry for each set of them.
        simulate: runs the emitted graph in torch.
        providers: execution providers of the target.
        config: entries of the target's session options.
        axes: of the batch in both files.
        uneven: names of the outputs whose size depends on the data, which are not compared here.

    Raises:
        RuntimeModelError: the float model failed.

    """
    if not others:
        return ()
    reference, session = (
        open_session(model, providers=providers, config=config, lean=True) for model in (original, emitted)
    )
    results = []
    for inputs in others:
        shapes = {spec.name: spec.shape for spec in inputs}
        feeds = {spec.name: _fill(samples[spec.name][:_SAMPLES], spec.shape) for spec in inputs}
        wanted = run_batched(reference, feeds, axes=axes, uneven=uneven)
        try:
            got = run_batched(session, feeds, axes=axes, uneven=uneven)
        except RuntimeModelError as error:
            failure: str | None = str(error).strip().splitlines()[0]
            results.append(OtherSizes(shapes=shapes, sqnr_db=None, failure=failure))
            continue
        failure = _find_failure(wanted, got, simulate(feeds))
        floats = [name for name, array in wanted.items() if np.issubdtype(array.dtype, np.floating)]
        heard = [name for name in floats if failure is None and not is_silent(wanted[name])]
        ratios = [sqnr_db(wanted[name], got[name]) for name in heard]
        results.append(OtherSizes(shapes=shapes, sqnr_db=min(ratios, default=None), failure=failure))
    return tuple(results)


def _fill(array: NDArray[Any], shape: Sequence[int | None]) -> NDArray[Any]:
    """Repeat or cut samples along each axis to the sizes of a shape; those that are None stay."""
    for axis, size in enumerate(shape):
        if axis > 0 and size is not None and array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array)


def _find_failure(wanted: Arrays, got: Arrays, simulation: Arrays) -> str | None:
    for name, array in wanted.items():
        if got[name].shape != array.shape:
            return f"output {name!r} must be {array.shape}, got {got[name].shape}"
        if np.issubdtype(array.dtype, np.floating) and np.any(np.isfinite(array) & ~np.isfinite(got[name])):
            return f"output {name!r} is not finite where the float model's is"
    match = match_simulation({name: simulation[name] for name in wanted}, got, wanted)
    if match is not None and match.broken:
        return f"output {match.output!r} is not that of the simulation: it differs by at most {match.largest:.3g}"
    return None
