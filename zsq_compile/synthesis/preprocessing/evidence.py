"""How probable is each convention of the field where no statistics tell? Evidence adds up as logarithms of odds.

What counts, beside how usual a convention is:

1. what the inside of the network looks like under it (``interior``, ``likelihood``);
2. what the first layer sees, where the graph itself scales its input in front of it (``arithmetic``);
3. decisions of a classifier: where they are far more telling under small inputs than under raw pixels, inputs are
   small. The reverse proves nothing, as a network of any kind gives more information on images that are blown up;
4. the toolkit that wrote the file (``toolkits``), which is about all that tells RGB from BGR.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import PLAUSIBLE, Posterior
from zsq_compile.data.preprocessing import ChannelOrder, Preprocessing, Source
from zsq_compile.synthesis.preprocessing.arithmetic import find_by_arithmetic
from zsq_compile.synthesis.preprocessing.conventions import Convention, channel_orders, conventions
from zsq_compile.synthesis.preprocessing.infer import odds_of_statistics
from zsq_compile.synthesis.preprocessing.interior import LITTLE_WORK, MOST_WORK, watch_interior
from zsq_compile.synthesis.preprocessing.likelihood import count_telling, log_likelihood
from zsq_compile.synthesis.preprocessing.toolkits import PriorOdds, find_prior_odds
from zsq_compile.synthesis.preprocessing.trials import DrawImages, TrialNetwork

_ARITHMETIC, _DECISIONS = np.log(300.0), np.log(8.0)
_CONTRADICTING = np.log(100.0)
_IMPOSSIBLE = -30.0  # of numbers that overflow
_TELLING, _LEAST_INFORMATION = 1.5, 1e-3
_RAW = ("byte", "byte_bgr")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """One kind of evidence: its name in words, and the logarithms of the odds that it gives to each candidate."""

    words: str
    log_odds: NDArray[np.float64]

    def raises(self, best: int, total: NDArray[np.float64]) -> float:
        """Return by how much it raises the logarithm of the probability of ``best`` among all evidence."""
        return float(np.log(_shares(total)[best]) - np.log(_shares(total - self.log_odds)[best]))


def rank_by_evidence(
    network: TrialNetwork,
    statistics: BatchNormStatistics | None = None,
    families: Sequence[DrawImages] = (),
    *,
    thorough: bool,
) -> Posterior:
    """Rank the conventions of the field.

    Args:
        network: with the image input in question, and what it is tried on.
        statistics: of layers far behind the input, which tell something and do not decide.
        families: other kinds of pictures that it may have been trained on.
        thorough: run the whole network on dozens of images, too.

    """
    rows, prior = conventions(network.spec), find_prior_odds(network.model)
    orders = [order_odds(row, prior, network.spec) for row in rows]
    candidates = [row.preprocessing(network.spec, order[0][0]) for row, order in zip(rows, orders, strict=True)]
    found = gather_evidence(network, candidates, thorough=thorough)
    inside = look_inside(network, candidates, families, most_work=MOST_WORK if thorough else LITTLE_WORK)
    if inside is not None:
        found.append(Evidence(words="its layers are the most centred under it", log_odds=inside))
    remembered = None if statistics is None else odds_of_statistics(network, statistics, candidates)
    if remembered is not None:
        found.append(Evidence(words="batch normalisation statistics far behind it come nearest", log_odds=remembered))
    total = np.sum([one.log_odds for one in found], 0)
    best, share = int(total.argmax()), _shares(total)
    decisive = max(found, key=lambda one: one.raises(best, total))
    if len(found) == 1:
        reason = "the most common, as nothing in the model tells"
    else:
        reason = f"{decisive.words}; {share[best]:.0%} probable"
    source: Source = "ranked" if share[best] >= PLAUSIBLE else "assumed"
    hypotheses, weights = [], []
    for number, (row, order) in enumerate(zip(rows, orders, strict=True)):
        for name, odds in order:
            one = row.preprocessing(network.spec, name)
            hypotheses.append(replace(one, source=source, reason=reason) if number == best else one)
            weights.append(float(share[number] * odds))
    return Posterior.of(hypotheses, weights)


def _shares(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of these logarithms of odds."""
    odds = np.exp(log_odds - log_odds.max())
    shares: NDArray[np.float64] = np.maximum(odds / odds.sum(), 1e-300)
    return shares


