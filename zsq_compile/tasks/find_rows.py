"""What outputs without boxes and maps hold: class scores, decisions, texts, embeddings and other numbers."""

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.operators import RECURRENT, WEIGHTED
from passes.surgery import input_at, is_standard
from zsq_compile.tasks.find_facts import OutputFacts
from zsq_compile.tasks.find_layers import last_layers
from zsq_compile.tasks.task import OutputMeaning

_SUM_TOLERANCE = 2e-3
_SLACK = 1e-4  # beyond 0 and 1, of probabilities
_RULES = 0.5  # share of the steps at which the blank of a text wins
_FEWEST_CHARACTERS = 10
_TOGETHER = 1.2  # of the sum of independent rows: see row_balance
_SURE = 3.0  # deviations by which the square of it exceeds that of rows drawn at random
_CANCEL = 0.7  # up to which rows are those of classes


def read_row(facts: OutputFacts) -> OutputMeaning:
    """Say what an output with one row of numbers for each sample holds."""
    squash, columns = row_squash(facts), facts.columns
    name, axis = facts.name, facts.axis
    if squash in ("softmax", "log softmax") and columns > 1:
        scores = "probabilities" if squash == "softmax" else "log probabilities"
        reason = f"a softmax over {columns} classes makes it" if squash == "softmax" else "a log softmax makes it"
        return OutputMeaning(name=name, role="class scores", reason=reason, axis=axis, scores=scores)  # type: ignore[arg-type]
    if squash == "sigmoid":
        reason = (
            "a sigmoid makes it, one number for each sample"
            if columns == 1
            else f"a sigmoid makes each of its {columns} numbers, which exclude nothing"
        )
        return OutputMeaning(name=name, role="probabilities", reason=reason, axis=axis, scores="probabilities")
    if squash == "unit length":
        return OutputMeaning(name=name, role="embedding", reason="its vectors are brought to length 1", axis=axis)
    return _read_plain_row(facts)


def _read_plain_row(facts: OutputFacts) -> OutputMeaning:
    """Say what a row that nothing squashes holds."""
    name, axis, columns = facts.name, facts.axis, facts.columns
    rows = facts.rows
    if rows is not None and columns > 1:
        if _sum_to_one(rows):
            reason = f"its {columns} numbers sum to 1 on samples"
            return OutputMeaning(name=name, role="class scores", reason=reason, axis=axis, scores="probabilities")
        if columns > 8 and _have_unit_length(rows):
            return OutputMeaning(name=name, role="embedding", reason="its vectors have length 1 on samples", axis=axis)
    if columns <= 1:
        return OutputMeaning(name=name, role="numbers", reason="it is one number that nothing squashes", axis=axis)
    layers = last_layers(facts.value)
    if not any(is_standard(node, *WEIGHTED) for node in layers[:1]) and not _pools_scores(layers):
        kind = layers[0].op_type if layers else "nothing"
        reason = f"{kind} makes its {columns} numbers, and no layer turns features into scores"
        return OutputMeaning(name=name, role="embedding", reason=reason, axis=axis)
    balance = row_balance(facts)
    if balance is not None and balance > _TOGETHER:
        reason = (
            f"the weights of its {columns} numbers go up and down together ({balance:.1f} times as much as independent "
            "ones), where those of classes, trained against each other, cancel"
        )
        role = "landmarks" if columns >= 8 and columns % 2 == 0 else "numbers"
        return OutputMeaning(name=name, role=role, reason=reason, axis=axis)  # type: ignore[arg-type]
    reason = f"a layer makes {columns} numbers for each sample, and nothing behind it says otherwise"
    if balance is not None and balance <= _CANCEL:
        reason = f"a layer makes {columns} numbers for each sample, whose weights cancel as those of classes do"
    return OutputMeaning(name=name, role="class scores", reason=reason, axis=axis, scores="logits")


def row_squash(facts: OutputFacts) -> str:
    """Say what a row of numbers went through last."""
    if facts.axis is None:  # one number for each sample, on no axis of its own
        node = facts.value.producer()
        while node is not None and node.op_type in ("Reshape", "Squeeze", "Flatten", "Identity", "Transpose", "Slice"):
            node = None if node.inputs[0] is None else node.inputs[0].producer()
        return "sigmoid" if node is not None and is_standard(node, "Sigmoid", "HardSigmoid") else "none"
    found = facts.stretches()
    kinds = {one.squash for one in found}
    return kinds.pop() if len(kinds) == 1 else "none" if not kinds else "mixed"


def row_balance(facts: OutputFacts) -> float | None:
    """Length of the sum of the weight rows of the last layer, in that of independent rows.

    The gradient of a cross entropy behind a softmax sums to zero over the classes, so that training leaves the sum of
    their rows where it was drawn, and decay takes it towards zero: rows of classes give 1 or less. Numbers that are
    regressed, such as coordinates of landmarks, move together and give more. None without such a layer, and where rows
    that are drawn at random may give as much more than 1.
    """
    layer = next((node for node in last_layers(facts.value) if is_standard(node, *WEIGHTED)), None)
    weight = None if layer is None else constant_value(input_at(layer, 1))
    if layer is None or weight is None or weight.ndim < 2:
        return None
    transposed = is_standard(layer, "Gemm") and layer.attributes.get_int("transB", 0) == 1
    first = is_standard(layer, "Conv") or transposed
    table = np.asarray(weight, np.float64)
    table = table.reshape(len(table), -1) if first else table.reshape(-1, table.shape[-1]).T
    whole = float(np.square(table).sum())
    if len(table) < 2 or not whole:
        return None
    square = float(np.square(table.sum(0)).sum()) / whole
    by_chance = 1.0 + _SURE * math.sqrt(
        2.0 / table.shape[1]
    )  # the square is that of so many normal numbers, on average
    return None if 1.0 < square <= by_chance else math.sqrt(square)


