"""The confidence line against the truth: agreement on real images, the estimate made without them, and its interval."""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, Setting, compiled, open_rows, runtime_key, table, write_result
from judge import Judge
from zoo import LABELLED, ROOT, add_common_options, chosen

from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import load_model
from zsq_compile.stages.estimate_agreement import ASSUMED_SPREAD, estimate_agreement, make_estimate_inputs
from zsq_compile.verification.agreement_estimate import LEVEL, SHIFT, SPREAD, Family, estimate_from_families, log_odds


@dataclass(frozen=True, kw_only=True)
class Case:
    """One quantized file: what it agrees to on real images, and what was measured without them."""

    model: str
    label: str
    samples: int
    truth: float
    families: tuple[Family, ...]
    tier: str
    assumed: bool

    @property
    def network(self) -> str:
        """Name of the network, however its batch normalisation was exported."""
        return self.model.removesuffix("_bn").removesuffix("_folded")

    @property
    def residual(self) -> float:
        """Log-odds of the true agreement, half a sample away from all, minus those on made-up families."""
        found = log_odds(self.families)
        assert found is not None
        least = 0.5 / self.samples
        share = min(max(self.truth, least), 1.0 - least)
        return math.log(share / (1.0 - share)) - found[0]

    @property
    def variance(self) -> float:
        """Variance of ``residual`` by the finite number of made-up samples, which an interval counts by itself."""
        found = log_odds(self.families)
        assert found is not None
        return found[1] ** 2


def fitted(cases: Sequence[Case]) -> tuple[float, float, float]:
    """Shift, spread, and spread with an assumed input (see the constants of ``agreement_estimate``).

    The first two come from cases whose input is known. Every network counts the same, however many files it has.
    """
    known = [case for case in cases if not case.assumed]
    shift = float(np.mean([np.mean([one.residual for one in own]) for own in by_network(known)]))
    return shift, spread_around(shift, known), spread_around(shift, [case for case in cases if case.assumed])


def by_network(cases: Sequence[Case]) -> list[list[Case]]:
    """Part cases by network."""
    return [[one for one in cases if one.network == name] for name in sorted({case.network for case in cases})]


def spread_around(shift: float, cases: Sequence[Case]) -> float:
    """Root of the mean square of residuals, less what the finite number of made-up samples explains."""
    squares = [np.mean([(one.residual - shift) ** 2 - one.variance for one in own]) for own in by_network(cases)]
    if not squares:
        return 0.0
    # the shift is itself known from so many networks only
    return math.sqrt(max(float(np.mean(squares)), 0.0) * (1.0 + 1.0 / len(squares)))


def judging_key() -> str:
    """Hash of the source that makes and measures families, without the two numbers that are fitted here."""
    digest = hashlib.sha256()
    for name in (
        "synthesis/images/families.py",
        "synthesis/images/dead_leaves.py",
        "synthesis/images/spectral.py",
        "verification/agreement_estimate.py",
    ):
        lines = (ROOT / "zsq_compile" / name).read_text().splitlines()
        digest.update("\n".join(one for one in lines if not one.startswith(("SHIFT = ", "SPREAD = "))).encode())
    return digest.hexdigest()


def judged(judge: Judge, path: Path, report: dict[str, Any], rows: Rows) -> Case | None:
    """Judge one file, or find what was judged before; None where its report has no preprocessing."""
    if report.get("contract") is None:
        return None
    preprocessing = Preprocessing.from_json(report["contract"])

    def make() -> dict[str, Any]:
        loaded = load_model(judge.path)
        told = {loaded.inputs[0].name: Posterior.certain(preprocessing)}
        made = estimate_agreement(
            loaded.original, path, make_estimate_inputs(loaded.inputs, told, seed=report["seed"]), ""
        )
        families = [{name: getattr(one, name) for name in Family.__slots__} for one in made.families]
        return {"truth": judge.scores(path)["agreement"], "families": families}

    row = rows.get(["confidence", file_sha256(judge.path), file_sha256(path), judging_key(), runtime_key()], make)
    assert row is not None
    data = str(report["data"])
    kind = "given" if "given" in data else data.partition("(")[2].partition(")")[0]
    return Case(
        model=judge.model.key,
        label=path.stem.removeprefix(f"{judge.model.key}."),
        samples=len(judge.model.evaluation(judge.assets)),
        truth=row["truth"],
        families=tuple(Family(**one) for one in row["families"]),
        tier=kind,
        assumed=preprocessing.source == "assumed",
    )


