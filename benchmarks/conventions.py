"""How often is a convention identified without statistics? The likelihood is fitted leaving one network out.

Every network of ``known_networks.py`` whose statistics are gone or hidden is looked at under all conventions, and as if
it had been trained under any other: then it sees pictures that are decoded by that one and encoded by its own, so that
a few dozen networks show hundreds of right and wrong contrasts and offsets. Beside how it looks inside, what counts is
what counts in use: how usual a convention is, the toolkit, arithmetic, decisions. How far the likelihood is trusted is
fitted with networks that were not trained (``untrained.py``).

    python benchmarks/conventions.py --save        # writes the weights beside the code
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fit_conventions import Choice, Looked, fit, trusted
from harness import Rows, open_rows, table, write_result
from known_networks import Known, known_networks
from numpy.typing import NDArray
from untrained import look_untrained, say_untrained
from zoo import ROOT, add_common_options

from zsq_compile.data.posterior import PLAUSIBLE
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import load_model
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.preprocessing.conventions import conventions
from zsq_compile.synthesis.preprocessing.evidence import gather_evidence, order_odds
from zsq_compile.synthesis.preprocessing.interior import FEATURES, Interior, watch_interior
from zsq_compile.synthesis.preprocessing.likelihood import Trust
from zsq_compile.synthesis.preprocessing.toolkits import find_prior_odds
from zsq_compile.synthesis.preprocessing.trial_families import drawing, other_families
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

Matrix = NDArray[np.float64]

_PACKAGE = ROOT / "zsq_compile/synthesis/preprocessing"
_WEIGHTS = _PACKAGE / "likelihood.toml"


def look(known: Known, rows: Rows) -> Looked:
    """Look at a network, or read what was seen of it before."""
    key = ["conventions", known.name, file_sha256(known.path), repr(known.truth), *_code()]
    network = _trial_network(known)
    row = rows.get(key, lambda: _measure(known, network))
    kinds = [row]
    for number, draw in enumerate(other_families(network.spec, torch.Generator().manual_seed(0))):
        tried = replace(network, draw_images=draw)
        kinds.append(rows.get([*key, str(number)], lambda tried=tried: _measure(known, tried)))  # type: ignore[misc]
    assert row is not None
    layers, untrained = look_untrained(network, rows, key, known.truth)
    choices = [
        Choice(features=np.array([one["features"] for one in alike], float), right=alike[0]["right"])
        for alike in zip(*(one["choices"] for one in kinds if one is not None), strict=True)
    ]
    return Looked(
        known=known,
        names=row["names"],
        own=choices[0],
        others=choices[1:],
        prior=np.array(row["prior"]),
        bgr=row["bgr"],
        layers=layers,
        untrained=untrained,
    )


def _code() -> list[str]:
    names = ("interior.py", "trials.py", "conventions.toml", "toolkits.toml", "arithmetic.py")
    return [file_sha256(_PACKAGE / name) for name in names]


def _measure(known: Known, network: TrialNetwork) -> dict[str, Any]:
    interior = watch_interior(network)
    assert interior is not None
    spec = network.spec
    truth = replace(known.truth, layout=spec.layout or "NCHW")
    rows = conventions(spec)
    candidates = [row.preprocessing(spec, truth.channel_order) for row in rows]
    right = min(range(len(candidates)), key=lambda number: _distance(candidates[number], truth))
    seen: dict[tuple[float, ...], list[float]] = {}
    choices = [
        {"right": right, "features": [_features(interior, one, seen) for one in candidates]},
        *(
            {
                "right": number,
                "features": [_features(interior, _through(one, virtual, truth), seen) for one in candidates],
            }
            for number, virtual in enumerate(candidates)
            if number != right
        ),
    ]
    evidence = gather_evidence(network, candidates, thorough=True)
    bgr = dict(order_odds(rows[right], find_prior_odds(network.model), spec)).get("bgr", 0.0)
    prior = np.sum([one.log_odds for one in evidence], 0)
    return {"names": [one.name for one in candidates], "choices": choices, "prior": prior.tolist(), "bgr": bgr}


def _trial_network(known: Known) -> TrialNetwork:
    graph = ir.load(known.path).graph
    name = next(str(one.name) for one in graph.inputs if one.name not in graph.initializers)
    shapes = {} if known.shape is None else {name: known.shape}
    loaded = load_model(known.path, input_shapes=shapes, simplify=False, verify=False)
    spec = next(one for one in loaded.inputs if one.is_image)
    rng = torch.Generator().manual_seed(0)
    return TrialNetwork(model=loaded.model, spec=spec, draw_images=drawing(prior_images, spec, rng), others={})


def _distance(one: Preprocessing, truth: Preprocessing) -> float:
    """How far apart two preprocessings are: the logarithm of their scales, and offsets in units of the smaller."""
    pairs = zip(one.mean, one.std, truth.mean, truth.std, strict=True)
    return max(abs(np.log(s / t)) + 0.3 * abs(m - n) / min(s, t) for m, s, n, t in pairs)


def _through(one: Preprocessing, virtual: Preprocessing, truth: Preprocessing) -> Preprocessing:
    """Return what a network sees that takes ``virtual`` inputs, brings them to its own, and is fed ``one``."""
    numbers = list(zip(one.mean, one.std, virtual.mean, virtual.std, truth.mean, truth.std, strict=True))
    return replace(
        truth,
        mean=tuple(m + (n - v) * s / w for m, s, v, w, n, _ in numbers),
        std=tuple(s * t / w for _, s, _, w, _, t in numbers),
    )


def _features(interior: Interior, one: Preprocessing, seen: dict[tuple[float, ...], list[float]]) -> list[float]:
    key = tuple(round(float(number), 3) for number in (*np.divide(one.mean, one.std), *np.log(one.std)))
    if key not in seen:
        found = interior.describe(one)
        seen[key] = [float("nan")] * len(FEATURES) if found is None else found.tolist()
    return seen[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is said of a network by weights and a trust that were fitted to all others."""

    looked: Looked
    weights: Matrix
    trust: Trust

    @property
    def shares(self) -> Matrix:
        """Probability of each candidate."""
        return self.looked.seen.shares(self.weights, self.trust)

    @property
    def truth(self) -> float:
        """Probability of the right convention."""
        return float(self.shares[self.looked.own.right])

    @property
    def is_right(self) -> bool:
        """Whether the right convention is the first."""
        return int(self.shares.argmax()) == self.looked.own.right

    @property
    def plausible(self) -> list[int]:
        """Numbers of the plausible candidates, the most probable first."""
        order = np.argsort(-self.shares, kind="stable")
        return [int(one) for one in order[: int(np.searchsorted(self.shares[order].cumsum(), PLAUSIBLE)) + 1]]

    @property
    def brier(self) -> float:
        """Sum of squares of the error of all probabilities."""
        hit = np.eye(len(self.shares))[self.looked.own.right]
        return float(((self.shares - hit) ** 2).sum())

    @property
    def order(self) -> str:
        """The order of channels that is said, given the right convention."""
        return "" if len(self.looked.known.truth.mean) != 3 else "bgr" if self.looked.bgr > 0.5 else "rgb"

    def row(self) -> list[str]:
        """Return the row of the table."""
        looked, known = self.looked, self.looked.known
        names = looked.names
        listed = ", ".join(f"{names[one]} {self.shares[one]:.2f}" for one in self.plausible)
        right = "right" if self.is_right else "plausible" if looked.own.right in self.plausible else "**missed**"
        order = f"{known.truth.channel_order}{'' if known.order_told else '?'}"
        return [known.name, known.group, names[looked.own.right], f"{self.truth:.2f}", right, listed, order, self.order]