def read_steps(facts: OutputFacts, *, takes_tokens: bool) -> tuple[OutputMeaning, int | None]:
    """Say what rows of numbers for steps of a sample hold, and which class is the blank of a text."""
    columns, name, axis = facts.columns, facts.name, facts.axis
    squash = row_squash(facts)
    rows = facts.rows
    if columns == 1 or squash == "sigmoid":
        if squash == "sigmoid" or (rows is not None and _are_shares(rows) and squash != "none"):
            what = "one number for each step" if columns == 1 else f"{columns} numbers for each step"
            reason = f"a sigmoid makes {what}"
            return OutputMeaning(
                name=name, role="probabilities", reason=reason, axis=axis, scores="probabilities"
            ), None
        return OutputMeaning(
            name=name, role="numbers", reason="it has numbers for places, which nothing squashes", axis=axis
        ), None
    scored = squash in ("softmax", "log softmax") or (rows is not None and _sum_to_one(rows))
    if scored or takes_tokens or steps_in_sequence(facts) or _are_classes(facts):
        blank = None if takes_tokens else find_blank(facts)
        scores = "log probabilities" if squash == "log softmax" else "probabilities" if scored else "logits"
        how = {"softmax": "a softmax over", "log softmax": "a log softmax over"}.get(squash, "a row of")
        reason = f"it has {how} {columns} classes for each of {facts.places or 'several'} steps"
        if blank is not None:
            reason += f", of which class {blank} stands for no character"
        return OutputMeaning(name=name, role="characters", reason=reason, axis=axis, scores=scores), blank  # type: ignore[arg-type]
    reason = f"it has {columns} numbers for each of {facts.places or 'several'} places, and nothing tells what they are"
    return OutputMeaning(name=name, role="numbers", reason=reason, axis=axis), None


def _are_classes(facts: OutputFacts) -> bool:
    """Whether plain numbers of steps are scores of characters: their weights cancel, or a blank wins at most steps."""
    if facts.columns < _FEWEST_CHARACTERS or not all(one.channels for one in facts.stretches()):
        return False
    balance = row_balance(facts)
    return (balance is not None and balance <= _CANCEL) or _ruling_blank(facts) is not None


def _ruling_blank(facts: OutputFacts) -> int | None:
    """First or last class, where it wins at most steps of the samples."""
    rows = facts.rows
    if rows is None or not rows.size:
        return None
    wins = np.bincount(rows.argmax(-1).reshape(-1), minlength=rows.shape[-1]) / (rows.shape[0] * rows.shape[1])
    chosen = int(wins.argmax())
    return chosen if wins[chosen] >= _RULES and chosen in (0, rows.shape[-1] - 1) else None


def find_blank(facts: OutputFacts) -> int | None:
    """Class of a text that stands for no character: the one that wins at most steps, else by custom the first."""
    if facts.columns < _FEWEST_CHARACTERS:
        return None
    return _ruling_blank(facts) or 0


def steps_in_sequence(facts: OutputFacts) -> bool:
    """Whether steps of a sample follow each other: by a recurrent operator, or one product for each."""
    pending, seen = [facts.value], set[ir.Value]()
    while pending and len(seen) < 400:
        one = pending.pop()
        node = one.producer()
        if one in seen or node is None:
            continue
        seen.add(one)
        if is_standard(node, *RECURRENT):
            return True
        pending += [source for source in node.inputs if source is not None and source.const_value is None]
    products = [node for node in last_layers(facts.value) if is_standard(node, "Gemm", "MatMul")]
    return len(products) > 1 and len({id(input_at(node, 1)) for node in products}) == 1


def _sum_to_one(rows: NDArray[Any]) -> bool:
    return _are_shares(rows) and bool((np.abs(rows.sum(-1, dtype=np.float64) - 1.0) < _SUM_TOLERANCE).all())


def _are_shares(rows: NDArray[Any]) -> bool:
    return bool(rows.min() >= -_SLACK and rows.max() <= 1.0 + _SLACK)


def _have_unit_length(rows: NDArray[Any]) -> bool:
    return bool((np.abs(np.linalg.norm(rows.astype(np.float64), axis=-1) - 1.0) < _SUM_TOLERANCE).all())


def _pools_scores(layers: tuple[ir.Node, ...]) -> bool:
    """Whether a pooling over places makes a row directly from a convolution, as scores of places are averaged."""
    for node in layers:
        source = node.inputs[0] if node.inputs else None
        maker = None if source is None else source.producer()
        if "Pool" in node.op_type or "Reduce" in node.op_type:
            return maker is not None and is_standard(maker, "Conv")
    return False
