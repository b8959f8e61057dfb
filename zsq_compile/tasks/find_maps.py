"""What outputs over the places of a picture hold: masks, heat maps, pictures."""

import numpy as np

from zsq_compile.tasks.find_facts import OutputFacts
from zsq_compile.tasks.find_rows import row_balance, row_squash
from zsq_compile.tasks.task import OutputMeaning, OutputRole

_RESIZING = ("Resize", "Upsample")
_PEAKED = 6.0  # largest number of a heat map, in its 90th percentile
_ALIKE = 0.5  # mean correlation of the channels of a picture


def read_map(facts: OutputFacts) -> OutputMeaning:
    """Say what an output with numbers for each place of a picture holds."""
    squash, columns, name, axis = row_squash(facts), facts.columns, facts.name, facts.axis
    if squash in ("softmax", "log softmax") and columns > 1:
        scores = "probabilities" if squash == "softmax" else "log probabilities"
        reason = f"a softmax over {columns} classes makes each of its pixels"
        return OutputMeaning(name=name, role="mask", reason=reason, axis=axis, scores=scores)  # type: ignore[arg-type]
    if _is_picture(facts):
        reason = f"it has {columns} channels on a grid as fine as the picture's or finer, and no classes"
        return OutputMeaning(name=name, role="image", reason=reason, axis=axis)
    if squash == "sigmoid":
        reason = "a sigmoid makes each of its pixels"
        return OutputMeaning(name=name, role="mask", reason=reason, axis=axis, scores="probabilities")
    if columns == 1:
        return OutputMeaning(
            name=name, role="numbers", reason="it has one number a pixel that nothing squashes", axis=axis
        )
    balance = row_balance(facts)
    if balance is not None and balance > 1.0:
        reason = f"it has {columns} numbers a pixel, whose weights go up and down together as those of classes do not"
        role: OutputRole = "heatmap" if _is_peaked(facts) else "numbers"
        return OutputMeaning(name=name, role=role, reason=reason, axis=axis)
    if _is_coarse(facts) and (not _is_resized(facts)) and _is_peaked(facts) is not False:
        reason = (
            f"it has {columns} maps on a grid of stride {facts.stride:g} that nothing enlarges and nothing squashes"
        )
        return OutputMeaning(name=name, role="heatmap", reason=reason, axis=axis)
    reason = f"it has {columns} numbers a pixel that nothing squashes, as scores of classes"
    return OutputMeaning(name=name, role="mask", reason=reason, axis=axis, scores="logits")


def _is_resized(facts: OutputFacts) -> bool:
    return bool(facts.operators.intersection(_RESIZING))


def _is_coarse(facts: OutputFacts) -> bool:
    return facts.stride is not None and facts.stride > 1.5


def _is_peaked(facts: OutputFacts) -> bool | None:
    """Whether most channels are flat but for a peak; None without samples."""
    rows = facts.rows
    if rows is None or not rows.size:
        return None
    sizes = np.abs(rows.astype(np.float64))
    usual = np.quantile(sizes, 0.9, axis=1)
    return bool(np.median(sizes.max(1) / np.maximum(usual, 1e-12)) > _PEAKED)


def _is_picture(facts: OutputFacts) -> bool:
    """Whether channels are colours: as many as those of the input, on a grid at least as fine."""
    picture, squash = facts.picture, row_squash(facts)
    if picture is None or facts.stride is None or facts.stride > 1.5:
        return False
    if facts.stride < 0.9 and facts.columns in (1, 3, 4):
        return True
    if facts.columns != 3 or picture.channels != 3:
        return False
    rows = facts.rows
    if rows is not None and rows.shape[1] > 1:
        samples = [np.corrcoef(one.T.astype(np.float64)) for one in rows if (one.std(0) > 0.0).all()]
        return bool(samples) and float(np.mean([one[np.triu_indices(3, 1)].mean() for one in samples])) > _ALIKE
    return squash in ("tanh", "sigmoid", "arithmetic", "positive") or "DepthToSpace" in facts.operators
