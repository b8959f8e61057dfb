"""Networks whose preprocessing is known: those of the assets, and the small ones that ``train_networks.py`` makes.

A network that is there in several exports is one group: what is fitted leaves a whole group out. Of every network with
batch normalisation there is also a file that this project's own passes have folded, so that its statistics are hidden.

    python benchmarks/known_networks.py        # lists them all
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from zoo import IMAGENET_MEAN, IMAGENET_STD, RAW_STD, add_common_options

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.fold_forward import ConvolveBatchNorm, FoldForward
from zsq_compile.data.dataset import Dataset, load_data
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import ChannelOrder, Preprocessing
from zsq_compile.files import file_sha256
from zsq_compile.frontend.input_shapes import Shape
from zsq_compile.frontend.load import load_model

TRAINED = "networks.json"
"""Name of the list, in the folder of the trained networks, that ``train_networks.py`` writes."""

_CIFAR, _IMAGENET, _MNIST = "cifar10/test1k_lossless.npz", "imagenet-val400", "mnist/test.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """One file, and what is true of it.

    Attributes:
        name: of the file, without its ending; no two are the same.
        group: files of the same group are the same network in other exports.
        path: the file.
        truth: the preprocessing that it was trained with, of its only picture.
        has_statistics: whether batch normalisation is left in it.
        data: labelled pictures (see ``zsq_compile.data.dataset``), or arrays as the network takes them, on which its
            decisions can be counted; None where it decides for no classes, or there are no pictures.
        limit: how many of them to use; None for all.
        order_told: whether the order of the channels is known too; it makes no difference for grey pictures.
        shape: sizes to work with where the file leaves them open; None where it does not.

    """

    name: str
    group: str
    path: Path
    truth: Preprocessing
    has_statistics: bool
    data: Path | None = None
    limit: int | None = None
    order_told: bool = True
    shape: Shape | None = None

    def real(self, spec: InputSpec) -> Dataset:
        """Return the real inputs, prepared as the truth says, for the network's only input."""
        assert self.data is not None
        return load_data(self.data, [spec], replace(self.truth, layout=spec.layout or "NCHW"), limit=self.limit)


def truth_of(
    channels: int, mean: tuple[float, ...], std: tuple[float, ...], *, order: ChannelOrder | None = None
) -> Preprocessing:
    """Return a true preprocessing; mean and std in RGB order, in units of pixels in [0, 1], one number for all."""
    wide = [numbers * channels if len(numbers) == 1 else numbers for numbers in (mean, std)]
    own: ChannelOrder = order or ("gray" if channels == 1 else "rgb")
    return Preprocessing(
        name="truth", mean=wide[0], std=wide[1], channel_order=own, source="given", reason="it was trained with it"
    )


UNIT, BYTE = truth_of(3, (0.0,), (1.0,)), truth_of(3, (0.0,), (RAW_STD,))
SYMMETRIC, IMAGENET = truth_of(3, (0.5,), (0.5,)), truth_of(3, IMAGENET_MEAN, IMAGENET_STD)


def known_networks(assets: Path, work: Path) -> list[Known]:
    """Return every network whose truth is known.

    Args:
        assets: folder of the assets.
        work: cache: folded files are made in ``work/folded``, trained networks are read from ``work/networks``, or from
            ``work`` itself where their list is there.

    """
    kept = [*_assets(assets, work), *_trained(assets, work)]
    hidden = [_folded(one, work / "folded") for one in kept if one.has_statistics]
    return [*kept, *hidden]


def _assets(assets: Path, work: Path) -> Iterator[Known]:
    """Yield the networks of the assets: the truths are those of its README files."""
    models = assets / "models"
    for key in ("resnet20", "resnet56", "resnet8_cifar10"):
        truth = BYTE if key == "resnet8_cifar10" else IMAGENET
        yield from _both(models / "cifar10", key, truth, assets / _CIFAR)
    yield from _both(models / "imagenet", "mobilenetv1_075", SYMMETRIC, assets / _IMAGENET)
    yield _one(models / "imagenet/tinydarknet_folded.onnx", UNIT, data=assets / _IMAGENET)
    mnist = truth_of(1, (0.0,), (RAW_STD,))
    yield _one(models / "wild/mnist_cntk.onnx", mnist, data=assets / _MNIST, limit=2000)
    # (x - 127) / 128, of pictures in RGB
    ultraface = truth_of(3, (127 / 255,), (128 / 255,))
    yield _one(models / "wild/ultraface_rfb320.onnx", ultraface, statistics=True)
    yield _one(models / "wild/pfld_landmark.onnx", UNIT, statistics=True, told=False)
    yield _one(models / "wild/deeplab_mnv2_dm05_513.onnx", SYMMETRIC, statistics=True)
    yield _one(models / "wild/fastestdet_352.onnx", UNIT, told=False)
    yield from _wild2(models / "wild2", work)


