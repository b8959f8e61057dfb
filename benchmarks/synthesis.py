"""Speed of the generators beside a bare pass of the network, and their loss and worth against wall time."""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from harness import Rows, Setting, open_rows, table, write_result
from judge import Judge, our_row
from lowbit import percent
from watching import Feeds, Watch, statistics_loss
from zoo import LABELLED, Labelled, add_common_options, chosen

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from zsq_compile.config.compile import GENERATORS
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_type
from zsq_compile.files import write_arrays
from zsq_compile.frontend.load import load_model
from zsq_compile.synthesis.make_generator import make_generator

DEFAULT = ["resnet20_bn", "resnet56_bn", "mobilenetv1_075_bn"]
SMALL, LARGE = 128, 32  # samples, of networks of pictures up to 64 pixels a side, and above
TENTHS = 10


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, as many real images as samples are made, and their loss."""

    model: Labelled
    file: Path
    count: int
    real: float


def load(model: Labelled, options: argparse.Namespace) -> Subject:
    """Measure how far real images are from the statistics that the network keeps."""
    file = model.path(options.assets)
    side = model.spec(options.assets).shape[-1] or 0
    count = options.samples or (SMALL if side <= 64 else LARGE)
    loaded = load_model(file, input_shapes={})
    batches = replace(model, calibration_count=count).calibration_batches(options.assets)
    real = {name: torch.from_numpy(np.concatenate([feeds[name] for feeds in batches])) for name in batches[0]}
    layers = harvest_batchnorm(loaded.model).usable
    return Subject(model=model, file=file, count=count, real=statistics_loss(TorchGraph(loaded.model), layers, real))


def watch(subject: Subject, generator: str, options: argparse.Namespace) -> Watch:
    """Let a generator work with default settings, watched."""
    loaded = load_model(subject.file, input_shapes={})
    statistics = harvest_batchnorm(loaded.model)
    teacher = TorchGraph(loaded.model)
    seen = Watch(teacher, statistics.usable, subject.count, options.turns, keep=bool(options.quality))
    maker = make_generator(GENERATORS[generator](), loaded.inputs, None, seen, effort=options.effort)
    with seen.watched():
        made = maker.synthesize(teacher, statistics, subject.count, torch.Generator().manual_seed(options.seed))
    seen.finish(dict(made.inputs))
    return seen


def speed_line(key: str, generator: str, subject: Subject, seen: Watch) -> list[str]:
    """Give the medians over turns; the ratio is the median of those of single turns, which a busy machine spares."""
    pairs = seen.counted()
    ratio = median(bare / own for _, own, bare in pairs)
    reached = next((f"{seconds:.1f}" for seconds, loss in seen.curve if loss <= subject.real), "not reached")
    return [
        key,
        generator,
        str(pairs[0][0]),
        f"{median(images / own for images, own, _ in pairs):.0f}",
        f"{median(images / bare for images, _, bare in pairs):.0f}",
        f"{ratio:.2f}",
        f"{subject.real:.4f}",
        reached,
        f"{seen.curve[-1][0]:.1f}",
        f"{seen.curve[-1][1]:.4f}",
    ]


def at_tenths(seen: Watch) -> list[int]:
    """Numbers of the points of the curve nearest to each tenth of the time."""
    whole = seen.curve[-1][0]
    return [
        min(range(len(seen.curve)), key=lambda place: abs(seen.curve[place][0] - tenth * whole / TENTHS))
        for tenth in range(1, TENTHS + 1)
    ]


def worth(judge: Judge, feeds: Feeds, name: str, rows: Rows, options: argparse.Namespace) -> str:
    """Compile at W4A4 with a set as it was, and judge the result."""
    path: Path = options.work / "calibration" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, {key: np.ascontiguousarray(value.numpy()) for key, value in feeds.items()})
    row = our_row(judge, Setting(bits=4, act_bits=4, seed=options.seed, calib=path), rows, options)
    assert row is not None
    return percent(row["top1"], row["agreement"]) if "top1" in row else f"failed: {row['error']}"


def curve_lines(subject: Subject, generator: str, seen: Watch, rows: Rows, options: argparse.Namespace) -> list[str]:
    """Give the loss, and on request what the set is worth, at each tenth of the time."""
    key = subject.model.key
    cells = [key, generator]
    judge = Judge(subject.model, options.assets) if options.quality else None
    for tenth, place in enumerate(at_tenths(seen), 1):
        seconds, loss = seen.curve[place]
        text = f"{seconds:.1f} s: {loss:.4f}"
        if judge is not None and tenth in options.quality:
            print(f"{key}, {generator}, {tenth}0 % of the time ...", file=sys.stderr, flush=True)
            text += f", {worth(judge, seen.kept[place], f'{key}.{generator}.{tenth}', rows, options)}"
        cells.append(text)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", default=DEFAULT, help="models, or the beginnings of their names")
    parser.add_argument("--generators", nargs="*", default=["pixels", "genie"], help="names")
    parser.add_argument("--effort", default="balanced", choices=["fast", "balanced", "best"])
    parser.add_argument("--samples", type=int, help=f"default: {SMALL}, or {LARGE} of large pictures")
    parser.add_argument("--turns", type=int, default=20, help="turns that are timed beside a bare pass")
    parser.add_argument("--quality", nargs="*", type=int, default=[], help="tenths of the time to compile at W4A4")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = open_rows(options)
    models = {model.key: model for model in LABELLED}
    speeds, curves = [], []
    for key in chosen(options.models, tuple(models)):
        subject = load(models[key], options)
        for generator in options.generators:
            print(f"{key}, {generator} ...", file=sys.stderr, flush=True)
            seen = watch(subject, generator, options)
            speeds.append(speed_line(key, generator, subject, seen))
            curves.append(curve_lines(subject, generator, seen, rows, options))
    header = ["model", "generator", "images a turn", "generator, images/s", "bare pass, images/s", "ratio"]
    header += ["loss of real images", "seconds to it", "seconds in all", "loss at the end"]
    kind = str(reduced_type(torch.device("cpu"))).removeprefix("torch.")
    body = (
        "## Speed\n\nA turn is one step of the optimiser on one batch, everything included. After each, a bare pass of "
        "the whole network on the same images: forward, and backward to the inputs alone, of the sum of the outputs, "
        f"in the same precision ({kind}) and memory order. Medians of {options.turns} turns, the ratio that of the "
        f"single ratios; {torch.get_num_threads()} threads, effort {options.effort}, seed {options.seed}. The loss is "
        "the same for all: the mean over BatchNormalizations of the Wasserstein distance in units of the variance, of "
        "the whole set in float32, and that of real images is taken of as many. The clock stands still while it is "
        "measured, and starts before the preprocessing is inferred. `pixels` folds BatchNormalizations, the bare pass "
        "takes the network as it is.\n\n"
        + table(header, speeds)
        + "\n\n## Loss against time\n\n"
        + ("Behind the loss: top-1 at W4A4 with that set, in brackets the agreement. " if options.quality else "")
        + "At each tenth of the time.\n\n"
        + table(["model", "generator", *(f"{tenth}0 %" for tenth in range(1, TENTHS + 1))], curves)
    )
    write_result("synthesis", "Synthesis", body)


if __name__ == "__main__":
    main()
