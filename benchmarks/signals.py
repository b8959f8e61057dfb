"""Which scale has the input of a network that takes no pictures? Fitted on networks whose scale is known.

Small networks are trained on inputs of many scales (``signal_networks.py``), and real ones are added. What the compiler
sees of each guess is described by a few numbers; their weights are fitted, and every network is judged with the weights
of all networks but its kind. Ends with weights for ``scale_likelihood.py``.
"""

import argparse
import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import table, write_result
from numpy.typing import NDArray
from signal_networks import SCALES, trained
from zoo import add_common_options

from zsq_compile.data.preprocessing import SignalFamily
from zsq_compile.frontend.load import load_model
from zsq_compile.synthesis.images.procedural import draw_feed
from zsq_compile.synthesis.preprocessing.infer_scale import Looked, look_at_guesses, weigh
from zsq_compile.synthesis.preprocessing.scale_likelihood import NAMES, describe
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, TrialNetwork
from zsq_compile.synthesis.signals.draw import signals

REAL = {  # file beneath the models of the assets, and deviation and mean of its input
    "wild2/alexa_v0.1": (16.0, 0.0),
    "wild2/silero_vad_16k_sequence": (0.058, 0.0),
    "wild/keypoint_classifier_mlp": (0.5, 0.0),
}
_RIDGE, _WIDTH, _REAL_WEIGHT = 0.03, 0.5, 4.0
_NEAR, _FAR = math.log(2.0), math.log(math.sqrt(10.0))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """A network, its truth, and what is seen of it.

    Attributes:
        name: of the file.
        group: networks of one group are left out together.
        truth: deviation and mean of its input.
        looked: what the compiler sees.
        target: (guesses,) probability that each should have, nearest to the truth the most.
        seen: (guesses, numbers) descriptions; rows of zeros where a guess cannot be run.

    """

    name: str
    group: str
    truth: tuple[float, float]
    looked: Looked
    target: NDArray[np.float64]
    seen: NDArray[np.float64]

    @property
    def errors(self) -> NDArray[np.float64]:
        """Logarithm of each guess's deviation over the true one."""
        return np.log(np.array(self.looked.deviations) / self.truth[0])


def look(path: Path) -> Looked:
    """See what a network makes of the usual guesses for its first input that takes a signal."""
    loaded = load_model(path, simplify=False, verify=False)
    spec = next(one for one in loaded.inputs if not one.takes_stand_ins)
    rng = torch.Generator().manual_seed(0)
    others = {one.name: draw_feed(one, TRIAL_IMAGES, rng).numpy() for one in loaded.inputs if one.name != spec.name}
    whole = frozenset(one.name for one in loaded.inputs if one.batch_axis is None)

    def draw(family: SignalFamily, shape: tuple[int, ...]) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = signals(shape, family, rng).numpy()
        return drawn

    looked = look_at_guesses(TrialNetwork(model=loaded.model, spec=spec, others=others, whole=whole), draw)
    assert looked is not None, path
    return looked


def as_row(name: str, group: str, truth: tuple[float, float], looked: Looked) -> Row:
    """Describe what was seen, and say which guesses are right."""
    ratio = truth[1] / truth[0]
    offsets = np.array([guess.offset for guess in looked.guesses])
    positive = np.array([guess.family in ("positive", "mel") for guess in looked.guesses])
    right = positive if ratio > 1.0 else (offsets < 0.0 if ratio < -1.0 else (offsets == 0.0) & ~positive)
    right = right if right.any() else np.ones_like(right)
    errors = np.log(np.array(looked.deviations) / truth[0])
    runs = np.array([one is not None for one in looked.seen])
    target = np.exp(-0.5 * (errors / _WIDTH) ** 2) * right * runs
    seen = [np.zeros(len(NAMES)) if one is None else describe(one, looked.watched) for one in looked.seen]
    return Row(
        name=name, group=group, truth=truth, looked=looked, target=target / target.sum(), seen=np.stack(seen)
    )  # fmt: skip


