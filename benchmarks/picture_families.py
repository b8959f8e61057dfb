"""Which pictures suit a network: constants fitted leaving one network out, and the ranges that the mixture reaches.

Networks are those of ``known_networks.py`` whose statistics are hidden or were never there, under their true
preprocessing, so that nothing but the pictures is in question.

    python benchmarks/picture_families.py                        # the table
    python benchmarks/picture_families.py --gallery PICTURE.png  # some pictures of every family
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, open_rows, table, write_result
from known_networks import Known, known_networks
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from zoo import add_common_options, chosen

from passes.operators import WEIGHTED
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.synthesis.images.choose_families import ACTIVITY, DECISIONS, OTHER, choice_by_excitation
from zsq_compile.synthesis.images.excitation import Excitation, measure_excitation
from zsq_compile.synthesis.images.pictures import (
    FAMILIES,
    PHOTOGRAPHS,
    PictureFamily,
    Shares,
    draw_family,
    draw_pictures,
)

# What the networks were trained on, by the beginning of their group's name; the trained ones by their data.
DOMAINS: Mapping[str, PictureFamily] = {
    "resnet": "photographs",
    "mobilenet": "photographs",
    "tinydarknet": "photographs",
    "fastestdet": "photographs",
    "deeplab": "photographs",
    "ultraface": "faces",
    "pfld": "faces",
    "yunet": "faces",
    "centerface": "faces",
    "ppocr_cls": "text lines",
    "ppocrv4_rec": "text lines",
    "ppocrv4_det": "pages",
    "mnist": "strokes",
    "digits": "strokes",
    "cifar": "photographs",
}
REAL = {"yunet_n": "input", "centerface320": "input.1", "ppocr_cls": "x", "ppocrv4_det": "x", "ppocrv4_rec": "x"}
PENALTY = 1e-2  # on the squares of the two slopes
COUNT = 16  # samples whose ranges are compared
Ranges = dict[str, tuple[float, float, float, float]]
"""Least and largest number of each layer's output, and its quantiles of 0.1 % and 99.9 %."""


def domain(known: Known) -> PictureFamily | None:
    """Return the domain of a network: of the pictures that a small one was trained on, or by its group."""
    names = (known.group,) if known.data is None else (known.data.name, known.data.parent.name, known.group)
    return next((family for one in names for start, family in DOMAINS.items() if one.startswith(start)), None)


def opened(known: Known) -> tuple[LoadedModel, InputSpec, Preprocessing]:
    shapes = {} if known.shape is None else {"": known.shape}
    if known.shape is not None:
        first = load_model(known.path, input_shapes={}, verify=False).inputs[0].name
        shapes = {first: known.shape}
    loaded = load_model(known.path, input_shapes=shapes)
    spec = next(one for one in loaded.inputs if one.is_image)
    return loaded, spec, replace(known.truth, layout=spec.layout or "NCHW")


def measured(known: Known) -> dict[str, Any]:
    """Measure what every family does to a network: [activity, decisions] by family."""
    loaded, spec, truth = opened(known)
    rng = torch.Generator().manual_seed(0)
    found = measure_excitation(TorchGraph(loaded.model), loaded.inputs, spec, {spec.name: truth}, rng)
    return {family: [one.activity, one.decisions] for family, one in found.items()}