def gather_evidence(network: TrialNetwork, candidates: Sequence[Preprocessing], *, thorough: bool) -> list[Evidence]:
    """Return what there is of evidence beside the inside of the network; how usual each is comes first."""
    prior, rows = find_prior_odds(network.model), conventions(network.spec)
    found = [Evidence(words="it is the most common", log_odds=np.log([row.odds for row in rows]))]
    if prior.by_convention:
        odds = np.log([prior.by_convention.get(one.name, 1.0) for one in candidates])
        found.append(Evidence(words=f"usual with {' and '.join(prior.toolkits)}", log_odds=odds))
    start = find_by_arithmetic(network)
    if start is not None:
        odds = np.array([_ARITHMETIC * (one.name == start.name) for one in candidates])
        found.append(Evidence(words=start.reason, log_odds=odds))
    ratio = _decision_ratio(network, candidates) if thorough else 1.0
    if ratio >= _TELLING:
        odds = np.array([_DECISIONS * (one.name not in _RAW) for one in candidates])
        words = f"its decisions are {min(ratio, 99):.1f} times more telling for small inputs than for raw pixels"
        found.append(Evidence(words=words, log_odds=odds))
    return found


def contradict_by_inside(
    network: TrialNetwork, given: Preprocessing, families: Sequence[DrawImages] = ()
) -> Preprocessing | None:
    """Return the most probable convention where, by the inside alone, it is ``_CONTRADICTING`` times likelier."""
    ranked = rank_by_evidence(network, families=families, thorough=False).best
    inside = look_inside(network, [ranked, given], families, most_work=LITTLE_WORK)
    return ranked if inside is not None and inside[0] - inside[1] >= _CONTRADICTING else None


def look_inside(
    network: TrialNetwork,
    candidates: Sequence[Preprocessing],
    families: Sequence[DrawImages] = (),
    *,
    most_work: int = MOST_WORK,
) -> NDArray[np.float64] | None:
    """Return the logarithm of how likely each candidate is by the inside; None where that cannot be looked at.

    A candidate is as likely as it is on average over the kinds of pictures: the network tells which one it knows
    together with the preprocessing.
    """
    found = []
    for draw_images in (network.draw_images, *families):
        interior = watch_interior(replace(network, draw_images=draw_images), most_work=most_work)
        described = [None if interior is None else interior.describe(one) for one in candidates]
        if interior is None or all(one is None for one in described):
            return None
        telling = count_telling(interior.layers)
        found.append([_IMPOSSIBLE if one is None else log_likelihood(one, telling) for one in described])
    return np.asarray(np.logaddexp.reduce(found, 0) - np.log(len(found)))


def _decision_ratio(network: TrialNetwork, candidates: Sequence[Preprocessing]) -> float:
    """Information of decisions under the best small candidate over that under the best raw one; 1 if not known."""
    found = network.decisiveness(candidates)
    if found is None:
        return 1.0
    best = {True: 0.0, False: 0.0}
    for candidate, information in zip(candidates, found, strict=True):
        is_raw = candidate.name in _RAW
        best[is_raw] = max(best[is_raw], information)
    return best[False] / max(best[True], _LEAST_INFORMATION)


def order_odds(row: Convention, prior: PriorOdds, spec: InputSpec) -> list[tuple[ChannelOrder, float]]:
    """Orders of the channels with their shares, the more probable one first."""
    orders = channel_orders(spec)
    if len(orders) == 1:
        return [(orders[0], 1.0)]
    odds = row.bgr / (1.0 - row.bgr) * prior.bgr
    shares: dict[ChannelOrder, float] = {"rgb": 1.0 / (1.0 + odds), "bgr": odds / (1.0 + odds)}
    return sorted(shares.items(), key=lambda pair: -pair[1])
