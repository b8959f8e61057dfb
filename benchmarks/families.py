"""Data for a network whose batch normalisation is gone: what each family of procedural pictures is worth to it."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from harness import Setting, open_rows, table, write_result
from judge import Judge, float_row, our_row
from lowbit import percent, real_data, setting_name, widths
from torch import Tensor
from zoo import LABELLED, Labelled, add_common_options, chosen

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from zsq_compile.config.generators import PixelsConfig
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.files import write_arrays
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.spectral import power_law_field
from zsq_compile.synthesis.make_generator import make_generator

REAL = "real images"
# Of RGB in photographs, as in zsq_compile.synthesis.images.dead_leaves: brightness, blue against yellow, green against
# magenta.
AXES = ((0.5675, 0.5808, 0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203))
SPREAD, MEAN = (0.36, 0.11, 0.055), (0.485, 0.456, 0.406)


def leaves(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    return prior_images(count, 3, height, width, rng)


def clouds(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """1/f noise with the covariance of natural colours, of various contrast."""
    exponent = torch.ones(count)
    fields = torch.stack([power_law_field((count, height, width), exponent, rng) for _ in SPREAD], -1)
    contrast = (0.3 * torch.randn(count, 1, 1, 1, generator=rng)).exp()
    colours = (fields * contrast * torch.tensor(SPREAD)) @ torch.tensor(AXES) + torch.tensor(MEAN)
    return colours.permute(0, 3, 1, 2).clamp(0.0, 1.0)


def varied(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Leaves of half to double contrast around their mean."""
    pictures = leaves(count, height, width, rng)
    contrast = (0.7 * (2.0 * torch.rand(count, 1, 1, 1, generator=rng) - 1.0)).exp()
    middle = pictures.mean((2, 3), keepdim=True)
    return (middle + contrast * (pictures - middle)).clamp(0.0, 1.0)


PICTURES: Mapping[str, Callable[[int, int, int, torch.Generator], Tensor]] = {
    "leaves (prior)": leaves,
    "1/f clouds": clouds,
    "leaves of varied contrast": varied,
}
CLASSES = "leaves moved to classes"
MIXTURES = {
    "half leaves, half clouds": ("leaves (prior)", "1/f clouds"),
    f"half {CLASSES}": ("leaves (prior)", CLASSES),
}
FAMILIES = (*PICTURES, CLASSES, *MIXTURES, REAL)


def samples(name: str, loaded: LoadedModel, preprocessing: Preprocessing, count: int, seed: int) -> Tensor:
    """(count, 3, H, W) samples of one family, in the network's own numbers."""
    rng, spec = torch.Generator().manual_seed(seed), loaded.inputs[0]
    if name in MIXTURES:
        first, second = (samples(one, loaded, preprocessing, count, seed) for one in MIXTURES[name])
        even = torch.arange(count).view(-1, 1, 1, 1) % 2 == 0
        return torch.where(even, first, second)
    if name == CLASSES:
        maker = make_generator(PixelsConfig(class_weight=1.0), loaded.inputs, preprocessing)
        teacher, statistics = TorchGraph(loaded.model), replace(harvest_batchnorm(loaded.model), entries=())
        return maker.synthesize(teacher, statistics, count, rng).inputs[spec.name]
    height, width = (int(size or 1) for size in spec.shape[2:])
    return preprocessing.encode(PICTURES[name](count, height, width, rng))


def written(model: Labelled, name: str, options: argparse.Namespace) -> Path:
    """Write the samples of one family, once: a quarter more than are used, which is held out."""
    count = model.calibration_count * 5 // 4
    words = "".join(letter if letter.isalnum() else "-" for letter in name)
    path: Path = options.work / "families" / f"{model.key}.{words}.{count}.s{options.seed}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        loaded = load_model(model.path(options.assets), input_shapes={})
        made = samples(name, loaded, given_preprocessing(3, model.mean, model.std), count, options.seed)
        write_arrays(path, {loaded.inputs[0].name: made.float().numpy()})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    models = {model.key: model for model in LABELLED if model.key.endswith("_folded")}
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all folded)")
    parser.add_argument("--families", nargs="*", default=FAMILIES, help="names; all by default")
    parser.add_argument("--settings", nargs="*", type=setting_name, default=["W8A8", "W4A8", "W4A4"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, lines, floats = open_rows(options), [], []
    for key in chosen(options.models, tuple(models)):
        judge = Judge(models[key], options.assets)
        floats.append(f"{key} {100 * float_row(judge, rows)['top1']:.2f}")
        for family in options.families:
            data = real_data(judge, options) if family == REAL else written(models[key], family, options)
            cells = []
            for name in options.settings:
                print(f"{key}, {name}, {family} ...", file=sys.stderr, flush=True)
                bits, act_bits = widths(name)
                row = our_row(judge, Setting(bits=bits, act_bits=act_bits, calib=data), rows, options)
                assert row is not None
                cells.append(percent(row["top1"], row["agreement"]) if "top1" in row else f"failed: {row['error']}")
            lines.append([key, family, *cells])
    body = (
        f"Top-1 in percent, in brackets the agreement with FP32, seed {options.seed}; "
        f"{options.compile_args or 'all else by default'}. The preprocessing is given. FP32: {', '.join(floats)}.\n\n"
        + table(["model", "data", *options.settings], lines)
    )
    write_result("families", "Families of procedural data, for networks without statistics", body)


if __name__ == "__main__":
    main()
