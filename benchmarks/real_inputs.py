"""Networks without classes and their real inputs, as users would give them. Nothing of it enters the product."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from answering import load_judge
from drawn_scenes import draw_scene
from numpy.typing import NDArray
from PIL import Image
from train_detectors import JUDGED_SEED, LISTED

Feeds = dict[str, NDArray[Any]]

_CALIBRATION_SEED = 8_000_001  # of scenes that a quantizer is given
_DRAWN = (32, 60)  # scenes to calibrate with, and to judge on
_PICTURES = (32, 60)  # photographs likewise
_LARGE_PICTURES = (4, 12)
_FACE_MARGIN = 0.15  # that a landmark network sees around a face, as its makers cut it


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A network with real inputs.

    Attributes:
        key: its name.
        path: of the float file.
        group: files of one group are the same network.
        real: gives feeds to calibrate a rival with, and feeds to judge on, each as the network takes them.
        is_detector: it finds boxes.
        has_judge: ``judge.py`` beside the model can judge it, too.

    """

    key: str
    path: Path
    group: str
    real: Callable[[], tuple[list[Feeds], list[Feeds]]]
    is_detector: bool = False
    has_judge: bool = False


def subjects(assets: Path, work: Path) -> list[Subject]:
    """All networks that are there: those of the assets, and those that ``train_detectors.py`` has trained."""
    return [*_trained(work / "detectors"), *_found(assets), *_judged(assets / "models" / "wild2")]


def _trained(folder: Path) -> list[Subject]:
    listed = folder / LISTED
    rows: Sequence[Mapping[str, Any]] = json.loads(listed.read_text()) if listed.is_file() else []
    return [
        Subject(
            key=row["name"],
            path=folder / row["path"],
            group=row["group"],
            real=lambda row=row: _drawn(row["side"], row["mean"], row["std"]),
            is_detector=True,
        )
        for row in rows
    ]


def _drawn(side: int, mean: Sequence[float], std: Sequence[float]) -> tuple[list[Feeds], list[Feeds]]:
    parts = []
    for seed, count in zip((_CALIBRATION_SEED, JUDGED_SEED), _DRAWN, strict=True):
        gen = np.random.default_rng(seed)
        pictures = np.stack([draw_scene(gen, side).pixels for _ in range(count)])
        parts.append(_feeds("images", _encoded(pictures, mean, std)))
    return parts[0], parts[1]


def _judged(folder: Path) -> list[Subject]:
    """Networks whose inputs lie beside them, prepared as ``judge.py`` does."""
    judge = load_judge(folder)
    made = []
    for key in judge.JUDGES:
        made.append(
            Subject(
                key=key,
                path=folder / f"{key}.onnx",
                group=key,
                real=lambda key=key: (judge.feeds(key, "calib", folder), judge.feeds(key, "eval", folder)),
                is_detector=key in ("yunet_n", "centerface320"),
                has_judge=True,
            )
        )
    return made


def _found(assets: Path) -> list[Subject]:
    """Networks without inputs of their own, on the pictures that the assets have for others."""
    wild, wild2 = assets / "models" / "wild", assets / "models" / "wild2"
    return [
        Subject(
            key="ultraface_rfb320",
            path=wild / "ultraface_rfb320.onnx",
            group="ultraface",
            real=lambda: _people(wild2, "input", (240, 320), 127 / 255, 128 / 255),
            is_detector=True,
        ),
        Subject(
            key="fastestdet_352",
            path=wild / "fastestdet_352.onnx",
            group="fastestdet",
            real=lambda: _photographs(assets, "input.1", 352, 0.0, 1.0, _PICTURES, order="bgr"),
            is_detector=True,
        ),
        Subject(
            key="pfld_landmark",
            path=wild / "pfld_landmark.onnx",
            group="pfld",
            real=lambda: _faces(wild2, "input", 112),
        ),
        Subject(
            key="deeplab_mnv2_dm05_513",
            path=wild / "deeplab_mnv2_dm05_513.onnx",
            group="deeplab",
            real=lambda: _photographs(assets, "MobilenetV2/MobilenetV2/input:0", 513, 0.5, 0.5, _LARGE_PICTURES),
        ),
    ]


def _encoded(pictures: NDArray[np.uint8], mean: Any, std: Any) -> NDArray[np.float32]:
    """(N, H, W, 3) bytes -> (N, 3, H, W)."""
    values = (pictures.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)).astype(np.float32)


def _feeds(name: str, values: NDArray[Any]) -> list[Feeds]:
    return [{name: one[None]} for one in values]


def _crowds(folder: Path) -> list[NDArray[np.uint8]]:
    """Photographs of people that yunet has, to calibrate with and to judge on: (N, H, W, 3) bytes, RGB."""
    arrays = np.load(folder / "yunet_n.inputs.npz")
    return [arrays[f"{part}/input"][:, 0].transpose(0, 2, 3, 1)[..., ::-1] for part in ("calib", "eval")]


def _people(folder: Path, name: str, size: tuple[int, int], mean: float, std: float) -> tuple[list[Feeds], list[Feeds]]:
    height, width = size
    parts = []
    for pictures in _crowds(folder):
        small = [np.asarray(Image.fromarray(one).resize((width, height))) for one in pictures]
        parts.append(_feeds(name, _encoded(np.stack(small), mean, std)))
    return parts[0], parts[1]


def _faces(folder: Path, name: str, side: int) -> tuple[list[Feeds], list[Feeds]]:
    """Faces that yunet finds, cut out."""
    judge, parts = load_judge(folder), []
    for part, pictures in zip(("calib", "eval"), _crowds(folder), strict=True):
        outputs = judge.outputs(folder / "yunet_n.onnx", judge.feeds("yunet_n", part, folder))
        found = []
        for picture, one in zip(pictures, outputs, strict=True):
            for x1, y1, x2, y2, *_ in judge.yunet(one, 0.6):
                reach = (0.5 + _FACE_MARGIN) * max(x2 - x1, y2 - y1)
                x, y = (x1 + x2) / 2, (y1 + y2) / 2
                box = (x - reach, y - reach, x + reach, y + reach)
                found.append(np.asarray(Image.fromarray(picture).resize((side, side), box=_inside(box, picture))))
        parts.append(_feeds(name, _encoded(np.stack(found[: 4 * max(_PICTURES)]), 0.0, 1.0)))
    return parts[0], parts[1]


def _inside(box: Sequence[float], picture: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    height, width = picture.shape[:2]
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))


def _photographs(
    assets: Path, name: str, side: int, mean: float, std: float, counts: tuple[int, int], order: str = "rgb"
) -> tuple[list[Feeds], list[Feeds]]:
    parts = []
    for folder, count in zip(("imagenet-calib128", "imagenet-val400"), counts, strict=True):
        files = sorted(
            path for path in (assets / folder).rglob("*") if path.suffix.lower() in (".webp", ".png", ".jpg")
        )
        chosen = files[:: max(len(files) // count, 1)][:count]
        pictures = np.stack([np.asarray(Image.open(one).convert("RGB").resize((side, side))) for one in chosen])
        parts.append(_feeds(name, _encoded(pictures[..., ::-1] if order == "bgr" else pictures, mean, std)))
    return parts[0], parts[1]
