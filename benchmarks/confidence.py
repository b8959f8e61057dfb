"""The estimate against the truth: agreement on real data, what is said without them, and how often that is right.

Every network of ``known_networks.py`` with real data is compiled, with no option and with the true preprocessing given.
What the estimate says is fitted to all other networks (one network is left out in all its exports), and counted for
each kind of doubt apart. Run ``train_networks.py`` before: its networks are most of them.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from estimates import DOUBTS, Compiled, Told, Workshop
from harness import open_rows, table, write_result
from known_networks import Known, known_networks
from zoo import add_common_options, chosen

from zsq_compile.data.preprocessing import Preprocessing, imagenet_preprocessing
from zsq_compile.stages.estimate_agreement import FIT, Fit
from zsq_compile.verification.agreement_estimate import LEVEL, AgreementEstimate

_LARGE = 64 * 64  # pixels; larger pictures take minutes, and are told the truth at one width only
_WRONG = "tinydarknet_folded"  # is also told ImageNet's mean and std, which users would give it


@dataclass(frozen=True, kw_only=True)
class Said:
    """A file and what is said of it by constants that were fitted to other networks, and by those in use."""

    made: Compiled
    others: AgreementEstimate
    shipped: AgreementEstimate


def fitted(cases: Sequence[Compiled]) -> Fit:
    """Fit the constants; every network counts the same, however many files it has.

    Shift, slope and spread come from files whose preprocessing is given, or proven by statistics. The other spread
    comes from files with a single plausible one that nothing proves, whether it is true or not; where there are none,
    that in use stays.
    """
    measured = [one for one in cases if one.residual() is not None]
    proven = [one for one in measured if one.doubt in ("given", "statistics")]
    assumed = [one for one in measured if one.doubt == "ranked single"]
    weights = [1.0 / sum(other.group == one.group for other in proven) for one in proven]
    residuals, firm = ([of(one) for one in proven] for of in (lambda one: _residual(one)[0], Compiled.firmness))
    slope, shift = (float(one) for one in np.polyfit(firm, residuals, 1, w=np.sqrt(weights)))
    spread = spread_around(shift, slope, proven)
    # one doubt more cannot make it more certain
    assumed_spread = max(spread_around(shift, slope, assumed), spread) if assumed else FIT.assumed_spread
    return Fit(shift=shift, slope=slope, spread=spread, assumed_spread=assumed_spread)


def spread_around(shift: float, slope: float, cases: Sequence[Compiled]) -> float:
    """Root of the mean square of residuals, less what the finite number of made-up samples explains."""
    squares = []
    for own in by_network(cases):
        found = [(_residual(one)[0] - shift - slope * one.firmness(), _residual(one)[1]) for one in own]
        squares.append(np.mean([residual**2 - variance for residual, variance in found]))
    if not squares:
        return 0.0
    # shift and slope are themselves known from so many networks only
    return math.sqrt(max(float(np.mean(squares)), 0.0) * (1.0 + 2.0 / len(squares)))


def by_network(cases: Sequence[Compiled]) -> list[list[Compiled]]:
    """Part cases by network."""
    return [[one for one in cases if one.group == name] for name in sorted({case.group for case in cases})]


def _residual(case: Compiled) -> tuple[float, float]:
    found = case.residual()
    assert found is not None
    return found


def asked(known: Known, widths: Sequence[int]) -> Iterator[tuple[int, Told, Preprocessing | None]]:
    """Yield widths, what is told, and the preprocessing that is given: how a file is to be compiled."""
    for bits in widths:
        yield bits, "nothing", None
    # the command line has no order of channels to give
    if not known.has_statistics and known.truth.channel_order in ("rgb", "gray"):
        yield from ((bits, "truth", known.truth) for bits in (widths if _is_small(known) else widths[:1]))
    if known.name == _WRONG:
        yield from ((bits, "wrong", imagenet_preprocessing(3)) for bits in widths[:1])


def _is_small(known: Known) -> bool:
    assert known.data is not None
    return known.data.suffix == ".npz" and known.shape is None


def compile_all(options: argparse.Namespace) -> list[Compiled]:
    """Compile and judge all that is asked for; what cannot be compiled is said and left out."""
    known = [one for one in known_networks(options.assets, options.work) if one.data is not None]
    exported = {one.group for one in known if not one.has_statistics and not one.name.endswith("_hidden")}
    # folded by the exporter and by us is the same network twice
    files = {one.name: one for one in known if not (one.name.endswith("_hidden") and one.group in exported)}
    shop = Workshop(
        options.work / "confidence",
        target=options.target,
        fresh=options.fresh,
        older=options.older,
        making=options.making,
    )
    cases = []
    for name in chosen(options.models, tuple(files)):
        for bits, told, given in asked(files[name], options.bits):
            if told not in options.told:
                continue
            made = shop.compiled(files[name], bits, told, given)
            if made is not None:
                cases.append(made)
                found = made.estimate(FIT).describe()
                print(f"{name} W{bits} {told}: {100 * made.agreement:.2f} real, {found}", file=sys.stderr, flush=True)
    return cases


def line(said: Said) -> list[str]:
    """Return a row of the table."""
    made = said.made
    counted = [family.agreement for family in made.families if family.agreement is not None]
    best = (
        made.posterior.best.name if len(made.posterior.plausible) == 1 else f"{len(made.posterior.plausible)} plausible"
    )
    return [
        made.network,
        made.widths,
        f"{made.doubt} ({best})",
        "yes" if made.is_found else "NO",
        "" if made.accuracy is None else " to ".join(f"{100 * one:.1f}" for one in made.accuracy),
        f"{100 * float(np.mean(counted)):.1f}" if counted else "",
        f"{100 * made.agreement:.2f}",
        said.others.describe(),
        _verdict(said.others, made),
        said.shipped.describe(),
        _verdict(said.shipped, made),
    ]


def _verdict(estimate: AgreementEstimate, made: Compiled) -> str:
    inside = is_inside(estimate, made)
    return "" if inside is None else "yes" if inside else "NO"


def is_inside(estimate: AgreementEstimate, made: Compiled) -> bool | None:
    """Tell whether the interval holds the agreement on real data, to half a sample; None without an estimate."""
    if estimate.low is None or estimate.high is None:
        return None
    half = 0.5 / made.samples
    return estimate.low - half <= made.agreement <= estimate.high + half


def summary(rows: Sequence[Said]) -> str:
    """Say for each kind of doubt how often the truth lay inside, and how wide intervals are."""
    lines = []
    for doubt in (*DOUBTS, "all but what was given wrong"):
        own = [one for one in rows if one.made.doubt == doubt or (doubt not in DOUBTS and one.made.told != "wrong")]
        if own:
            found = sum(one.made.is_found for one in own)
            lines.append([doubt, str(len(own)), str(len({one.made.group for one in own})), f"{found} of {len(own)}"])
            lines[-1] += [*_coverage([(one.made, one.others) for one in own])]
            lines[-1] += [*_coverage([(one.made, one.shipped) for one in own])]
    header = ["preprocessing", "files", "networks", "truth is plausible", "inside", "median width", "points too high"]
    header += ["inside, as shipped", "median width, as shipped", "points too high, as shipped"]
    return table(header, lines)


def _coverage(pairs: Sequence[tuple[Compiled, AgreementEstimate]]) -> tuple[str, str, str]:
    """Intervals that hold the truth, their median width in points, and how far the worst lower end lies above it."""
    said = [(made, one) for made, one in pairs if one.low is not None and one.high is not None]
    if not said:
        return "no estimate", "", ""
    inside = sum(bool(is_inside(one, made)) for made, one in said)
    width = float(np.median([(one.high or 0.0) - (one.low or 0.0) for _, one in said]))
    above = max((one.low or 0.0) - made.agreement for made, one in said)
    return f"{inside} of {len(said)}", f"{100 * width:.1f}", f"{100 * max(above, 0.0):.1f}"


def constants(cases: Sequence[Compiled]) -> str:
    """Say what the fit over all networks is, and what each network adds to it."""
    whole, lines = fitted(cases), []
    for own in by_network([one for one in cases if one.told != "wrong"]):
        parts = []
        for doubt in DOUBTS:
            found = [one for one in own if one.doubt == doubt and one.residual() is not None]
            if found:
                words = [f"{_residual(one)[0]:.2f} ({one.firmness():.1f})" for one in found]
                parts.append(f"{doubt} {', '.join(words)}")
        lines.append(f"- {own[0].group}: {'; '.join(parts) or 'nothing was measured under the truth'}")
    return "\n".join(
        [
            f"Fit over all: shift {whole.shift:.2f}, slope {whole.slope:.2f}, spread {whole.spread:.2f}, with an "
            f"assumed input {whole.assumed_spread:.2f}; in the product {FIT.shift}, {FIT.slope}, {FIT.spread} and "
            f"{FIT.assumed_spread}. {LEVEL:.0%} of the intervals are to hold the truth.",
            "",
            "Log-odds of agreement on real data minus those on families under the truth, by file (its firmness):",
            "",
            *lines,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="files, or the beginnings of their names (default: all)")
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4], help="weight bits")
    parser.add_argument("--told", nargs="*", default=["nothing", "truth", "wrong"], help="what the compiler is told")
    parser.add_argument("--older", action="store_true", help="take files that an older source has made, if it must be")
    parser.add_argument("--finished", dest="making", action="store_false", help="compile nothing, take what there is")
    parser.add_argument("--target", default="auto", help="what files are made for; it must run here")
    options = parser.parse_args()
    open_rows(options)  # ends here where the assets are not there
    torch.set_num_threads(options.threads or 1)
    cases = compile_all(options)
    if len({one.group for one in cases if one.doubt in ("given", "statistics")}) < 3:
        sys.exit("a network is judged by what the others tell: proven files of three networks at least are needed")
    rows = []
    for case in cases:
        others = fitted([one for one in cases if one.group != case.group and one.told != "wrong"])
        rows.append(Said(made=case, others=case.estimate(others), shipped=case.estimate(FIT)))
    header = ["file", "widths", "preprocessing", "truth is plausible", "top-1", "counted", "real"]
    header += ["estimate from the others", "inside", "as shipped", "inside"]
    body = (
        "Agreement with the float network in percent: counted on made-up families, real on real data, and estimated\n"
        "from the families by what all other networks tell. `--effort fast --no-speed-trials`, the target is that of\n"
        "this machine. A preprocessing is given, proven by statistics, ranked as the only plausible one (which\n"
        "proves nothing), or one of several.\n\n"
    )
    write_result(
        "confidence",
        "The estimate against the truth",
        f"{body}{summary(rows)}\n\n{constants(cases)}\n\n{table(header, [line(one) for one in rows])}",
    )


if __name__ == "__main__":
    main()
