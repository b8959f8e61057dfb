"""Real data of the user's: the one reader behind ``--data``, ``--calib``, ``--calib-data`` and ``--like``.

Accepted forms, one or several:

1. a picture, in any format that Pillow reads; a sound, a WAVE file;
2. ``FILE.npy``, for a network with one input;
3. ``FILE.npz`` with arrays that are named like the model's inputs, or with ``images``, or with a single array where the
   network has a single input; with ``labels`` (N) or without;
4. ``DIR/labels.csv`` with a file name and a class on each line (a header line is allowed), files beside it;
5. ``DIR/CLASS/FILE``, one folder per class, numbered in sorted order unless the folders' names are numbers already;
6. ``DIR/FILE``: files without labels;
7. ``DIR/test_data_set_N/input_K.pb``, ONNX's own test data, which go in as they are;
8. files with boxes, masks or texts, in the forms that ``annotated_folders.find_annotated`` lists.

Arrays go in as they are, but for bytes: uint8 arrays for an input that takes pictures as floats are RGB pictures of any
size, and are prepared like picture files. Axes are brought into order where one order alone fits. A recurrent state may
be left out, and one sample of an input stands for all. Only the batch at hand is in memory as float.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.annotated_arrays import take_annotations
from zsq_compile.data.annotated_folders import find_annotated
from zsq_compile.data.annotations import Annotations, join_annotations, place_truths
from zsq_compile.data.array_files import Arrays, by_name, is_array, open_array
from zsq_compile.data.folders import find_files
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.layouts import arrange_samples, can_be_left_out, convert
from zsq_compile.data.onnx_test_data import read_test_data, sets_of_test_data
from zsq_compile.data.pictures import Pixels, Preparation, as_pictures, is_picture, read_picture
from zsq_compile.data.preprocessing import Preprocessing, unit_preprocessing
from zsq_compile.data.sounds import as_windows, is_sound, read_sound, takes_sound, wanted_rate
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import Truth, TruthKind

_LABELS, _IMAGES = "labels", "images"
FORMS = "a picture, a .wav, an .npy or an .npz file, or a folder of these"
"""What the options take, in words."""

Rows = Sequence[Path | Pixels] | NDArray[Any]
"""Samples of one input: pictures, as files or as pixels, or an array with one sample in each row."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Samples that are made ready batch by batch.

    Attributes:
        samples: by input name; pictures are of the input that ``preparation`` is for.
        labels: class of every sample, (N,) int64, or None.
        preparation: how pictures become input; None when all samples are inputs already.
        annotations: boxes, masks or texts of every sample, or None.

    """

    samples: Mapping[str, Rows]
    labels: NDArray[np.int64] | None
    preparation: Preparation | None
    annotations: Annotations | None = None

    def __len__(self) -> int:
        """Count the samples."""
        return min(len(rows) for rows in self.samples.values())

    def batches(self, size: int) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]]:
        """Yield (inputs by name, labels) for up to ``size`` samples at a time, in the order of the source."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            feeds = {name: self._prepared(name, source[rows]) for name, source in self.samples.items()}
            yield feeds, None if self.labels is None else self.labels[rows]

    @property
    def truth_kind(self) -> TruthKind | None:
        """What kind of labels there are; None without any."""
        return self.annotations.kind if self.annotations is not None else None if self.labels is None else "classes"

    def truths(self, start: int, stop: int) -> list[Truth]:
        """Return what is true of samples from ``start`` to ``stop``, as its input is cut; [] without labels."""
        if self.annotations is None:
            return [] if self.labels is None else [int(label) for label in self.labels[start:stop]]
        part = self.annotations.part(slice(start, stop))
        if self.preparation is None:
            return place_truths(part)
        spec = self.preparation.spec
        return place_truths(part, self.samples[spec.name][start:stop], (spec.height, spec.width))

    def arrays(self, preprocessing: Preprocessing | None = None) -> dict[str, NDArray[Any]]:
        """Return all inputs by name, (count, ...), with pictures prepared so, or as they are prepared already."""
        chosen = self if preprocessing is None else self.prepared(preprocessing)
        return next(chosen.batches(len(self)))[0]

    def prepared(self, preprocessing: Preprocessing) -> "Dataset":
        """Return the same with another preprocessing of its pictures, if it has any."""
        if self.preparation is None:
            return self
        return replace(self, preparation=replace(self.preparation, preprocessing=preprocessing))

    def pictures(self) -> list[Pixels]:
        """All pictures as they are, of their own sizes; none where the samples are inputs already."""
        if self.preparation is None:
            return []
        return [_pixels(row) for row in self.samples[self.preparation.spec.name]]

    def first(self, count: int) -> "Dataset":
        """Return the first so many samples."""
        return replace(
            self,
            samples={name: rows[:count] for name, rows in self.samples.items()},
            labels=None if self.labels is None else self.labels[:count],
            annotations=None if self.annotations is None else self.annotations.part(slice(count)),
        )

    def every(self, step: int) -> "Dataset":
        """Return one sample in so many, of all parts of the source."""
        return replace(
            self,
            samples={name: rows[::step] for name, rows in self.samples.items()},
            labels=None if self.labels is None else self.labels[::step],
            annotations=None if self.annotations is None else self.annotations.part(slice(None, None, step)),
        )

    def _prepared(self, name: str, rows: Rows) -> NDArray[Any]:
        if self.preparation is None or name != self.preparation.spec.name:
            return np.asarray(rows)
        return np.stack([self.preparation(_pixels(row)) for row in rows])


