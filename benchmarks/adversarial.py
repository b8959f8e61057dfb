"""What samples that are made while a network is distilled are worth, with and without a generator that fights it."""

import argparse
import copy
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Rows, Setting, compiled, last_words, open_rows, table, write_result
from judge import Judge, float_row, our_row
from lowbit import percent, setting_name, widths
from zoo import LABELLED, add_common_options

_POINTS = 5  # of a curve are shown
_FIGURES = ("class_diversity", "diversity", "novelty", "discrepancy", "generator_loss")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to distil: the generator, and what is said about distillation beside the number of its steps."""

    name: str
    generator: str
    settings: tuple[str, ...] = ()


VARIANTS = (
    Variant(name="pixels", generator="pixels"),
    *(
        Variant(name=f"{generator}{words}", generator=generator, settings=settings)
        for generator in ("zs-cgan", "gdfq")
        for words, settings in (
            (", fixed set", ("live = false",)),
            (", half live", ("live_share = 0.5",)),
            (", live", ("live_share = 1.0",)),
            (", half live, margin", ("live_share = 0.5", 'adversary = "margin"')),
            (", live, margin", ("live_share = 1.0", 'adversary = "margin"')),
            (", live, gaussian", ("live_share = 1.0", 'adversary = "gaussian"')),
            (", half live, mixup", ("live_share = 0.5", "mixup = true")),
            (", half live, margin, mixup", ("live_share = 0.5", 'adversary = "margin"', "mixup = true")),
        )
    ),
    Variant(name="adadfq, half live", generator="adadfq", settings=("live_share = 0.5",)),
    Variant(name="adadfq, live", generator="adadfq", settings=("live_share = 1.0",)),
)


def run(
    judge: Judge, variant: Variant, rows: Rows, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the scores and the report of one variant; None where only finished rows are wanted and it is none."""
    bits, act_bits = widths(options.setting)
    setting = Setting(bits=bits, act_bits=act_bits, seed=options.seed, generator=variant.generator)
    told = copy.copy(options)
    told.compile_args = f"{options.compile_args} --config {_written(variant, options)}".strip()
    row = our_row(judge, setting, rows, told, make=not options.finished)
    done = compiled(judge.path, setting, rows, told, make=not options.finished)
    if row is None or done is None:
        return None
    return row | ({} if "top1" in row else {"error": last_words(done)}), done["report"]


def _written(variant: Variant, options: argparse.Namespace) -> Path:
    """Write the configuration file of a variant, under a name that tells its content."""
    given = [] if options.rounding is None else ["[quantization]", f'rounding = "{options.rounding}"']
    text = "\n".join([*given, "[distill]", f"steps = {options.steps}", *variant.settings, ""])
    path: Path = options.work / "adversarial" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def line(variant: Variant, found: tuple[dict[str, Any], dict[str, Any]] | None) -> list[str]:
    """Lay out the row of one variant."""
    if found is None:
        return [variant.name, *["-"] * 6]
    row, report = found
    if "top1" not in row:
        return [variant.name, f"failed: {row['error']}", *["-"] * 5]
    record, stages = report["distillation"], report["stages"]
    return [
        variant.name,
        percent(row["top1"], row["agreement"]),
        f"{record['kept_step']} of {record['steps']}",
        f"{record['divergence_before']:.4f} -> {record['divergence_after']:.4f}",
        f"{stages['synthesize']:.0f}",
        f"{stages['distill']:.0f}",
        f"{row['seconds']:.0f}",
    ]


def curve(variant: Variant, report: dict[str, Any]) -> list[list[str]]:
    """Lay out some points of the live curve of one variant; none where nothing was made live."""
    points = [point for point in report.get("distillation", {}).get("curve", []) if point["live"]]
    if not points:
        return []
    places = sorted({round(index * (len(points) - 1) / (_POINTS - 1)) for index in range(_POINTS)})
    return [
        [
            variant.name if place == places[0] else "",
            str(points[place]["step"]),
            *(f"{points[place]['live'][name]:.3f}" if name in points[place]["live"] else "-" for name in _FIGURES),
            "-" if points[place]["agreement"] is None else f"{100 * points[place]['agreement']:.1f}",
        ]
        for place in places
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--model", default="resnet20_bn")
    parser.add_argument("--setting", type=setting_name, default="W3A3")
    parser.add_argument("--variants", nargs="*", default=None, help="beginnings of their names; all by default")
    parser.add_argument("--steps", type=int, default=600, help="of the distillation, for all the same")
    parser.add_argument("--rounding", default=None, help="such as gptq, which learns no blocks first and is quicker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", action="store_true", help="run nothing: show the rows that are there")
    options = parser.parse_args()
    rows = open_rows(options)
    judge = Judge(next(model for model in LABELLED if model.key == options.model), options.assets)
    lines: list[Sequence[str]] = []
    curves: list[list[str]] = []
    for variant in VARIANTS:
        if options.variants and not any(variant.name.startswith(name) for name in options.variants):
            continue
        print(f"{options.model}, {options.setting}, {variant.name} ...", file=sys.stderr, flush=True)
        found = run(judge, variant, rows, options)
        lines.append(line(variant, found))
        curves += [] if found is None else curve(variant, found[1])
    header = ["samples", "top-1 (agreement)", "kept step", "divergence", "synthesis s", "distill s", "seconds"]
    body = (
        f"{options.model} at {options.setting}, {options.steps} steps of distillation behind "
        f"{options.rounding or 'the default rounding'}, seed {options.seed}. Top-1 in percent, in brackets the "
        f"agreement with FP32; FP32: {100 * float_row(judge, rows)['top1']:.2f}. Divergence: on synthetic samples "
        "held out, each on its own set, so only to be compared within a row.\n\n"
        + table(header, lines)
        + "\n\n## Over time\n\nMeans since the point before. Diversity: mean distance of penultimate features within "
        "a batch, within the classes of a batch, and between the mean features of 16 successive batches. Discrepancy: "
        "T² KL of the classes between the float and the quantized network. Agreement: on samples held out.\n\n"
        + table(["samples", "step", "within classes", "within batches", "between batches", *_FIGURES[3:], "%"], curves)
    )
    write_result("adversarial", "Adversarial samples", body)


if __name__ == "__main__":
    main()
