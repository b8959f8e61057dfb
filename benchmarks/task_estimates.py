"""The estimate for networks without classes against the truth: what is kept of boxes, texts, decisions and numbers.

Every network of ``real_inputs.py`` is compiled with no option, and what the file keeps of families of made-up inputs is
set beside what it keeps of real ones. The estimate is fitted to all other networks, one network being left out in all
its files. Run ``train_detectors.py`` before: its detectors are some of them.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from harness import open_rows, table, write_result
from real_inputs import subjects
from task_workshop import Compiled, Workshop
from zoo import add_common_options, chosen

from zsq_compile.stages.estimate_agreement import FIT
from zsq_compile.verification.agreement_estimate import LEVEL, AgreementEstimate
from zsq_compile.verification.task_estimate import TASK_FIT, TaskFit, kept_odds

_LEAST_NETWORKS = 4  # to fit to; a slope is fitted from so many networks on, else it is 1
_SLOPED = 8
_INDEPENDENT = 400  # real answers that count at most: pixels and steps of one sample are not independent


def real_odds(case: Compiled) -> float | None:
    """Log-odds that an answer is kept on real inputs, half an answer away from all; None without answers."""
    if case.real.kept is None or not case.real.count:
        return None
    count = min(case.real.count, _INDEPENDENT)
    return math.log((case.real.kept * count + 0.5) / ((1.0 - case.real.kept) * count + 0.5))


def points(cases: Sequence[Compiled]) -> list[tuple[str, float, float, float]]:
    """(group, log-odds on families, their standard error, log-odds on real inputs) of files that have both."""
    found = []
    for case in cases:
        made, real = kept_odds(case.likeliest()), real_odds(case)
        if made is not None and real is not None:
            found.append((case.group, *made, real))
    return found


def fitted(cases: Sequence[Compiled]) -> TaskFit:
    """Fit the constants; every network counts the same, however many files it has."""
    known = points(cases)
    groups = [group for group, *_ in known]
    weights = np.asarray([1.0 / groups.count(group) for group in groups])
    made, errors, real = (np.asarray([one[place] for one in known]) for place in (1, 2, 3))
    count = len(set(groups))
    if count >= _SLOPED:
        slope, shift = (float(one) for one in np.polyfit(made, real, 1, w=np.sqrt(weights)))
        slope = min(max(slope, 0.0), 1.5)
        shift = float(np.average(real - slope * made, weights=weights))
    else:
        slope, shift = 1.0, float(np.average(real - made, weights=weights))
    squares = (real - shift - slope * made) ** 2 - (slope * errors) ** 2
    # shift and slope are themselves known from so many networks only
    variance = max(float(np.average(squares, weights=weights)), 0.0) * (1.0 + 2.0 / count)
    spread = max(math.sqrt(variance), 0.3)
    # no network at hand is known under a proven and an assumed input: the doubt of classifiers is added
    assumed = math.hypot(spread, math.sqrt(max(FIT.assumed_spread**2 - FIT.spread**2, 0.0)))
    return TaskFit(shift=shift, slope=slope, spread=spread, assumed_spread=assumed)


def line(case: Compiled, others: AgreementEstimate | None, shipped: AgreementEstimate) -> list[str]:
    """Return a row of the table."""
    made = kept_odds(case.likeliest())
    answers = sum(one.answers or 0 for one in case.likeliest() if one.kept is not None)
    kept = [(one.kept, one.answers) for one in case.likeliest() if one.kept is not None and one.answers]
    share = sum(a * b for a, b in kept) / max(sum(b for _, b in kept), 1) if kept else None
    return [
        case.key,
        case.widths,
        case.real.measure,
        "" if share is None or made is None else f"{100 * share:.1f}",
        str(answers),
        "" if case.real.kept is None else f"{100 * case.real.kept:.1f}",
        str(case.real.count),
        "" if others is None else others.describe().split(" of ")[0],
        "" if others is None else _verdict(others, case),
        shipped.describe().split(" of ")[0],
        _verdict(shipped, case),
    ]


def _verdict(estimate: AgreementEstimate, case: Compiled) -> str:
    if estimate.low is None or estimate.high is None or case.real.kept is None:
        return ""
    half = 0.5 / max(min(case.real.count, _INDEPENDENT), 1)
    return "yes" if estimate.low - half <= case.real.kept <= estimate.high + half else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="networks, or the beginnings of their names (default: all)")
    parser.add_argument("--bits", nargs="*", type=int, default=[8], help="weight bits")
    parser.add_argument("--effort", default="fast", choices=("fast", "balanced", "best"))
    parser.add_argument("--older", action="store_true", help="take files that an older source has made, if it must be")
    parser.add_argument("--finished", dest="making", action="store_false", help="compile nothing, take what there is")
    options = parser.parse_args()
    open_rows(options)  # ends here where the assets are not there
    torch.set_num_threads(options.threads or 1)
    shop = Workshop(
        options.work / "tasks", effort=options.effort, fresh=options.fresh, older=options.older, making=options.making
    )
    known, cases = {one.key: one for one in subjects(options.assets, options.work)}, list[Compiled]()
    for key in chosen(options.models, tuple(known)):
        for bits in options.bits:
            made = shop.compiled(known[key], bits)
            if made is not None and made.task.kind != "classification":
                cases.append(made)
                print(" | ".join(line(made, None, made.estimate(FIT))), file=sys.stderr, flush=True)
    groups = {group for group, *_ in points(cases)}
    if len(groups) < _LEAST_NETWORKS:
        sys.exit(f"a network is judged by what others tell: {_LEAST_NETWORKS} at least are needed, got {len(groups)}")
    rows = []
    for case in cases:
        others = fitted([one for one in cases if one.group != case.group])
        rows.append(line(case, case.estimate(replace(FIT, task=others)), case.estimate(FIT)))
    _write(cases, rows)


def _write(cases: Sequence[Compiled], rows: Sequence[list[str]]) -> None:
    whole = fitted(cases)
    said = [row for row in rows if row[8]]
    body = (
        "In percent: kept on families of made-up inputs under the likeliest preprocessing, with the number of answers; "
        "kept on real inputs; and the estimate for these by what all other networks tell, and as shipped.\n\n"
        f"Fit over all: shift {whole.shift:.2f}, slope {whole.slope:.2f}, spread {whole.spread:.2f}, with an assumed "
        f"input {whole.assumed_spread:.2f}; in the product {TASK_FIT.shift}, {TASK_FIT.slope}, {TASK_FIT.spread} and "
        f"{TASK_FIT.assumed_spread}. {LEVEL:.0%} of the intervals are to hold the truth: "
        f"{sum(row[8] == 'yes' for row in said)} of {len(said)} do.\n\n"
    )
    header = ["network", "widths", "measure", "on families", "answers", "real", "answers"]
    header += ["estimate from the others", "inside", "as shipped", "inside"]
    write_result("task_estimates", "The estimate for networks without classes", body + table(header, rows))


if __name__ == "__main__":
    main()