def judge(networks: Sequence[Looked]) -> list[Verdict]:
    """Judge each group of networks by weights that were fitted to all other groups."""
    found = []
    for group in dict.fromkeys(one.known.group for one in networks):
        others = [one for one in networks if one.known.group != group]
        weights = fit(others)
        trust = trusted(others, weights)
        own = [one for one in networks if one.known.group == group]
        found += [Verdict(looked=one, weights=weights, trust=trust) for one in own]
    return found


def save(weights: Matrix, trust: Trust) -> None:
    """Write the weights beside the code."""
    head = "# Weights of the features of interior.py, written by benchmarks/conventions.py --save.\n\n[weights]\n"
    body = "".join(f"{name} = {one:.4g}\n" for name, one in zip(FEATURES, weights, strict=True))
    _WEIGHTS.write_text(f"{head}{body}\n[trust]\nlayers = {trust.layers:g}\nfloor = {trust.floor:g}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--save", action="store_true", help="write the weights beside the code")
    parser.add_argument("--known", type=Path, help="folder of known_networks.py (default: that of --work)")
    options = parser.parse_args()
    rows = open_rows(options)
    networks = []
    for known in _without_statistics(known_networks(options.assets, options.known or options.work)):
        networks.append(look(known, rows))
        print(known.name, flush=True)
    verdicts = judge(networks)
    weights = fit(networks)
    trust = trusted(networks, weights)
    if options.save:
        save(weights, trust)
    write_result("conventions", "Conventions identified without statistics", report(verdicts, weights, trust))


