"""Train small networks whose preprocessing is known, and export them as toolkits do, for ``known_networks.py``.

They differ in preprocessing, architecture, order of axes and export. Each takes about a minute on one processor. The
same seed gives the same weights on one machine. Nothing of it belongs into the repository: files go to WORK/networks.

    python benchmarks/train_networks.py                    # those that are not there yet
    python benchmarks/train_networks.py --networks vgg     # those whose names begin so
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from known_networks import TRAINED, truth_of
from small_networks import (
    ChannelsLast,
    Preprocessed,
    bare,
    darknet,
    depthwise,
    layer_normed,
    mixed,
    plain,
    residual,
    squeezing,
)
from small_pictures import Pictures, load_pictures
from torch import Tensor, nn
from zoo import IMAGENET_MEAN, IMAGENET_STD, RAW_STD, add_common_options, chosen

from backends.session import open_session
from zsq_compile.data.dataset import load_data
from zsq_compile.data.input_spec import InputSpec, Layout
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.metrics import top1
from zsq_compile.verification.running import run_batched

Export = Literal["kept", "folded"]
Exporter = Literal["script", "dynamo"]

_BATCH = 64
_CROP = 3  # pixels that a training picture may be moved
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_CAFFE_MEAN = (123 / 255, 117 / 255, 104 / 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one network is made.

    Attributes:
        name: of the network, and the beginning of its files' names.
        make: (channels, classes) -> the network.
        pictures: see ``load_pictures``.
        truth: what is done to pixels in front of the file.
        exports: "kept" keeps batch normalisation, "folded" is what torch's exporter does by itself.
        exporter: "script" is torch's old one, "dynamo" the new one.
        side: pixels that pictures are made small to; None leaves them as they are.
        opset: of the file; None leaves it to the exporter.
        epochs: of training.
        rate: largest learning rate, of AdamW where ``adaptive``, else of SGD with momentum.
        adaptive: see ``rate``.
        inner: mean and std in bytes that the graph itself takes off, in units of [0, 1].
        is_channels_last: whether the file takes (N, H, W, C).

    """

    name: str
    make: Callable[[int, int], nn.Module]
    truth: Preprocessing
    pictures: str = "photographs"
    exports: tuple[Export, ...] = ("folded",)
    exporter: Exporter = "script"
    opset: int | None = 17
    side: int | None = 24
    epochs: int = 7
    rate: float = 0.08
    adaptive: bool = False
    inner: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    is_channels_last: bool = False


def _gray(mean: float, std: float) -> Preprocessing:
    return truth_of(1, (mean,), (std,))


_UNIT, _SYMMETRIC = truth_of(3, (0.0,), (1.0,)), truth_of(3, (0.5,), (0.5,))
_BYTE, _IMAGENET = truth_of(3, (0.0,), (RAW_STD,)), truth_of(3, IMAGENET_MEAN, IMAGENET_STD)

