"""Sound files: WAVE in all forms that recorders write, brought to a rate and cut into windows of a network's length.

The form is that of Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991), with
WAVE_FORMAT_IEEE_FLOAT and WAVE_FORMAT_EXTENSIBLE of later years.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError

Wave = NDArray[np.float32]
"""(frames, channels), full scale at -1 and 1."""

USUAL_RATE = 16000
"""In Hz, of networks that hear speech; what is taken where nothing says another rate."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NAMED_RATES = {8: 8000, 16: 16000, 22: 22050, 24: 24000, 32: 32000, 44: 44100, 48: 48000}
_RATE_WORDS = re.compile(
    r"(?<![0-9])(?:(8|16|22|24|32|44|48)k(?:hz)?|(8000|16000|22050|24000|32000|44100|48000))(?![0-9a-z])"
)
_TAPS = 24  # zero crossings of the filter on either side
_CHUNK = 1 << 20  # numbers that are weighed at a time
_LEAST_LENGTH = 256
_LOWEST_RATE, _HIGHEST_RATE = 1000, 1_000_000  # of recordings of sound; beyond is a broken header
_MOST_CHANNELS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sound:
    """A recording: (frames, channels) and its rate in Hz."""

    wave: Wave
    rate: int


def is_sound(path: Path) -> bool:
    """Whether a file's name ends like that of a recording."""
    return path.suffix.lower() in (".wav", ".wave")


def takes_sound(spec: InputSpec) -> bool:
    """Whether an input takes waveforms: said by its kind, or floats in one long row, with few channels or frames."""
    if spec.kind != "unknown":
        return spec.kind == "waveform"
    if spec.is_image or not np.issubdtype(spec.dtype, np.floating) or not 2 <= len(spec.shape) <= 3:
        return False
    return window_length(spec) >= _LEAST_LENGTH and channels_of(spec) <= 2


def window_length(spec: InputSpec) -> int:
    """Frames that the input takes at once: its longest axis beside the batch."""
    return max((int(size or 1) for size in spec.shape[1:]), default=1)


