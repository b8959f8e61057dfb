"""Run the float network and a quantized one on families of made-up inputs, and compare what they say."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session, open_session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.errors import ValidationError
from zsq_compile.metrics import LEAST_POWER, array_outputs, decibels, powers, score_output
from zsq_compile.tasks.compare_outputs import answering, compare_outputs, join_qualities
from zsq_compile.tasks.task import Task, TaskQuality
from zsq_compile.verification.agreement_estimate import Family, class_logits, class_margins, flip_share
from zsq_compile.verification.running import Arrays, fitting_batch, run_batched, session_batch

Part = tuple[Arrays, Arrays]
"""Outputs by name, (count, ...), of the float network and of the quantized one on the same samples."""


def measure_families(
    original: onnx.ModelProto,
    emitted: Path,
    families: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
    threads: int | None = None,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
    task: Task | None = None,
) -> tuple[Family, ...]:
    """Run both networks on families of inputs, by name of the family and of the input.

    For ``uneven`` see run_families, and for ``task`` compare_parts.

    Raises:
        ValidationError: the runtime failed.
        ConfigError: a family does not fill one batch of the network.

    """
    try:
        reference, session = (
            open_session(m, providers=providers, threads=threads, config=config, lean=True) for m in (original, emitted)
        )
        parts = partial(_run_in_parts, reference, session, axes=axes, uneven=uneven)
        found = (compare_parts(name, parts(inputs), task) for name, inputs in families.items())
        return tuple(family for family in found if family.samples)
    except RuntimeModelError as error:
        raise ValidationError(f"the emitted model {emitted} failed in the runtime: {error}") from error


def _run_in_parts(
    reference: Session, session: Session, inputs: Arrays, *, axes: BatchAxes, uneven: Collection[str]
) -> Iterator[Part]:
    """Yield the outputs of both networks on a few samples at a time: a recogniser's take a megabyte each."""
    fixed = session_batch(reference, axes) or 1
    size = -(-fitting_batch(reference) // fixed) * fixed
    count = max(min(map(len, inputs.values())) // fixed * fixed, 1)
    for start in range(0, count, size):
        feeds = {name: values[start : start + size] for name, values in inputs.items()}
        wanted, got = (run_batched(one, feeds, axes=axes, uneven=uneven) for one in (reference, session))
        yield wanted, got


def run_families(
    session: Session,
    families: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    batch: int | None = None,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
) -> dict[str, dict[str, NDArray[Any]]]:
    """Run a network on families of inputs, by name of the family and of the input; for the rest see ``run_batched``.

    Outputs that are ``uneven`` are left out.

    Raises:
        RuntimeModelError: the runtime failed.
        ConfigError: a family does not fill one batch of the network.

    """
    run = partial(run_batched, session, batch=batch, axes=axes, uneven=uneven)
    return {name: run(inputs) for name, inputs in families.items()}


def compare_families(
    wanted: Mapping[str, Mapping[str, NDArray[Any]]],
    got: Mapping[str, Mapping[str, NDArray[Any]]],
    task: Task | None = None,
) -> tuple[Family, ...]:
    """Compare the outputs of the float network on every family with those of a quantized one; () without outputs."""
    return tuple(compare_family(name, outputs, got[name], task) for name, outputs in wanted.items() if outputs)


def compare_family(
    name: str, wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]], task: Task | None = None
) -> Family:
    """Compare the outputs (count, ...), by name, of the float network with those of the quantized one."""
    return compare_parts(name, [(wanted, got)], task)


def compare_parts(name: str, parts: Iterable[Part], task: Task | None = None) -> Family:
    """Compare outputs of a few samples after the other; of each only its powers and what it says are kept.

    What a network says is what it is for, as ``task`` knows; without a task, or with classification, it is a class.
    """
    said = None if task is None or task.kind == "classification" else task
    sums: dict[str, NDArray[np.float64]] = {}
    rows: list[tuple[NDArray[Any], NDArray[Any]]] = []
    qualities: list[TaskQuality] = []
    samples = 0
    for wanted, got in parts:
        outputs = array_outputs(wanted)
        for key, array in wanted.items():
            if outputs[key].is_float and key in got and got[key].shape == array.shape:
                sums[key] = sums.get(key, np.zeros(2)) + powers(array, got[key])
        if said is not None and _tells(said, wanted, got):
            qualities.append(compare_outputs(said, wanted, got))
        scores = score_output(outputs) if said is None else None
        rows += [] if scores is None else [(wanted[scores], got[scores])]
        samples += min(map(len, wanted.values()), default=0)
    heard = [(float(signal), float(noise)) for signal, noise in sums.values() if signal > LEAST_POWER]
    noise = min((decibels(*both) for both in heard), default=None)
    quality = join_qualities(qualities)
    if quality is not None:
        return Family(
            name=name,
            samples=samples,
            sqnr_db=noise,
            measure=quality.measure,
            kept=quality.kept,
            answers=quality.count,
            harm=quality.harm,
        )
    if not rows:
        return Family(name=name, samples=samples, sqnr_db=noise)
    before, after = (class_logits(np.concatenate(arrays)) for arrays in zip(*rows, strict=True))
    classes = before.argmax(1)
    margins = class_margins(before, classes)
    flips, error = flip_share(margins, class_margins(after, classes) - margins)
    return Family(
        name=name,
        samples=samples,
        sqnr_db=noise,
        agreement=float(np.mean(classes == after.argmax(1))),
        flips=flips,
        error=error,
        margin=float(np.median(margins)),
        chosen=len(np.unique(classes)),
        classes=before.shape[1],
        spread=float(before.var(0).mean() / max(before.mean(0).var(), 1e-30)),
    )


def _tells(task: Task, wanted: Arrays, got: Arrays) -> bool:
    """Whether both have all outputs that a task is judged by, of the same shapes: uneven ones were left out."""
    if task.kind == "detection":
        names = {part.output for head in task.heads for part in (head.boxes, *head.scores)}
    else:
        names = {meaning.name for meaning in answering(task)}
    return bool(names) and all(
        name in wanted and name in got and wanted[name].shape == got[name].shape for name in names
    )
