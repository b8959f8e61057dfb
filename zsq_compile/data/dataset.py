"""Real data for checking a model, or for calibrating onnxruntime's: images from a folder, arrays from a file.

Accepted forms of ``--data`` and ``--calib-data``:

1. ``DIR/labels.csv`` with a file name and a class on each line (a header line is allowed), images beside it;
2. ``DIR/CLASS/IMAGE``, one folder per class, numbered in sorted order unless the folders' names are numbers already;
3. ``DIR/IMAGE``: pictures without labels;
4. ``FILE.npz`` with ``images`` (uint8, N,H,W,C or N,H,W) and ``labels`` (N), or without;
5. ``FILE.npz`` with arrays that are named like the model's inputs and go in as they are, with ``labels`` or without;
6. ``DIR/test_data_set_N/input_K.pb``, ONNX's own test data, which go in as they are.

Only the batch at hand is in memory as float.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.batch_axes import stack_given
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.onnx_test_data import read_test_data, sets_of_test_data
from zsq_compile.data.preprocessing import Preprocessing, unit_preprocessing
from zsq_compile.errors import ConfigError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Turns an image file's pixels into network input."""

    spec: InputSpec
    preprocessing: Preprocessing

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Prepare one picture (H,W), (H,W,1), (H,W,3) or (H,W,4), of any size: returns one sample of the input.

        Another size is scaled (bilinear) until it covers the wanted one, then cut around its middle.
        """
        image = _fit(_with_channels(pixels, self.spec.channels), self.spec.height, self.spec.width)
        unit = image.astype(np.float32).transpose(2, 0, 1) / np.float32(255.0)
        return np.ascontiguousarray(self.spec.typed(self.preprocessing.encode(unit[None]))[0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Samples that are made ready batch by batch.

    Attributes:
        samples: files of pictures, or arrays with one sample in each row, by input name.
        labels: class of every sample, (N,) int64, or None.
        preparation: how pictures become input; None when the samples are inputs already.

    """

    samples: Mapping[str, Sequence[Path] | NDArray[Any]]
    labels: NDArray[np.int64] | None
    preparation: Preparation | None

    def __len__(self) -> int:
        """Count the samples."""
        return min(len(rows) for rows in self.samples.values())

    def batches(self, size: int) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]]:
        """Yield (inputs by name, labels) for up to ``size`` samples at a time, in the order of the source."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            feeds = {name: self._prepared(source[rows]) for name, source in self.samples.items()}
            yield feeds, None if self.labels is None else self.labels[rows]

    def _prepared(self, rows: Sequence[Path] | NDArray[Any]) -> NDArray[Any]:
        if self.preparation is None:
            return np.asarray(rows)
        pictures = [_read_picture(row) if isinstance(row, Path) else row for row in rows]
        return np.stack([self.preparation(picture) for picture in pictures])


def load_data(
    path: Path,
    inputs: Sequence[InputSpec],
    preprocessing: Preprocessing | None,
    *,
    limit: int | None = None,
    option: str = "--data",
) -> Dataset:
    """Open a folder or .npz file in one of the forms listed at the head of this module.

    Args:
        path: folder or file.
        inputs: the model's inputs; pictures need a model with one image input.
        preprocessing: of the image input, if there is one; None takes pixels in [0, 1].
        limit: use the first so many samples only.
        option: what the user wrote the path behind, for messages.

    Raises:
        ConfigError: nothing usable is there; the message says what was looked for.

    """
    preparation = _preparation(inputs, preprocessing)
    if path.is_dir():
        dataset = _from_folder(path, inputs, preparation, option)
    elif path.suffix == ".npz" and path.is_file():
        dataset = _from_npz(path, inputs, preparation)
    else:
        raise ConfigError(f"{option} wants a folder or an .npz file, got {path}, which is neither")
    if limit is None:
        return dataset
    return Dataset(
        samples={name: rows[:limit] for name, rows in dataset.samples.items()},
        labels=None if dataset.labels is None else dataset.labels[:limit],
        preparation=dataset.preparation,
    )


def _preparation(inputs: Sequence[InputSpec], preprocessing: Preprocessing | None) -> Preparation | None:
    if len(inputs) != 1 or not inputs[0].is_image:
        return None
    return Preparation(spec=inputs[0], preprocessing=preprocessing or unit_preprocessing(inputs[0]))


def _from_folder(path: Path, inputs: Sequence[InputSpec], preparation: Preparation | None, option: str) -> Dataset:
    if sets := sets_of_test_data(path):
        arrays = read_test_data(sets, inputs)
        tensors = {spec.name: _checked(arrays[spec.name], spec, path) for spec in inputs}
        return Dataset(samples=tensors, labels=None, preparation=None)
    if preparation is None:
        shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
        raise ConfigError(
            f"{option} {path} holds pictures, but the model does not take one picture as input ({shapes}); "
            "give an .npz file with an array for each input, or test_data_set_*/input_*.pb, instead"
        )
    listing = path / "labels.csv"
    pairs = _listed(listing) if listing.is_file() else _by_folder(path)
    if not pairs:
        bare = _pictures(path)
        if bare:
            return Dataset(samples={inputs[0].name: bare}, labels=None, preparation=preparation)
        raise ConfigError(
            f"{option} {path} has neither a labels.csv (file,label), nor a folder of pictures for each class, nor "
            "pictures, nor test_data_set_*/input_*.pb"
        )
    missing = [file for file, _ in pairs if not file.is_file()]
    if missing:
        raise ConfigError(
            f"{listing} names {missing[0].name}, which is not in {path} ({len(missing)} files are missing)"
        )
    labels = np.asarray([label for _, label in pairs], np.int64)
    return Dataset(samples={inputs[0].name: [file for file, _ in pairs]}, labels=labels, preparation=preparation)


def _listed(listing: Path) -> list[tuple[Path, int]]:
    with listing.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row and any(cell.strip() for cell in row)]
    if rows and (len(rows[0]) < 2 or not _is_integer(rows[0][1])):
        rows = rows[1:]  # a header
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or not _is_integer(row[1]):
            raise ConfigError(f"{listing}, entry {number}: wanted file,label with a whole number as label, got {row}")
    return [(listing.parent / row[0].strip(), int(row[1])) for row in rows]


def _by_folder(path: Path) -> list[tuple[Path, int]]:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    numbered = all(_is_integer(folder.name) for folder in folders)
    return [
        (file, int(folder.name) if numbered else index)
        for index, folder in enumerate(folders)
        for file in _pictures(folder)
    ]


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())


def _from_npz(path: Path, inputs: Sequence[InputSpec], preparation: Preparation | None) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} as an .npz file of plain arrays: {error}") from error
    labels = np.asarray(arrays["labels"]).reshape(-1).astype(np.int64) if "labels" in arrays else None
    names = [spec.name for spec in inputs]
    samples: dict[str, NDArray[Any]]
    if all(name in arrays for name in names):
        stacked = stack_given(arrays, inputs, str(path))
        samples = {spec.name: _checked(stacked[spec.name], spec, path) for spec in inputs}
        preparation = None
    elif "images" in arrays and preparation is not None:
        images = arrays["images"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise ConfigError(
                f"{path}: images must be uint8 with shape (N,H,W,C) or (N,H,W), got {images.dtype} {images.shape}; "
                f"arrays that are ready for the network go under the input's name, {names[0]!r}"
            )
        samples = {names[0]: images}
    else:
        raise ConfigError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; wanted the model's inputs ({', '.join(names)}), "
            "or images and labels"
        )
    counts = {len(rows) for rows in samples.values()} | (set() if labels is None else {len(labels)})
    if len(counts) != 1 or 0 in counts:
        raise ConfigError(f"{path}: wanted as many labels as samples and at least one, got lengths {sorted(counts)}")
    return Dataset(samples=samples, labels=labels, preparation=preparation)


def _checked(array: NDArray[Any], spec: InputSpec, path: Path) -> NDArray[Any]:
    wanted = spec.shape[1:]
    if array.ndim != len(spec.shape) or any(
        w is not None and w != g for w, g in zip(wanted, array.shape[1:], strict=True)
    ):
        raise ConfigError(f"{path}: {spec.name} must have shape (N, {', '.join(map(str, wanted))}), got {array.shape}")
    return array.astype(spec.dtype, copy=False)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            kept = image.mode in ("L", "RGB", "RGBA")
            return np.asarray(image if kept else image.convert("RGB"), np.uint8)
    except OSError as error:
        raise ConfigError(f"cannot read {path} as a picture: {error}") from error


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    image = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if image.shape[2] == channels:
        return image
    if channels > 1:
        colours = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
        opaque = np.full((*image.shape[:2], channels - 3), 255, np.uint8)
        return np.concatenate([colours, opaque], 2)
    luma = image[:, :, :3].astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return np.rint(luma)[:, :, None].astype(np.uint8)


def _fit(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    scale = max(height / image.shape[0], width / image.shape[1])
    rows, columns = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR), np.uint8)
    top, left = (rows - height) // 2, (columns - width) // 2
    cut = resized[top : top + height, left : left + width]
    return cut[:, :, None] if cut.ndim == 2 else cut


def _is_integer(text: str) -> bool:
    return text.strip().lstrip("-").isdigit()