RECIPES: tuple[Recipe, ...] = (
    Recipe(name="vgg_unit", make=plain, truth=_UNIT, exports=("kept", "folded"), side=None, epochs=12),
    Recipe(name="resnet_cifar", make=residual, truth=truth_of(3, _CIFAR_MEAN, _CIFAR_STD), exports=("kept", "folded")),
    # (x - 127.5) / 128, as face detectors and recognisers take them
    Recipe(name="mobile_128", make=depthwise, truth=truth_of(3, (0.5,), (128 / 255,)), opset=13),
    Recipe(name="darknet_unit", make=darknet, truth=_UNIT, opset=11),
    Recipe(name="squeeze_imagenet", make=squeezing, truth=_IMAGENET, epochs=9),
    Recipe(name="bare_symmetric", make=bare, truth=_SYMMETRIC, rate=1e-3, adaptive=True),
    Recipe(name="next_imagenet", make=layer_normed, truth=_IMAGENET, rate=2e-3, adaptive=True, opset=18, epochs=5),
    Recipe(
        name="mixed_caffe",
        make=mixed,
        truth=truth_of(3, _CAFFE_MEAN, (RAW_STD,), order="bgr"),
        rate=2e-3,
        adaptive=True,
        epochs=5,
    ),
    Recipe(name="resnet_inside", make=residual, truth=_BYTE, inner=(IMAGENET_MEAN, IMAGENET_STD)),
    Recipe(
        name="vgg_byte_nhwc",
        make=plain,
        truth=_BYTE,
        exports=("kept", "folded"),
        is_channels_last=True,
        rate=2e-3,
        adaptive=True,
    ),
    Recipe(name="mobile_symmetric_nhwc", make=depthwise, truth=_SYMMETRIC, is_channels_last=True, opset=13),
    Recipe(name="resnet_subtract", make=residual, truth=truth_of(3, IMAGENET_MEAN, (1.0,))),
    Recipe(name="mixed_gray", make=mixed, truth=_gray(0.5, 0.5), exporter="dynamo", opset=None, epochs=5),
    Recipe(
        name="bare_mnist", make=bare, truth=_gray(0.1307, 0.3081), pictures="figures", side=None, epochs=3, rate=0.02
    ),
    Recipe(
        name="vgg_mnist",
        make=plain,
        truth=_gray(0.5, 0.5),
        pictures="figures",
        side=None,
        epochs=2,
        exporter="dynamo",
        opset=None,
    ),
    Recipe(name="vgg_digits", make=plain, truth=_gray(0.0, 1.0), pictures="digits", side=None, epochs=12),
    Recipe(
        name="darknet_objects",
        make=darknet,
        truth=truth_of(3, (0.0,), (1.0,), order="bgr"),
        pictures="objects",
        side=None,
        exports=("kept", "folded"),
        epochs=7,
    ),
    Recipe(
        name="squeeze_objects",
        make=squeezing,
        truth=truth_of(3, IMAGENET_MEAN[::-1], IMAGENET_STD[::-1], order="bgr"),  # PaddlePaddle's, see wild2
        pictures="objects",
        epochs=7,
        opset=12,
    ),
)