def channels_of(spec: InputSpec) -> int:
    """Channels of an input that takes waveforms."""
    inner = [int(size or 1) for size in spec.shape[1:]]
    return max(int(np.prod(inner)) // max(inner), 1) if inner else 1


def wanted_rate(inputs: Sequence[InputSpec], words: Iterable[str] = ()) -> int:
    """Return the rate in Hz that an input for it, names of inputs or other words on a network tell; or a usual one."""
    told = next((spec.usual for spec in inputs if spec.kind == "rate" and spec.usual), None)
    if told is not None:
        return int(told[0])
    for text in (*(spec.name for spec in inputs), *words):
        found = _RATE_WORDS.search(text.lower())
        if found:
            return _NAMED_RATES[int(found[1])] if found[1] else int(found[2])
    return USUAL_RATE


def read_sound(path: Path) -> Sound:
    """Read a WAVE file: PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64.

    Raises:
        ConfigError: it is none, or holds another coding.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) < 12 or data[:4] not in (b"RIFF", b"RF64") or data[8:12] != b"WAVE":
        raise ConfigError(f"cannot read {path} as a sound: it is no WAVE file; convert it to .wav, PCM of 16 bits")
    form, body = _chunks(data, path)
    coding, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    if coding == _EXTENSIBLE and len(form) >= 26:
        coding = struct.unpack("<H", form[24:26])[0]
    if not (channels and _LOWEST_RATE <= rate <= _HIGHEST_RATE):
        raise ConfigError(
            f"cannot read {path} as a sound: its header says {channels} channels and a rate of {rate} Hz; wanted one "
            f"channel or more and a rate from {_LOWEST_RATE} to {_HIGHEST_RATE} Hz"
        )
    values = _decoded(body, coding, bits, path)
    frames = len(values) // channels
    if not frames:
        raise ConfigError(f"{path} holds no sound: its data are empty")
    wave = values[: frames * channels].reshape(frames, channels)
    if not np.isfinite(wave).all():
        raise ConfigError(f"{path} holds numbers that are no sound (infinite, or not a number)")
    return Sound(wave=wave, rate=rate)


def _chunks(data: bytes, path: Path) -> tuple[bytes, bytes]:
    """Find the format and the samples."""
    found: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])[0]
        found.setdefault(name, data[place + 8 : place + 8 + size])  # a size that was never filled in ends with the file
        place += 8 + size + size % 2
    if len(found.get(b"fmt ", b"")) < 16 or b"data" not in found:
        raise ConfigError(f"cannot read {path} as a sound: it has no format, or no samples")
    return found[b"fmt "], found[b"data"]


def _decoded(body: bytes, coding: int, bits: int, path: Path) -> Wave:
    width = bits // 8
    body = body[: len(body) // max(width, 1) * max(width, 1)]
    match coding, bits:
        case 1, 8:
            return (np.frombuffer(body, np.uint8).astype(np.float32) - 128.0) / np.float32(128.0)
        case 1, 16:
            return np.frombuffer(body, "<i2").astype(np.float32) / np.float32(1 << 15)
        case 1, 24:
            three = np.frombuffer(body, np.uint8).reshape(-1, 3)
            whole = np.zeros((len(three), 4), np.uint8)
            whole[:, 1:] = three
            return (whole.view("<i4")[:, 0] / float(1 << 31)).astype(np.float32)
        case 1, 32:
            return (np.frombuffer(body, "<i4") / float(1 << 31)).astype(np.float32)
        case 3, 32 | 64:
            return np.frombuffer(body, f"<f{width}").astype(np.float32)
    names = {_PCM: "PCM", 2: "ADPCM", _FLOAT: "floats", 6: "A-law", 7: "mu-law", 85: "MP3"}
    raise ConfigError(
        f"cannot read {path} as a sound: it holds {names.get(coding, f'coding {coding}')} of {bits} bits; wanted PCM "
        "of 8, 16, 24 or 32 bits, or floats of 32 or 64: convert it"
    )


def resample(wave: Wave, old: int, new: int) -> Wave:
    """Bring (frames, channels) from one rate to another through a windowed sinc, which keeps what both rates can hold.

    Each frame is the sum of old ones under a Hann-windowed sinc at the lower of both rates, of 24 zero crossings on
    either side (Smith and Gossett 1984); at the ends the outermost frames stand for what is beyond.
    """
    if old == new:
        return wave
    up, down = new // gcd(old, new), old // gcd(old, new)
    count = max(-(-len(wave) * up // down), 1)
    cutoff = min(1.0, new / old)
    reach = int(np.ceil(_TAPS / cutoff))
    offsets = np.arange(-reach + 1, reach + 1)
    apart = offsets[None] - np.arange(min(up, count))[:, None] * down % up / up  # times between old frames recur
    weights = np.sinc(cutoff * apart) * np.cos(np.clip(apart / reach, -1.0, 1.0) * (np.pi / 2)) ** 2
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    longer = np.pad(np.ascontiguousarray(wave.T), ((0, 0), (reach - 1, reach)), mode="edge")
    stretches = sliding_window_view(longer, 2 * reach, axis=1)  # (channels, frames, taps)
    made = np.empty((count, wave.shape[1]), np.float32)
    size = max(_CHUNK // (2 * reach), 1)
    for start in range(0, count, size):
        places = np.arange(start, min(start + size, count))
        taken = stretches[:, places * down // up]
        made[places] = np.einsum("ckt,kt->kc", taken, weights[places % up])
    return made


def as_windows(sound: Sound, spec: InputSpec, rate: int) -> NDArray[Any]:
    """Cut a recording into samples of an input, (windows, ...), one behind the other; a short one is filled with zeros.

    What is left at the end is left out. An input of integers has full scale at 32768.
    """
    channels, length, wave = channels_of(spec), window_length(spec), sound.wave
    mixed = channels == 1 or wave.shape[1] == 1
    wave = resample(wave.mean(1, keepdims=True) if mixed else wave, sound.rate, rate)
    if mixed:
        wave = np.repeat(wave, channels, 1)
    elif wave.shape[1] != channels:
        raise ConfigError(
            f"the input {spec.name!r} takes {channels} channels of sound, and the recording has {wave.shape[1]}: mix "
            "it to one channel, or to as many"
        )
    if len(wave) < length:
        wave = np.concatenate([wave, np.zeros((length - len(wave), channels), np.float32)])
    windows = wave[: len(wave) // length * length].reshape(-1, length, channels)
    shape = spec.batched(len(windows))
    frames_first = channels > 1 and shape[1] == length
    samples = np.ascontiguousarray(windows if frames_first else windows.transpose(0, 2, 1)).reshape(shape)
    return samples if np.issubdtype(spec.dtype, np.floating) else spec.typed(samples * 32768.0)