def design(row: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """(families, 3) activity and decisions beyond those of photographs, and whether it is another family."""
    evidence = np.array([row[family] for family in FAMILIES])
    other = np.array([[float(family != "photographs")] for family in FAMILIES])
    return np.hstack([evidence - evidence[FAMILIES.index("photographs")], other])


def fit(rows: Sequence[tuple[NDArray[np.float64], int]]) -> NDArray[np.float64]:
    """Constants of a multinomial logistic model, by Newton's method; every row has a design and the true family."""
    weights, ridge = np.zeros(3), np.diag([2 * PENALTY, 2 * PENALTY, 0.04])
    for _ in range(60):
        gradient, curvature = ridge @ weights, ridge.copy()
        for matrix, truth in rows:
            odds = np.exp(matrix @ weights - (matrix @ weights).max())
            share = odds / odds.sum()
            mean = share @ matrix
            gradient += mean - matrix[truth]
            curvature += (matrix.T * share) @ matrix - np.outer(mean, mean)
        weights -= np.clip(np.linalg.solve(curvature, gradient), -5.0, 5.0)
    return weights


def shares_of(matrix: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(matrix @ weights - (matrix @ weights).max())
    return odds / odds.sum()


def real_pixels(known: Known, assets: Path, spec: InputSpec) -> Tensor | None:
    """(N, C, H, W) network inputs of real data; None where there are none."""
    truth = replace(known.truth, layout=spec.layout or "NCHW")
    if known.group in REAL:
        with np.load(assets / f"models/wild2/{known.group}.inputs.npz") as archive:
            stored = archive[f"eval/{REAL[known.group]}"]
        pixels = torch.from_numpy(stored.reshape(-1, *stored.shape[-3:])[:COUNT]).float() / 255
        return truth.encode(pixels[:, [2, 1, 0]] if truth.channel_order == "bgr" else pixels)
    if known.data is None:
        return None
    return torch.from_numpy(next(known.real(spec).batches(COUNT))[0][spec.name]).float()


def ranges(teacher: TorchGraph, name: str, samples: Tensor) -> Ranges:
    found: dict[str, list[Tensor]] = {}

    def gather(node: Any, results: tuple[Tensor, ...]) -> None:
        if node.op_type in WEIGHTED and results[0].is_floating_point():
            values = results[0].flatten().sort().values
            places = (0, len(values) - 1, int(0.001 * len(values)), int(0.999 * (len(values) - 1)))
            found.setdefault(str(node.outputs[0].name), []).append(values[list(places)])

    with torch.no_grad():
        for start in range(0, len(samples), 4):
            teacher.run({name: samples[start : start + 4]}, teacher.output_names, visit=gather)
    joined = {}
    for layer, parts in found.items():
        rows = torch.stack(parts)
        least, most = float(rows[:, 0].min()), float(rows[:, 1].max())
        joined[layer] = (least, most, float(rows[:, 2].mean()), float(rows[:, 3].mean()))
    return joined


def reached(made: Ranges, real: Ranges) -> tuple[float, float]:
    """Mean over layers of the share of the real interval that the made one covers: of all, and of the quantiles."""
    covered = []
    for layer, (least, most, low, high) in real.items():
        one = made[layer]
        pairs = ((least, most, one[0], one[1]), (low, high, one[2], one[3]))
        covered.append([max(0.0, min(d, b) - max(c, a)) / max(b - a, 1e-12) for a, b, c, d in pairs])
    whole, inner = np.mean(covered, 0)
    return float(whole), float(inner)


def compared(known: Known, assets: Path, shares: Shares) -> dict[str, Any]:
    """Compare how much of the ranges of real inputs photographs reach, and the mixture."""
    loaded, spec, truth = opened(known)
    teacher = TorchGraph(loaded.model)
    real = real_pixels(known, assets, spec)
    if real is None:
        return {}
    goal, row = ranges(teacher, spec.name, real), {}
    for name, mixture in (("photographs", PHOTOGRAPHS), ("mixture", shares)):
        made = truth.encode(draw_pictures(spec, COUNT, torch.Generator().manual_seed(1), mixture))
        row[name] = reached(ranges(teacher, spec.name, made), goal)
    return row


def known_here(options: argparse.Namespace) -> Iterator[Known]:
    """Yield one file of each network, without statistics, whose domain is known."""
    groups: dict[str, Known] = {}
    for one in known_networks(options.assets, options.work):
        if not one.has_statistics and domain(one) is not None:
            groups.setdefault(one.group, one)
    for group in sorted(chosen(options.models, tuple(groups)), key=lambda one: groups[one].path.stat().st_size):
        yield groups[group]  # small ones first


def range_lines(networks: Sequence[Known], evidence: Mapping[str, Any], options: Any, rows: Rows) -> list[list[str]]:
    """Compare ranges where there are real inputs and the mixture is not photographs alone."""
    lines = []
    for one in networks:
        excitations = {
            family: Excitation(activity=evidence[one.name][family][0], decisions=evidence[one.name][family][1])
            for family in FAMILIES
        }
        chosen_now = choice_by_excitation(excitations)
        if chosen_now.is_usual or not (one.group in REAL or one.data is not None):
            continue
        print(f"ranges of {one.name} ...", file=sys.stderr, flush=True)
        key = ["family ranges", one.name, file_sha256(one.path), repr(sorted(chosen_now.shares.items()))]
        row = rows.get(key, lambda one=one, c=chosen_now: compared(one, options.assets, c.shares))
        if "mixture" in row:
            pairs = [row[name] for name in ("photographs", "mixture")]
            cells = [f"{100 * whole:.0f} / {100 * inner:.0f} %" for whole, inner in pairs]
            mixture = ", ".join(f"{100 * share:.0f} % {family}" for family, share in chosen_now.shares.items())
            lines.append([one.name, mixture, *cells])
    return lines


def draw_gallery(place: Path) -> None:
    """Draw a row of ten pictures, 72 x 72, of every family, in the order of FAMILIES."""
    strips = []
    for family in FAMILIES:
        pictures = draw_family(family, 10, 3, 72, 72, torch.Generator().manual_seed(7))
        strips.append((255 * pictures).round().byte().permute(2, 0, 3, 1).flatten(1, 2))
    sheet = Image.fromarray(torch.cat(strips).numpy())
    sheet.quantize(96).save(place, optimize=True)
    print(f"{place}: {place.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="networks, or the beginnings of their names (default: all)")
    parser.add_argument("--gallery", type=Path, help="write pictures of every family there, and nothing else")
    options = parser.parse_args()
    if options.gallery is not None:
        draw_gallery(options.gallery)
        return
    rows, networks, evidence = open_rows(options), list(known_here(options)), {}
    for one in networks:
        print(f"{one.name} ...", file=sys.stderr, flush=True)
        row = rows.get(["families", one.name, file_sha256(one.path)], lambda one=one: measured(one))
        evidence[one.name] = row
    networks = [one for one in networks if "photographs" in evidence[one.name]]
    items = {one.name: (design(evidence[one.name]), FAMILIES.index(domain(one))) for one in networks}
    lines, right = [], 0
    for one in networks:
        weights = fit([items[other.name] for other in networks if other.group != one.group])
        share = shares_of(items[one.name][0], weights)
        best = FAMILIES[int(share.argmax())]
        right += best == domain(one)
        others = sorted(zip(share, FAMILIES, strict=True), reverse=True)[:3]
        lines.append(
            [one.name, str(domain(one)), best, ", ".join(f"{name} {100 * part:.0f} %" for part, name in others)]
        )
    weights = fit(list(items.values()))
    reach = range_lines(networks, evidence, options, rows)
    body = (
        f"Left out one network (with its other exports) at a time: {right} of {len(lines)} get the family of their "
        f"domain. Fitted on all: activity {weights[0]:.1f}, decisions {weights[1]:.2f}, any other family than "
        f"photographs {weights[2]:.2f}; the compiler has {ACTIVITY}, {DECISIONS} and {OTHER}.\n\n"
        + table(["network", "domain", "chosen", "by the evidence"], lines)
        + f"\n\nShare of the range of real inputs that {COUNT} samples reach, mean over layers: from the least to the "
        "largest number / from the quantile of 0.1 % to that of 99.9 %.\n\n"
        + table(["network", "mixture", "photographs reach", "mixture reaches"], reach)
    )
    write_result("picture_families", "Families of pictures, chosen by what they do to the network", body)


if __name__ == "__main__":
    main()