def _wild2(folder: Path, work: Path) -> Iterator[Known]:
    byte_bgr = replace(BYTE, channel_order="bgr")
    symmetric_bgr = replace(SYMMETRIC, channel_order="bgr")
    # these take BGR, and the mean of ImageNet's red from it: in RGB order, that is the mean of the last first
    imagenet_bgr = truth_of(3, IMAGENET_MEAN[::-1], IMAGENET_STD[::-1], order="bgr")
    yield _one(folder / "yunet_n.onnx", byte_bgr, shape=(None, 3, 320, 320))
    yield _one(folder / "centerface320.onnx", BYTE, statistics=True)
    cls = _one(folder / "ppocr_cls.onnx", symmetric_bgr, statistics=True, shape=(None, 3, 48, 192))
    yield replace(cls, data=_as_arrays(folder / "ppocr_cls.inputs.npz", work / "real" / "ppocr_cls.npz"))
    yield _one(folder / "ppocrv4_det.onnx", imagenet_bgr, statistics=True, shape=(None, 3, 320, 320))
    yield _one(folder / "ppocrv4_rec.onnx", symmetric_bgr, statistics=True, shape=(None, 3, 48, 320))


def _both(folder: Path, key: str, truth: Preprocessing, data: Path) -> Iterator[Known]:
    for form in ("bn", "folded"):
        yield _one(folder / f"{key}_{form}.onnx", truth, group=key, statistics=form == "bn", data=data)


def _one(
    path: Path,
    truth: Preprocessing,
    *,
    group: str | None = None,
    statistics: bool = False,
    data: Path | None = None,
    limit: int | None = None,
    told: bool = True,
    shape: Shape | None = None,
) -> Known:
    return Known(
        name=path.stem,
        group=group or path.stem,
        path=path,
        truth=truth,
        has_statistics=statistics,
        data=data,
        limit=limit,
        order_told=told,
        shape=shape,
    )


def _as_arrays(inputs: Path, made: Path) -> Path:
    """Write the judged inputs of ppocr_cls, kept as BGR bytes, as (count, 3, 48, 192) floats in [-1, 1]."""
    if not made.is_file():
        with np.load(inputs) as archive:
            pixels = archive["eval/x"]
        arrays = (pixels.reshape(-1, *pixels.shape[-3:]).astype(np.float32) / 255 - 0.5) / 0.5
        made.parent.mkdir(parents=True, exist_ok=True)
        scratch = made.with_suffix(".part.npz")
        np.savez(scratch, x=arrays)
        scratch.replace(made)
    return made


def _trained(assets: Path, work: Path) -> Iterator[Known]:
    """Yield the trained networks that are there; places in their list are relative to it."""
    for place in (work / "networks" / TRAINED, work / TRAINED):
        if place.is_file():
            for plain in json.loads(place.read_text()):
                yield _from_json(plain, place.parent, assets if plain["root"] == "assets" else place.parent)
            return


def _from_json(plain: dict[str, Any], folder: Path, root: Path) -> Known:
    mean, std = (tuple(map(float, plain[key])) for key in ("mean", "std"))
    return Known(
        name=plain["name"],
        group=plain["group"],
        path=folder / plain["path"],
        truth=truth_of(len(mean), mean, std, order=plain["channel_order"]),
        has_statistics=plain["has_statistics"],
        data=root / plain["data"],
        limit=plain["limit"],
    )


def _folded(known: Known, folder: Path) -> Known:
    """Fold what batch normalisation a file holds, as a compilation does, and write the graph without it."""
    made = folder / f"{known.name}.{file_sha256(known.path)[:12]}.onnx"
    if not made.is_file():
        shapes = _named_shape(known)
        model = load_model(known.path, input_shapes=shapes, simplify=False, verify=False).model.clone()
        for step in (FoldBatchNorm(), FoldForward(), ConvolveBatchNorm(), FoldBatchNorm()):
            step(model)
        left = sum(node.op_type == "BatchNormalization" for node in model.graph)
        if left:
            raise ValueError(f"{known.path}: {left} BatchNormalization nodes are left that no pass could fold")
        made.parent.mkdir(parents=True, exist_ok=True)
        scratch = made.with_suffix(".part")
        ir.save(model, scratch)
        scratch.replace(made)
    return replace(known, name=f"{known.name}_hidden", path=made, has_statistics=False)


def _named_shape(known: Known) -> dict[str, Shape]:
    """Return ``known.shape`` under the name of the file's first input that is no initializer."""
    if known.shape is None:
        return {}
    graph = ir.load(known.path).graph
    return {next(str(one.name) for one in graph.inputs if one.name not in graph.initializers): known.shape}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    options = parser.parse_args()
    found = known_networks(options.assets, options.work)
    for one in found:
        kept = "statistics" if one.has_statistics else ""
        print(f"{one.name:44} {one.group:24} {kept:10} {one.truth.channel_order:4} {one.truth.mean} {one.truth.std}")
    print(f"{len(found)} files of {len({one.group for one in found})} networks")


if __name__ == "__main__":
    main()
