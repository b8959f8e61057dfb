"""Float against quantized model on the user's own data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import Session
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError
from zsq_compile.metrics import agreement, top1
from zsq_compile.verification.running import run_batched


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledQuality:
    """Both models on real data: shares of right and of common decisions, 0 to 1; no top-1 where labels are missing."""

    samples: int
    top1_float: float | None
    top1_quantized: float | None
    agreement: float


def labelled_quality(reference: Session, session: Session, data: Dataset) -> LabelledQuality:
    """Run both models over all samples, batch by batch, and count.

    Args:
        reference: the float model.
        session: the quantized model.
        data: samples, with labels or without; a last part that does not fill a fixed batch is left out.

    Raises:
        ConfigError: no output classifies whole samples, or the labels do not fit it.
        RuntimeModelError: the runtime failed.

    """
    fixed = max((shape[0] for shape in reference.input_shapes.values() if shape and shape[0] is not None), default=1)
    size = max(32 // fixed, 1) * fixed
    name: str | None = None
    wanted: list[NDArray[Any]] = []
    got: list[NDArray[Any]] = []
    labels: list[NDArray[np.int64]] = []
    for feeds, truth in data.batches(size):
        if min(len(array) for array in feeds.values()) < fixed:
            continue
        outputs, others = run_batched(reference, feeds), run_batched(session, feeds)
        name = name or decision_output(outputs)
        wanted.append(outputs[name].reshape(len(outputs[name]), -1))
        got.append(others[name].reshape(wanted[-1].shape))
        if truth is not None:
            labels.append(truth[: len(wanted[-1])])
    if not wanted:
        raise ConfigError(f"the model takes {fixed} samples at a time, but the data hold {len(data)}")
    scores, other_scores = np.concatenate(wanted), np.concatenate(got)
    shared = agreement(scores, other_scores)
    if data.labels is None:
        return LabelledQuality(samples=len(scores), top1_float=None, top1_quantized=None, agreement=shared)
    truths = np.concatenate(labels)
    try:
        right, other_right = top1(scores, truths), top1(other_scores, truths)
    except ValueError as error:
        raise ConfigError(f"the labelled data do not fit the output {name!r}: {error}") from error
    return LabelledQuality(samples=len(scores), top1_float=right, top1_quantized=other_right, agreement=shared)


def decision_output(outputs: Mapping[str, NDArray[Any]]) -> str:
    """Name of the output that classifies: the first with one row of scores, or one class, for each sample.

    Raises:
        ConfigError: there is none.

    """
    for name, array in outputs.items():
        if np.prod(array.shape[1:], dtype=np.int64) == max(array.shape[1:], default=1):
            return name
    shapes = ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
    raise ConfigError(f"labels need an output with one row of scores for each sample; this model has {shapes}")