def _pixels(row: Path | Pixels) -> Pixels:
    return read_picture(row) if isinstance(row, Path) else row


def image_of(inputs: Sequence[InputSpec]) -> InputSpec | None:
    """Return the input that pictures are for: the only one that takes any; None where there is none."""
    found = [spec for spec in inputs if spec.is_image]
    return found[0] if len(found) == 1 else None


def load_data(
    path: Path | Sequence[Path],
    inputs: Sequence[InputSpec],
    preprocessing: Preprocessing | None,
    *,
    limit: int | None = None,
    option: str = "--data",
    partly: bool = False,
    words: Sequence[str] = (),
) -> Dataset:
    """Open what lies at one or several places, in the forms listed at the head of ``data.dataset``.

    Args:
        path: folders or files.
        inputs: the model's inputs.
        preprocessing: of the image input, if there is one; None takes pixels in [0, 1].
        limit: use the first so many samples only.
        option: what the user wrote the path behind, for messages.
        partly: inputs that pictures or sounds are not for may be missing.
        words: that may tell the rate of sounds, such as the model's name.

    Raises:
        ConfigError: nothing usable is there; the message says what was looked for.

    """
    paths = [path] if isinstance(path, Path) else list(path)
    reader = Reader(inputs=inputs, preprocessing=preprocessing, option=option, partly=partly, words=words)
    dataset = reader.join([reader.read(one) for one in paths])
    return dataset if limit is None else dataset.first(limit)


