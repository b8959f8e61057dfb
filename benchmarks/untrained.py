"""How far is the likelihood of a convention to be trusted? Networks that were not trained must leave it open.

Every known network is also looked at with the weights and the biases of each layer in random order: as deep and as
wide, with the same numbers, and nothing in it knows of any convention. Whatever is said of it beyond how usual
conventions are is wrong. What is fitted, see ``Trust``, holds that down where the known networks lose least.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from harness import Rows
from numpy.typing import NDArray

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.constants import constant_value
from passes.operators import WEIGHTED
from zsq_compile.data.posterior import PLAUSIBLE
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.synthesis.preprocessing.conventions import conventions
from zsq_compile.synthesis.preprocessing.interior import FEATURES, LITTLE_WORK, watch_interior
from zsq_compile.synthesis.preprocessing.likelihood import Trust, count_telling
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

Matrix = NDArray[np.float64]

UNDAMPED = Trust(layers=1.0, floor=-1000.0)
"""The likelihood as it is."""

_IMPOSSIBLE = -30.0
_COPIES = 2
_UNTRAINED = 0.25  # what is said of them counts so much: few files are not trained
_LAYERS, _FLOORS = (1.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0), (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """Features of all candidates, (kinds of pictures, candidates, features), NaN where one cannot be run.

    Attributes:
        features: see above.
        layers: that have a bias.
        prior: logarithms of the odds by everything but the inside.
        right: number of the right candidate; None of a network that was not trained.

    """

    features: Matrix
    layers: int
    prior: Matrix
    right: int | None = None

    def shares(self, weights: Matrix, trust: Trust) -> Matrix:
        """Probability of each candidate."""
        logs = trust.temper(np.nan_to_num(self.features) @ weights, self.layers)
        inside = np.where(np.isfinite(self.features).all(2), logs, _IMPOSSIBLE)
        total = np.logaddexp.reduce(inside, 0) + self.prior
        odds = np.exp(total - total.max())
        return np.asarray(odds / odds.sum())

    def loss(self, weights: Matrix, trust: Trust) -> float:
        """Logarithmic loss in nats; of an untrained network, divergence of the prior from what is said."""
        shares = np.maximum(self.shares(weights, trust), 1e-9)
        if self.right is not None:
            return -float(np.log(shares[self.right]))
        prior = np.exp(self.prior - np.logaddexp.reduce(self.prior))
        return float((prior * np.log(prior / shares)).sum())


def look_untrained(
    network: TrialNetwork, rows: Rows, key: Sequence[str], truth: Preprocessing
) -> tuple[int, list[Seen]]:
    """Count the layers of a network that have a bias, and look at it with its numbers in random order."""
    spec = network.spec
    candidates = [(row, row.preprocessing(spec, truth.channel_order)) for row in conventions(spec)]
    prior = np.log([row.odds for row, _ in candidates])

    def measure(tried: TrialNetwork) -> Callable[[], dict[str, object]]:
        def run() -> dict[str, object]:
            interior = watch_interior(tried, most_work=LITTLE_WORK)
            assert interior is not None
            found = [interior.describe(one) for _, one in candidates]
            rows = [[float("nan")] * len(FEATURES) if one is None else one.tolist() for one in found]
            return {"layers": count_telling(interior.layers), "features": [rows]}

        return run

    def count() -> dict[str, object]:
        interior = watch_interior(network)
        assert interior is not None
        return {"layers": count_telling(interior.layers)}

    whole = rows.get([*key, "telling"], count)
    assert whole is not None
    seen = []
    for copy in range(_COPIES):
        tried = replace(network, model=scrambled(network.model, copy))
        row = rows.get([*key, "untrained", str(copy)], measure(tried))
        assert row is not None
        seen.append(Seen(features=np.array(row["features"], float), layers=row["layers"], prior=prior))
    return int(whole["layers"]), seen


def scrambled(model: ir.Model, seed: int) -> ir.Model:
    """Return a copy with the numbers of every weight and of every bias in random order; statistics are folded away."""
    made, rng = model.clone(), np.random.default_rng(seed)
    FoldBatchNorm().call(made)
    for node in made.graph:
        for value in node.inputs[1:3] if node.op_type in WEIGHTED else ():
            numbers = None if value is None else constant_value(value)
            if value is not None and numbers is not None:
                mixed = rng.permutation(numbers.reshape(-1)).reshape(numbers.shape)
                value.const_value = ir.tensor(mixed, name=value.name)
    return made


def fit_trust(trained: Sequence[tuple[Seen, float]], untrained: Sequence[Seen], weights: Matrix) -> Trust:
    """Return the trust with the lowest loss of networks, with their shares, and of untrained ones."""
    whole = sum(share for _, share in trained)

    def loss(trust: Trust) -> float:
        known = sum(share * one.loss(weights, trust) for one, share in trained) / whole
        return known + _UNTRAINED * float(np.mean([one.loss(weights, trust) for one in untrained]))

    return min((Trust(layers=one, floor=two) for one, two in itertools.product(_LAYERS, _FLOORS)), key=loss)


def say_untrained(untrained: Sequence[tuple[Seen, Matrix, Trust]]) -> str:
    """Say how much is claimed of networks that nothing can be known of, by the likelihood as it is and as trusted."""
    parts = []
    for words, damped in ("as it is", False), ("as far as it is trusted", True):
        found = [(seen, weights, trust if damped else UNDAMPED) for seen, weights, trust in untrained]
        best = [float(seen.shares(weights, trust).max()) for seen, weights, trust in found]
        loss = float(np.mean([seen.loss(weights, trust) for seen, weights, trust in found]))
        single = sum(one >= PLAUSIBLE for one in best)
        parts.append(
            f"{words}, {single} of {len(best)} get a single plausible convention, and the best one has "
            f"{np.mean(best):.0%} on average and {max(best):.0%} at most ({loss:.2f} nats from the prior)"
        )
    return f"Of networks with their numbers in random order the likelihood claims: {'; '.join(parts)}."
