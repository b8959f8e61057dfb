"""What is true of the assets' models and images: labels, preprocessing. Nothing of it enters the product."""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.session import open_session
from zsq_compile.data.dataset import Dataset, load_data
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import given_preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAW_STD = 1.0 / 255.0  # (x / 255 - 0) / (1 / 255) is the byte itself
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A model with labelled images, and how its images are prepared (see the assets' README)."""

    key: str
    file: str
    images: str
    calibration: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    limit: int | None = None
    calibration_count: int = 256

    def path(self, assets: Path) -> Path:
        """Return the model's file."""
        return assets / "models" / self.file

    def evaluation(self, assets: Path) -> Dataset:
        """Return the labelled images that every method is judged on."""
        return self._load(assets, assets / self.images, self.limit)

    def calibration_batches(self, assets: Path) -> list[dict[str, np.ndarray]]:
        """Return real images for methods that need them, in batches of one size."""
        if self.calibration is None:  # images behind the evaluated ones
            whole = self._load(assets, assets / self.images, (self.limit or 0) + self.calibration_count)
            batches = [feeds for feeds, _ in whole.batches(self.batch(assets))]
            return batches[-(self.calibration_count // self.batch(assets)) :]
        data = self._load(assets, assets / self.calibration, self.calibration_count)
        return [feeds for feeds, _ in data.batches(self.batch(assets))]

    def random_batches(self, assets: Path) -> list[dict[str, np.ndarray]]:
        """Return as much uniform noise in [0, 1)."""
        rng = np.random.default_rng(0)
        return [
            {name: rng.random(array.shape, np.float32) for name, array in feeds.items()}
            for feeds in self.calibration_batches(assets)
        ]

    def batch(self, assets: Path) -> int:
        """Return the model's fixed batch, or the one used where it is open."""
        spec = self.spec(assets)
        return spec.shape[0] or 16

    def spec(self, assets: Path) -> InputSpec:
        """Return the model's only input."""
        session = open_session(self.path(assets), optimize="none")
        name = session.input_names[0]
        return InputSpec(name=name, shape=session.input_shapes[name], dtype=session.input_dtypes[name], layout="NCHW")

    def _load(self, assets: Path, source: Path, limit: int | None) -> Dataset:
        spec = self.spec(assets)
        return load_data(source, [spec], given_preprocessing(spec.channels, self.mean, self.std), limit=limit)


def _cifar(key: str, *, raw: bool = False) -> Labelled:
    return Labelled(
        key=key,
        file=f"cifar10/{key}.onnx",
        images="cifar10/test1k_lossless.npz",
        calibration="cifar10/train4k_lossless.npz",
        mean=(0.0, 0.0, 0.0) if raw else IMAGENET_MEAN,
        std=(RAW_STD, RAW_STD, RAW_STD) if raw else IMAGENET_STD,
    )


def _imagenet(key: str) -> Labelled:
    return Labelled(
        key=key,
        file=f"imagenet/{key}.onnx",
        images="imagenet-val400",
        calibration="imagenet-calib128",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        calibration_count=64,
    )


LABELLED: tuple[Labelled, ...] = (
    _cifar("resnet20_bn"),
    _cifar("resnet20_folded"),
    _cifar("resnet56_bn"),
    _cifar("resnet56_folded"),
    _cifar("resnet8_cifar10_bn", raw=True),
    _cifar("resnet8_cifar10_folded", raw=True),
    _imagenet("mobilenetv1_075_bn"),
    _imagenet("mobilenetv1_075_folded"),
    Labelled(
        key="mnist_cntk",
        file="wild/mnist_cntk.onnx",
        images="mnist/test.npz",
        calibration=None,
        mean=(0.0,),
        std=(RAW_STD,),
        limit=2000,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Unlabelled(Labelled):
    """A model whose speed alone is measured: noise calibrates as fast a file as pictures do."""

    def calibration_batches(self, assets: Path) -> list[dict[str, np.ndarray]]:
        """Return uniform noise in [0, 1)."""
        spec, rng = self.spec(assets), np.random.default_rng(0)
        return [{spec.name: rng.random(spec.batched(self.batch(assets)), np.float32)} for _ in range(2)]


TIMED: tuple[Labelled, ...] = tuple(
    Unlabelled(key=key, file=f"wild/{key}.onnx", images="", calibration=None, mean=(0.0,), std=(1.0,))
    for key in ("ultraface_rfb320", "pfld_landmark")
)

WILD: tuple[str, ...] = (
    "ultraface_rfb320",
    "pfld_landmark",
    "deeplab_mnv2_dm05_513",
    "prisma_portrait_seg",
    "fastestdet_352",
    "light_resnet50",
    "light_shufflenet",
    "mnist_cntk",
    "dnsmos_sig_bak_ovr",
    "keypoint_classifier_mlp",
    "silero_vad_if_subgraphs",
    "super_resolution_subpixel",
)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--assets",
        type=Path,
        default=Path(os.environ.get("ZSQ_ASSETS", ROOT.parent / "shared" / "assets")),
        help="folder with models and images (default: $ZSQ_ASSETS, else ../shared/assets)",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="files and finished rows")
    parser.add_argument("--fresh", action="store_true", help="run again what has been run before")
    parser.add_argument("--compile-args", default="", help='further options for zsq-compile, such as "--effort best"')
    parser.add_argument("--threads", type=int, default=None, help="threads inside an operator")


def chosen(keys: list[str] | None, known: tuple[str, ...]) -> Iterator[str]:
    """Yield the keys asked for, all when none was; a key may be the beginning of several."""
    for key in known:
        if not keys or any(key.startswith(prefix) for prefix in keys):
            yield key