def train(recipe: Recipe, pictures: Pictures, *, seed: int = 0) -> nn.Module:
    """Train a network that takes what the file takes, in NCHW; returned in inference mode."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed + 1)
    channels, inner = len(recipe.truth.mean), recipe.inner
    body = recipe.make(channels, pictures.classes)
    network = body if inner is None else Preprocessed(body, *inner)
    images, labels = _tensors(pictures, channels), torch.from_numpy(pictures.labels)
    steps = len(images) // _BATCH
    network.eval()(images[:1].float())  # settles sizes that follow from those of the pictures
    optimizer: torch.optim.Optimizer
    if recipe.adaptive:
        optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=0.02)
    else:
        optimizer = torch.optim.SGD(network.parameters(), recipe.rate, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=steps * recipe.epochs, pct_start=0.25
    )
    network.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=rng)
        for step in range(steps):
            chosen_rows = order[step * _BATCH : (step + 1) * _BATCH]
            pixels = _varied(images[chosen_rows], rng, mirrored=pictures.is_mirrored)
            values = recipe.truth.encode(pixels.float() / 255.0)
            loss = nn.functional.cross_entropy(network(values), labels[chosen_rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def _tensors(pictures: Pictures, channels: int) -> Tensor:
    """(N, C, H, W) bytes."""
    images = pictures.images
    if channels == 1 and images.shape[-1] == 3:  # as load_data makes grey of colours
        luma = images.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)
        images = np.rint(luma).astype(np.uint8)[..., None]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _varied(pixels: Tensor, rng: torch.Generator, *, mirrored: bool) -> Tensor:
    """Move every picture by up to ``_CROP`` pixels, edges repeated, and mirror half of them."""
    count, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels.float(), (_CROP,) * 4, mode="replicate")
    starts = torch.randint(0, 2 * _CROP + 1, (2, count, 1), generator=rng)
    rows, columns = (starts[axis] + torch.arange(size) for axis, size in ((0, height), (1, width)))
    if mirrored:
        flips = torch.rand(count, generator=rng) < 0.5
        columns[flips] = columns[flips].flip(1)
    one = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[one, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def export(recipe: Recipe, network: nn.Module, pictures: Pictures, form: Export, path: Path) -> None:
    """Write a file with an open batch."""
    height, width = pictures.images.shape[1:3]
    sample = torch.zeros(2, len(recipe.truth.mean), height, width)
    if recipe.is_channels_last:
        network, sample = ChannelsLast(network).eval(), sample.permute(0, 2, 3, 1).contiguous()
    if recipe.exporter == "dynamo":
        shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
        program = torch.onnx.export(
            network, (sample,), dynamo=True, opset_version=recipe.opset, dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        program.save(str(path), external_data=False)
        return
    mode = torch.onnx.TrainingMode.PRESERVE if form == "kept" else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        network,
        (sample,),
        str(path),
        dynamo=False,
        training=mode,
        do_constant_folding=form == "folded",
        opset_version=recipe.opset,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes={"input": {0: "batch"}, "scores": {0: "batch"}},
    )


def accuracy(path: Path, recipe: Recipe, pictures: Pictures, judged: Path) -> float:
    """Top-1 of a float file, 0 to 1, on the pictures to judge on."""
    session = open_session(path)
    name = session.input_names[0]
    layout: Layout = "NHWC" if recipe.is_channels_last else "NCHW"
    shape, dtype = session.input_shapes[name], session.input_dtypes[name]
    spec = InputSpec(name=name, shape=shape, dtype=dtype, layout=layout)
    truth = replace(recipe.truth, layout=layout)
    data = load_data(judged, [spec], truth, limit=pictures.limit)
    found = [(next(iter(run_batched(session, feeds).values())), labels) for feeds, labels in data.batches(100)]
    return top1(np.concatenate([one for one, _ in found]), np.concatenate([labels for _, labels in found]))


def make(recipe: Recipe, assets: Path, folder: Path) -> list[dict[str, Any]]:
    """Train one network and write its files; return what is true of each."""
    pictures = load_pictures(recipe.pictures, assets, folder / "data").resized(recipe.side)
    judged = (assets if pictures.root == "assets" else folder) / pictures.judged
    start = time.perf_counter()
    network = train(recipe, pictures)
    seconds, rows = time.perf_counter() - start, []
    for form in recipe.exports:
        path = folder / f"{recipe.name}_{form}.onnx"
        export(recipe, network, pictures, form, path)
        normed = any(node.op_type == "BatchNormalization" for node in ir.load(path).graph)
        rows.append(
            {
                "name": path.stem,
                "group": recipe.name,
                "path": path.name,
                "mean": recipe.truth.mean,
                "std": recipe.truth.std,
                "channel_order": recipe.truth.channel_order,
                "layout": "NHWC" if recipe.is_channels_last else "NCHW",
                "has_statistics": normed,
                "root": pictures.root,
                "data": pictures.judged,
                "limit": pictures.limit,
                "accuracy": accuracy(path, recipe, pictures, judged),
                "seconds": round(seconds, 1),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--networks", nargs="*", help="networks, or the beginnings of their names (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)  # sums in another order give other weights
    folder = options.work / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / TRAINED
    recipes = {one.name: one for one in RECIPES}
    for name in chosen(options.networks, tuple(recipes)):
        rows = json.loads(listed.read_text()) if listed.is_file() else []
        if not options.fresh and any(row["group"] == name for row in rows):
            continue
        made = make(recipes[name], options.assets, folder)
        scratch = listed.with_suffix(".part")
        scratch.write_text(json.dumps([*(row for row in rows if row["group"] != name), *made], indent=1))
        scratch.replace(listed)
        for row in made:
            print(f"{row['name']}: {row['accuracy']:.1%}, trained in {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
