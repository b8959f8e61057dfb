"""Whether another form of a quantized file does as well as the present one: by its task, and by its noise.

Few samples choose, so that a difference counts only beyond chance: of a share, twice its standard error; of noise,
twice that of the mean over samples, and at least what a form of that kind may lose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import QuantizationError
from zsq_compile.metrics import sqnr_db
from zsq_compile.tasks.compare_outputs import compare_outputs
from zsq_compile.tasks.task import Task, TaskQuality

Outputs = Mapping[str, NDArray[Any]]
_DEVIATIONS = 2.0
_LEAST_NOISE = 1e-12  # of the signal: below lies the rounding of float sums


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FormQuality:
    """What a form keeps of the float network's answers.

    Attributes:
        ratios: signal to quantization noise ratio of every float output, dB.
        samples: (count,) the same of each sample, for the outputs that have a row for each.
        task: how much of what the float network says; None where that is not known.

    """

    ratios: Mapping[str, float]
    samples: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    task: TaskQuality | None = None

    @property
    def order(self) -> float:
        """Less is better, among the forms of one network."""
        return -min(self.ratios.values(), default=0.0) if self.task is None else self.task.harm


def measure_form(task: Task | None, wanted: Outputs, got: Outputs, count: int) -> FormQuality:
    """Compare the outputs of a form on ``count`` samples with those of the float network."""
    floats = {name: array for name, array in wanted.items() if np.issubdtype(array.dtype, np.floating)}
    rows = {name for name, array in floats.items() if array.ndim and len(array) == count}
    try:
        quality = None if task is None else compare_outputs(task, wanted, got)
    except (ValueError, KeyError):  # an output that a task is judged by is not joined along a batch
        quality = None
    return FormQuality(
        ratios={name: sqnr_db(array, got[name]) for name, array in floats.items()},
        samples={name: _by_sample(floats[name], got[name]) for name in rows},
        task=quality,
    )


def require_no_worse(form: FormQuality, present: FormQuality, worse_db: float) -> None:
    """Raise QuantizationError where a form does worse than the present file, beyond chance.

    What is noisier by more than ``worse_db``, and by more than samples differ, will do where more answers are kept.
    """
    better = False
    if form.task is not None and present.task is not None and form.task.kept is not None:
        kept, before, count = form.task.kept, present.task.kept or 0.0, max(present.task.count, 1)
        chance = _DEVIATIONS * math.sqrt(max(before * (1.0 - before), 1.0 / count) / count)
        if kept < before - chance:
            raise QuantizationError(f"it keeps {kept:.1%} of {form.task.measure}, the present file {before:.1%}")
        better = kept > before
    for name, ratio in form.ratios.items():
        before = present.ratios[name]
        if ratio < before - max(worse_db, _chance_db(form, present, name)) and not better:
            raise QuantizationError(
                f"its output {name!r} is at {ratio:.1f} dB, and that of the present file at {before:.1f} dB"
            )


def _chance_db(form: FormQuality, present: FormQuality, name: str) -> float:
    """Twice the standard error of the difference between two files, dB; 0 where there are no two samples."""
    if name not in form.samples or name not in present.samples:
        return 0.0
    differences = form.samples[name] - present.samples[name]
    if len(differences) < 2:
        return 0.0
    return float(_DEVIATIONS * differences.std(ddof=1) / math.sqrt(len(differences)))


def _by_sample(wanted: NDArray[Any], got: NDArray[Any]) -> NDArray[np.float64]:
    """Signal to noise ratio of each sample, dB, (count,)."""
    signal = wanted.astype(np.float64).reshape(len(wanted), -1)
    noise = np.square(signal - got.astype(np.float64).reshape(len(wanted), -1)).sum(1)
    power = np.maximum(np.square(signal).sum(1), np.finfo(np.float64).tiny)
    return np.asarray(-10.0 * np.log10(np.maximum(noise / power, _LEAST_NOISE)), np.float64)