def reports(key: str, rows: Rows, judge: Judge, options: argparse.Namespace) -> list[tuple[Path, dict[str, Any]]]:
    """Find quantized files of a model with the reports that lie beside them, or compile anew where none are given."""
    found = []
    for place in options.finished or ():
        for path in sorted(place.rglob(f"{key}.w*.onnx")):
            words = path.with_suffix(".stdout")
            if words.is_file() and words.stat().st_size:
                found.append((path, json.loads(words.read_text())))
    if options.finished is None:
        for widths in options.settings:
            bits, act_bits = int(widths[1]), int(widths[3])
            done = compiled(judge.path, Setting(bits=bits, act_bits=act_bits), rows, options)
            if done is not None and Path(done["path"]).is_file():
                found.append((Path(done["path"]), done["report"]))
    return found


def line(case: Case, others: Sequence[Case]) -> tuple[list[str], bool]:
    """Return a row of the table, and whether the truth lies in the interval that the other networks give."""
    shift, *spreads = fitted(others)
    made = estimate_from_families(case.families, case.tier, shift=shift, spread=spreads[case.assumed])
    product = estimate_from_families(case.families, case.tier, spread=ASSUMED_SPREAD if case.assumed else SPREAD)
    counted = [family.agreement for family in case.families if family.agreement is not None]
    assert made.low is not None
    assert made.high is not None
    inside = made.low <= case.truth <= made.high
    cells = [case.model, case.label, case.tier, f"{100 * float(np.mean(counted)):.1f}", f"{100 * case.truth:.2f}"]
    cells[2] += ", input assumed" if case.assumed else ""
    return [*cells, made.describe(), "yes" if inside else "NO", product.describe()], inside


def summary(cases: Sequence[Case], inside: Sequence[bool]) -> str:
    """Say how often the truth lay inside, for each network and for all, and what the fit over all of them is."""
    lines = []
    for name in sorted({case.network for case in cases}):
        own = [good for case, good in zip(cases, inside, strict=True) if case.network == name]
        residuals = [case.residual for case in cases if case.network == name]
        lines.append(
            f"- {name}: {sum(own)} of {len(own)} inside; log-odds {np.mean(residuals):.2f} above those on families, "
            f"deviation {np.std(residuals):.2f}"
        )
    shift, spread, assumed = fitted(cases)
    return "\n".join(
        [
            *lines,
            f"- all: {sum(inside)} of {len(inside)} inside, each judged by the other networks; "
            f"{LEVEL:.0%} were aimed at",
            f"- fit over all: shift {shift:.2f}, spread {spread:.2f}, with an assumed input {assumed:.2f}; "
            f"in the product {SHIFT}, {SPREAD} and {ASSUMED_SPREAD}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument(
        "--settings", nargs="*", default=["W8A8", "W4A8"], help="widths to compile where none are given"
    )
    parser.add_argument(
        "--finished", nargs="*", type=Path, help="folders of finished files, with their .stdout reports"
    )
    options = parser.parse_args()
    rows, cases = open_rows(options), []
    models = {model.key: model for model in LABELLED}
    for key in chosen(options.models, tuple(models)):
        judge = Judge(models[key], options.assets)
        for path, report in reports(key, rows, judge, options):
            print(f"{path} ...", file=sys.stderr, flush=True)
            case = judged(judge, path, report, rows)
            if case is not None and log_odds(case.families) is not None:
                cases.append(case)
    if len({case.network for case in cases}) < 2:
        sys.exit("a network is judged by what the others tell: files of two networks at least are needed")
    made = [line(case, [one for one in cases if one.network != case.network]) for case in cases]
    header = ["model", "file", "data", "counted", "truth", "estimate from the others", "inside", "as shipped"]
    body = (
        "Agreement with FP32 in percent: counted on made-up families, true on the labelled real images, and estimated\n"
        "from the families by what the other networks tell (one network is left out, with its folded form).\n\n"
    )
    inside = [good for _, good in made]
    write_result(
        "confidence",
        "The confidence line",
        f"{body}{table(header, [cells for cells, _ in made])}\n\n{summary(cases, inside)}",
    )


if __name__ == "__main__":
    main()
