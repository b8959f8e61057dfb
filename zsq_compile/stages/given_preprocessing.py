"""The preprocessing that needs no search: the user gave it, or the file remembers it from the compilation before."""

import numpy as np

from zsq_compile.config.compile import InputConfig
from zsq_compile.data.input_spec import InputKind, InputSpec, main_input
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily, given_preprocessing
from zsq_compile.data.remembered import read_remembered
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress

_BYTES = 255.0
_LARGEST_STD = 4.0  # of pixels in 0..1, whose own is at most a half
_LARGEST_MEAN = 4.0  # the same; beyond 1 lies a mean of inputs that never reach 0

_LEVEL: dict[InputKind, SignalFamily] = {"waveform": "levelled", "spectrogram": "log_mel", "features": "embedding"}
"""Families with mean 0 and deviation 1."""

_REACH = 3.0  # deviations that their samples reach, about
Numbers = tuple[float, ...]


def read_preprocessing(loaded: LoadedModel, config: InputConfig, progress: Progress) -> Preprocessing | None:
    """Preprocessing of the first picture, or where none is taken, of the first signal; None when it is to be found.

    What the user gave wins over what the file remembers.

    Raises:
        ConfigError: there is no input that it could be of, or it does not fit that.

    """
    spec = main_input(loaded.inputs)
    if config.mean is None and config.input_range is None:
        return None if spec is None else _remembered(loaded, spec, progress)
    if spec is None:
        shapes = ", ".join(f"{one.name!r} {one.dtype} {one.shape} ({one.kind})" for one in loaded.inputs)
        raise ConfigError(
            f"--mean, --std and --input-range are of pictures and signals, and the network takes none ({shapes}): "
            "leave them out, and give samples as they are with --calib FILE.npz"
        )
    return _given(spec, config, progress)


def _remembered(loaded: LoadedModel, spec: InputSpec, progress: Progress) -> Preprocessing | None:
    """Return what zsq-compile has left in the file's metadata, and say so."""
    read = read_remembered({entry.key: entry.value for entry in loaded.original.metadata_props}, spec)
    if read is not None:
        progress.note(f"input {spec.name!r}: {read.describe()}; --mean and --std, or --input-range, win over it")
    return read


def _given(spec: InputSpec, config: InputConfig, progress: Progress) -> Preprocessing:
    if not spec.is_image:
        return _given_signal(spec, config)
    mean, std = config.mean, config.std
    if mean is not None and std is not None:
        mean, std = _in_unit_pixels(spec, mean, std, progress)
    try:
        given = given_preprocessing(spec.channels, mean, std, config.input_range, layout=spec.layout or "NCHW")
    except ValueError as error:
        raise ConfigError(f"--mean and --std do not fit the input {spec.name!r}: {error}") from error
    ends = [(level - one) / by for level in (0.0, 1.0) for one, by in zip(given.mean, given.std, strict=True)]
    if np.issubdtype(spec.dtype, np.integer) and not (min(ends) >= -0.5 and 1.0 < max(ends) <= _BYTES + 0.5):
        raise ConfigError(
            f"the input {spec.name!r} takes {spec.dtype}, pixels as they are, which the network scales itself; those "
            f"given would run from {min(ends):.4g} to {max(ends):.4g}: leave --mean, --std and --input-range out"
        )
    return given


def _in_unit_pixels(spec: InputSpec, mean: Numbers, std: Numbers, progress: Progress) -> tuple[Numbers, Numbers]:
    """Return mean and deviation of pixels in 0..1; numbers of pixels in 0..255 are brought there, and that is said.

    A mean above 1 can be of nothing else where the deviation is at least 1, which one of bytes is.
    """
    if max(std) <= _LARGEST_STD and (max(mean) <= 1.0 or max(std) < 1.0):
        if max(mean) > _LARGEST_MEAN:
            raise ConfigError(_say_mixed(mean, std))
        return mean, std
    scaled = tuple(one / _BYTES for one in mean), tuple(one / _BYTES for one in std)
    texts = [",".join(f"{one:.4g}" for one in numbers) for numbers in (mean, std, *scaled)]
    if (max(mean) > 1.0 or not any(mean)) and min(std) >= 1.0 and max(*mean, *std) <= _BYTES:
        progress.warn(
            f"input {spec.name!r}: --mean {texts[0]} --std {texts[1]} are taken as numbers of pixels in 0..255, which "
            f"is --mean {texts[2]} --std {texts[3]} of pixels in 0..1"
        )
        return scaled
    raise ConfigError(
        f"--mean {texts[0]} --std {texts[1]} are like numbers of pixels in 0..255, and those of pixels in 0..1 are "
        f"wanted: give --mean {texts[2]} --std {texts[3]} if the network takes pixels normalised so, or --input-range "
        "with what black and white become"
    )


def _say_mixed(mean: Numbers, std: Numbers) -> str:
    given, by, scaled = (
        ",".join(f"{one:.4g}" for one in numbers) for numbers in (mean, std, [one / _BYTES for one in mean])
    )
    return (
        f"--mean {given} is of pixels in 0..255 and --std {by} of pixels in 0..1, and both are wanted of pixels in "
        f"0..1: give --mean {scaled} --std {by}, or --input-range with what black and white become"
    )


def _given_signal(spec: InputSpec, config: InputConfig) -> Preprocessing:
    """Mean and deviation of a signal's samples, as the network takes them, or their range.

    A waveform at full scale fills the range; of other signals three deviations do.
    """
    family: SignalFamily = _LEVEL.get(spec.kind, "rows" if spec.kind == "table" else "noise")
    if config.input_range is not None:
        low, high = config.input_range
        middle, half = (low + high) / 2.0, (high - low) / 2.0
        family = "sound" if spec.kind == "waveform" else family
        centre: Numbers = (middle,)
        spread: Numbers = (half if spec.kind == "waveform" else half / _REACH,)
    else:
        centre, spread = config.mean or (0.0,), config.std or (1.0,)
    channels = int(spec.shape[1] or 1) if len(spec.shape) > 1 else 1
    if len(centre) not in (1, channels):
        raise ConfigError(
            f"--mean and --std do not fit the input {spec.name!r}: expected 1 or {channels} numbers, one for each of "
            f"axis 1, got {len(centre)}"
        )
    return Preprocessing(
        name="given",
        mean=tuple(-one / by for one, by in zip(centre, spread, strict=True)),
        std=tuple(1.0 / by for by in spread),
        channel_order="none",
        source="given",
        reason="by the user",
        layout=None,
        family=family,
    )