def take_arrays(
    arrays: Arrays, inputs: Sequence[InputSpec], what: str, *, option: str = "--calib", partly: bool = False
) -> Dataset:
    """Take arrays as an .npz file holds them; ``what`` is what messages call them."""
    return Reader(inputs=inputs, preprocessing=None, option=option, partly=partly).take(arrays, what)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """Reads for the inputs of one network; see ``load_data``."""

    inputs: Sequence[InputSpec]
    preprocessing: Preprocessing | None
    option: str
    partly: bool
    words: Sequence[str] = ()

    def read(self, path: Path) -> Dataset:
        """Read one place."""
        if path.is_dir():
            return self._folder(path)
        if not path.is_file():
            raise ConfigError(f"{self.option} wants {FORMS}, got {path}, which does not exist")
        return self._rows([(path, None)], path)

    def join(self, parts: Sequence[Dataset]) -> Dataset:
        """Put what lies at several places behind each other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            raise ConfigError(f"{self.option} wants {FORMS}, got nothing")
        if len({(part.preparation is None, *sorted(part.samples)) for part in parts}) > 1:
            raise ConfigError(
                f"{self.option} mixes pictures with arrays that are network inputs already, or arrays for different "
                "inputs: give one kind of them"
            )
        labels = [part.labels for part in parts if part.labels is not None]
        return replace(
            parts[0],
            samples={name: _behind([part.samples[name] for part in parts]) for name in parts[0].samples},
            labels=np.concatenate(labels) if len(labels) == len(parts) else None,
            annotations=join_annotations([part.annotations for part in parts]),
        )

    def take(self, arrays: Arrays, what: str) -> Dataset:
        """Take arrays by the names of inputs, or ``images``, or those that there is one place for alone."""
        names = [spec.name for spec in self.inputs]
        arrays, annotations = take_annotations(arrays, names, what)
        has_labels = _LABELS in arrays and _LABELS not in names
        labels = np.asarray(arrays[_LABELS]).reshape(-1).astype(np.int64) if has_labels else None
        rest = {name: np.asarray(array) for name, array in arrays.items() if not (has_labels and name == _LABELS)}
        image = image_of(self.inputs)
        if image is not None and _IMAGES in rest and image.name not in rest:
            if as_pictures(rest[_IMAGES], image.channels, stacked=True) is None:
                raise ConfigError(
                    f"{what}: {_IMAGES} must be uint8 with shape (N,H,W,C) or (N,H,W), got {arrays[_IMAGES].dtype} "
                    f"{arrays[_IMAGES].shape}; arrays that are ready for the network go under the input's name, "
                    f"{image.name!r}"
                )
            rest = {image.name if name == _IMAGES else name: array for name, array in rest.items()}
        dataset = self._named(by_name(rest, self.inputs), what, stacked=_IMAGES in arrays)
        if (labels is not None and len(labels) != len(dataset)) or not len(dataset):
            counts = sorted({len(dataset)} | (set() if labels is None else {len(labels)}))
            raise ConfigError(f"{what}: wanted as many labels as samples and at least one, got lengths {counts}")
        if annotations is not None and len(annotations.rows) != len(dataset):
            raise ConfigError(
                f"{what}: wanted {annotations.kind} of {len(dataset)} samples, got {len(annotations.rows)}"
            )
        return replace(dataset, labels=labels, annotations=annotations)

    def _named(self, arrays: Arrays, what: str, *, stacked: bool = False) -> Dataset:
        """Take arrays by the names of inputs; bytes for a picture in floats are pictures."""
        image = image_of(self.inputs)
        needed = [spec for spec in self.inputs if not can_be_left_out(spec)]
        missing = [spec.name for spec in needed if spec.name not in arrays]
        if missing and not (self.partly and len(missing) < len(needed)):
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise ConfigError(
                f"{what} has no array for the input {missing[0]!r}, only {', '.join(arrays) or 'none'}; wanted the "
                f"model's inputs ({wanted})" + ("" if image is None else ", or images and labels")
            )
        pictures = None
        if image is not None and image.name in arrays and np.issubdtype(image.dtype, np.floating):
            pictures = as_pictures(arrays[image.name], image.channels, stacked=stacked)
        if pictures is not None and image is not None:
            return self._with_others({image.name: pictures}, len(pictures), arrays, what)
        present = [spec for spec in self.inputs if spec.name in arrays or not self.partly]
        fitting = arrange_samples(arrays, present, what)
        samples = {spec.name: convert(fitting[spec.name], spec, what) for spec in present}
        return Dataset(samples=samples, labels=None, preparation=None)

    def _with_others(self, rows: Mapping[str, Rows], count: int, arrays: Arrays, what: str) -> Dataset:
        """Add what there is for the inputs that take no pictures."""
        (name,) = rows
        others = [one for one in self.inputs if one.name != name and (one.name in arrays or not self.partly)]
        spec = next(one for one in self.inputs if one.name == name)
        counting = replace(spec, shape=(None,), kind="unknown", batch_axis=0)
        given = {**{key: array for key, array in arrays.items() if key != name}, name: np.zeros(count)}
        fitting = arrange_samples(given, [counting, *others], what)
        kept = {one.name: convert(fitting[one.name], one, what) for one in others}
        preparation = None
        if not isinstance(rows[name], np.ndarray):
            preparation = Preparation(spec=spec, preprocessing=self.preprocessing or unit_preprocessing(spec))
        return Dataset(samples={**rows, **kept}, labels=None, preparation=preparation)

    def _folder(self, path: Path) -> Dataset:
        if sets := sets_of_test_data(path):
            arrays = arrange_samples(read_test_data(sets, self.inputs), self.inputs, str(path))
            samples = {spec.name: convert(arrays[spec.name], spec, str(path)) for spec in self.inputs}
            return Dataset(samples=samples, labels=None, preparation=None)
        for kind in self._kinds():
            if (annotated := find_annotated(path, kind)) is not None:
                files, annotations = annotated
                dataset = self._rows([(file, None) for file in files], path)
                if len(dataset) != len(files):  # a sound gives several windows, and one text is not of any of them
                    raise ConfigError(
                        f"{path} has a text for each file, but files hold several samples: cut them first"
                    )
                return replace(dataset, labels=None, annotations=annotations)
            if entries := find_files(path, kind):
                return self._rows(entries, path)
        for kind, word in ((is_picture, "picture"), (is_sound, "sound")):
            if find_files(path, kind):
                raise self._unsuitable(path, word)
        raise ConfigError(
            f"{self.option} {path} has neither a labels.csv (file,label), nor a folder of pictures, sounds or arrays "
            "for each class, nor such files, nor test_data_set_*/input_*.pb"
        )

    def _kinds(self) -> list[Callable[[Path], bool]]:
        """Files to look for in a folder, what the network takes first."""
        pictures = [is_picture] if image_of(self.inputs) else []
        sounds = [is_sound] if any(map(takes_sound, self.inputs)) else []
        return [*pictures, *sounds, is_array]

    def _rows(self, entries: Sequence[tuple[Path, int | None]], place: Path) -> Dataset:
        """Read files of one kind."""
        first = entries[0][0]
        if is_picture(first):
            spec = self._only(image_of(self.inputs), place, "picture")
            dataset = self._with_others({spec.name: [file for file, _ in entries]}, len(entries), {}, str(place))
            counts = [1] * len(entries)
        elif is_sound(first):
            heard = [spec for spec in self.inputs if takes_sound(spec)]
            spec = self._only(heard[0] if len(heard) == 1 else None, place, "sound")
            rate = wanted_rate(self.inputs, self.words)
            parts = [as_windows(read_sound(file), spec, rate) for file, _ in entries]
            counts = list(map(len, parts))
            dataset = self._with_others({spec.name: np.concatenate(parts)}, sum(counts), {}, str(place))
        elif is_array(first):
            read = [self.take(open_array(file), str(file)) for file, _ in entries]
            dataset, counts = self.join(read), list(map(len, read))
        else:
            raise ConfigError(f"{self.option} wants {FORMS}, got {place}, which is none of them")
        given = [label for _, label in entries if label is not None]
        labels = np.repeat(np.asarray(given, np.int64), counts) if len(given) == len(entries) else dataset.labels
        return replace(dataset, labels=labels)

    def _only(self, spec: InputSpec | None, place: Path, word: str) -> InputSpec:
        """Return the input that files are for, if nothing else has to be given."""
        if spec is None or not (self.partly or all(one is spec or can_be_left_out(one) for one in self.inputs)):
            raise self._unsuitable(place, word)
        return spec

    def _unsuitable(self, place: Path, word: str) -> ConfigError:
        shapes = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in self.inputs)
        return ConfigError(
            f"{self.option} {place} holds {word}s, but the model does not take one {word} as input ({shapes}); "
            "give an .npz file with an array for each input, or test_data_set_*/input_*.pb, instead"
        )


def _behind(parts: Sequence[Rows]) -> Rows:
    if all(isinstance(rows, np.ndarray) for rows in parts):
        return np.concatenate([np.asarray(rows) for rows in parts])
    return [row for rows in parts for row in rows]