def fit(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Fit a conditional logit by Newton's method, with a ridge: what is seen is to make the targets probable."""
    weights = np.zeros(len(NAMES))
    for _ in range(40):
        slope, curve = 2 * _RIDGE * weights, 2 * _RIDGE * np.eye(len(weights))
        for row in rows:
            known = np.array([one is not None for one in row.looked.seen])
            seen, target = row.seen[known], row.target[known]
            scores = seen @ weights
            chances = np.exp(scores - scores.max())
            chances /= chances.sum()
            share, mean = _REAL_WEIGHT if row.group == row.name else 1.0, seen.T @ chances
            slope = slope + share * seen.T @ (chances - target)
            curve = curve + share * ((seen * chances[:, None]).T @ seen - np.outer(mean, mean))
        move = np.linalg.solve(curve, slope)
        weights = weights - move * min(1.0, 3.0 / np.abs(move).max())
        if np.abs(move).max() < 1e-6:
            break
    return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How far a posterior is from the truth, in logarithms of deviations; ``low`` and ``high`` hold 98 % of it."""

    best: float
    middle: float
    low: float
    high: float
    near: float

    @property
    def covers(self) -> bool:
        """Whether the truth lies inside the plausible scales, to half a step of the grid."""
        return self.low <= _FAR / 2 and self.high >= -_FAR / 2


def judge(row: Row, weights: NDArray[np.float64]) -> Verdict:
    """Judge the posterior that the compiler would have with these weights."""
    chances, errors = weigh(row.looked, tuple(weights)), row.errors
    order = np.argsort(-chances)
    plausible = errors[order[: int((np.cumsum(chances[order]) < 0.98).sum()) + 1]]
    rising = np.argsort(errors)
    middle = errors[rising][int(np.searchsorted(np.cumsum(chances[rising]), 0.5))]
    return Verdict(
        best=float(errors[order[0]]),
        middle=float(middle),
        low=float(plausible.min()),
        high=float(plausible.max()),
        near=float(chances[np.abs(errors) < _FAR].sum()),
    )


def rows_of(work: Path, assets: Path) -> Iterator[Row]:
    """Yield all networks, with what was seen of them kept in ``work``."""
    kept = work / "looked"
    kept.mkdir(parents=True, exist_ok=True)
    for recipe, path in trained(work / "networks"):
        if recipe.normalised and recipe.body == "dense":
            continue  # statistics tell; the exporter folds those behind convolutions
        if recipe.scale == "raw" and recipe.task != "tones":
            continue  # nobody trains on numbers of thousands but on sounds of 16 bits
        yield as_row(recipe.name, f"{recipe.task}_{recipe.body}", SCALES[recipe.scale], _kept(kept, path))
    for name, truth in REAL.items():
        stem = Path(name).name
        yield as_row(stem, stem, truth, _kept(kept, assets / "models" / f"{name}.onnx"))


def _kept(folder: Path, path: Path) -> Looked:
    place = folder / f"{path.stem}.pickle"
    if not place.is_file():
        place.write_bytes(pickle.dumps(look(path)))
    looked: Looked = pickle.loads(place.read_bytes())
    return looked


def _line(row: Row, one: Verdict) -> list[str]:
    best, low, high = (row.truth[0] * math.exp(error) for error in (one.best, one.low, one.high))
    factor = f"{math.exp(one.best):.2f}"
    return [row.name, f"{row.truth[0]:g}", f"{best:.3g}", factor, f"{low:.2g} to {high:.2g}", f"{one.near:.2f}"]


def _sum_up(label: str, verdicts: Sequence[Verdict]) -> str:
    """Say how many are near, how many intervals hold the truth, and how wide they are."""
    count = len(verdicts)
    near, half = (sum(abs(one.best) < limit + 0.1 for one in verdicts) for limit in (_NEAR, _FAR))
    inside = sum(one.covers for one in verdicts)
    wide = sum(one.high - one.low for one in verdicts) / count / math.log(10.0)
    chance = sum(one.near for one in verdicts) / count
    return (
        f"Of {count} ({label}), the best scale is within a factor of 2 of the truth in {near}, within 3.2 in {half}. "
        f"The plausible scales hold the truth in {inside}, and span {wide:.1f} decades on average. The probability "
        f"within a factor of 3.2 of the truth is {chance:.2f}."
    )


def main() -> None:
    """Fit, judge and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    options = parser.parse_args()
    rows = list(rows_of(options.work / "signals", options.assets))
    fitted = {group: fit([row for row in rows if row.group != group]) for group in dict.fromkeys(r.group for r in rows)}
    verdicts = [judge(row, fitted[row.group]) for row in rows]
    lines = [_line(row, one) for row, one in zip(rows, verdicts, strict=True)]
    real = [one for row, one in zip(rows, verdicts, strict=True) if row.group == row.name]
    body = f"Each network is judged with weights of all but its kind.\n\n{_sum_up('all', verdicts)}\n\n"
    body += f"{_sum_up('real', real)}\n\n"
    heads = ["network", "true deviation", "found", "factor", "plausible (98 %)", "probability within 3.2"]
    write_result("signals", "Scales of inputs that are no pictures", body + table(heads, lines))
    print("WEIGHTS =", tuple(round(float(one), 2) for one in fit(rows)))


if __name__ == "__main__":
    main()