def _without_statistics(known: Sequence[Known]) -> list[Known]:
    """Return files without statistics; those that we folded only where there is no other export of the network."""
    bare = [one for one in known if not one.has_statistics]
    folded = {one.group for one in bare if not one.name.endswith("_hidden")}
    return [one for one in bare if one.group not in folded or not one.name.endswith("_hidden")]


def report(verdicts: Sequence[Verdict], weights: Matrix, trust: Trust) -> str:
    """Return the body of the table's page; groups count the same, however many files they have."""
    count = len({one.looked.known.group for one in verdicts})

    def mean(values: Sequence[float]) -> float:
        groups = [one.looked.known.group for one in verdicts]
        return sum(value / groups.count(group) for value, group in zip(values, groups, strict=True)) / count

    top = mean([float(one.is_right) for one in verdicts])
    inside = mean([float(one.looked.own.right in one.plausible) for one in verdicts])
    told = [one for one in verdicts if one.looked.known.order_told and one.order]
    orders = sum(one.order == one.looked.known.truth.channel_order for one in told)
    both = sum(one.is_right and one.order == one.looked.known.truth.channel_order for one in told)
    sizes = mean([float(len(one.plausible)) for one in verdicts])
    random = [(seen, one.weights, one.trust) for one in verdicts for seen in one.looked.untrained]
    body = (
        f"Top choice right: {top:.0%} of {count} networks ({len(verdicts)} files); truth plausible: {inside:.0%}; "
        f"plausible conventions: {sizes:.1f} on average. Brier score {mean([one.brier for one in verdicts]):.2f} "
        f"(0 is perfect, {1 - 1 / 7:.2f} is said by one who knows nothing), logarithmic loss "
        f"{mean([-float(np.log(max(one.truth, 1e-9))) for one in verdicts]):.2f}.\n\n"
        f"Order of the channels, which toolkits and usage tell alone: right for {orders} of {len(told)} files whose "
        f"order is known; convention and order for {both}.\n\n"
        "Weights fitted to all: "
        + ", ".join(f"{n} {w:.2f}" for n, w in zip(FEATURES, weights, strict=True))
        + f"; trusted fully from {trust.layers:g} layers with biases on, and nowhere below {trust.floor:g}.\n\n"
        + f"{say_untrained(random)}\n\n"
    )
    header = ["file", "network", "trained with", "its probability", "top choice", "plausible", "order", "said"]
    return body + table(header, [one.row() for one in verdicts])


if __name__ == "__main__":
    main()
