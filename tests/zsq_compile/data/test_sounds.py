"""WAVE files of every coding, with headers built here; rates; windows. The oracle is the signal that was written."""

import struct
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from zsq_compile.data.dataset import load_data
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.sounds import as_windows, read_sound, resample, takes_sound, wanted_rate
from zsq_compile.errors import ConfigError

HEARD = InputSpec(name="audio", shape=(None, 400), dtype=np.dtype(np.float32), kind="waveform")
STATE = InputSpec(name="h", shape=(None, 2, 5), dtype=np.dtype(np.float32), kind="state")
RATE = InputSpec(name="sr", shape=(), dtype=np.dtype(np.int64), kind="rate", usual=(8000.0,), batch_axis=None)


def tone(frames: int = 1000, channels: int = 1, rate: int = 16000, hertz: float = 440.0) -> NDArray[np.float64]:
    time = np.arange(frames)[:, None] / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time + np.arange(channels))


def encoded(signal: NDArray[np.float64], coding: int, bits: int) -> bytes:
    if coding == 3:
        return signal.astype(f"<f{bits // 8}").tobytes()
    whole = np.rint(signal * (1 << (bits - 1))).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    return (
        whole.astype("<i8").tobytes()
        if bits > 32
        else b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in whole.reshape(-1))
    )


def write(
    path: Path,
    signal: NDArray[np.float64],
    coding: int = 1,
    bits: int = 16,
    rate: int = 16000,
    *,
    extended: bool = False,
) -> Path:
    channels = signal.shape[1]
    body = encoded(signal, coding, bits)
    form = struct.pack("<HHIIHH", 0xFFFE if extended else coding, channels, rate, 0, channels * bits // 8, bits)
    if extended:
        form += struct.pack("<HHIH", 22, bits, 0, coding) + bytes(14)
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of an odd size, in front of what matters
    chunks = odd + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("coding", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_coding_gives_the_signal(tmp_path: Path, coding: int, bits: int, channels: int, extended: bool) -> None:
    signal = tone(channels=channels)
    sound = read_sound(write(tmp_path / "a.wav", signal, coding, bits, 22050, extended=extended))
    assert (sound.rate, sound.wave.shape, sound.wave.dtype) == (22050, (1000, channels), np.float32)
    step = 1e-7 if coding == 3 or bits > 24 else 2.0 ** (1 - bits)
    np.testing.assert_allclose(sound.wave, signal, atol=step)


def test_what_pythons_own_module_writes_is_read(tmp_path: Path) -> None:
    signal = np.rint(32767 * tone(channels=2)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(signal.tobytes())
    sound = read_sound(tmp_path / "a.wav")
    np.testing.assert_array_equal(sound.wave, signal.astype(np.float32) / 32768)
    assert sound.rate == 8000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"OggS" + data[4:], "it is no WAVE file"),
        (lambda data: data[:30], "has no format, or no samples"),
        (lambda data: data.replace(b"fmt \x10\0\0\0\x01\0", b"fmt \x10\0\0\0\x06\0"), "holds A-law of 16 bits"),
        (lambda data: data.replace(b"fmt \x10\0\0\0\x01\0\x01", b"fmt \x10\0\0\0\x01\0\0"), "0 channels"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path: Path, change, words: str) -> None:
    path = write(tmp_path / "a.wav", tone())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"a\.wav.*{words}"):
        read_sound(path)


def test_a_size_that_was_never_filled_in_ends_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    data = path.read_bytes()
    place = data.index(b"data") + 4
    path.write_bytes(data[:place] + struct.pack("<I", 0xFFFFFFFF) + data[place + 4 :])
    assert len(read_sound(path).wave) == 1000


@pytest.mark.parametrize(("old", "new"), [(48000, 16000), (44100, 16000), (8000, 16000), (16000, 22050)])
def test_resampling_keeps_what_both_rates_hold_and_nothing_above(old: int, new: int) -> None:
    low = tone(old // 4, rate=old, hertz=1000.0).astype(np.float32)
    made = resample(low, old, new)
    assert abs(len(made) - new // 4) <= 1
    inner = slice(200, -200)
    np.testing.assert_allclose(made[inner], tone(len(made), rate=new, hertz=1000.0)[inner], atol=2e-3)
    if new < old:
        high = tone(old // 4, rate=old, hertz=0.6 * new).astype(np.float32)  # folds back where nothing filters
        assert float(np.abs(resample(high, old, new)[inner]).max()) < 0.01


def test_a_recording_becomes_windows_of_the_networks_length(tmp_path: Path) -> None:
    signal = tone(1000, channels=2)
    mono = signal.mean(1).astype(np.float32)
    sound = read_sound(write(tmp_path / "a.wav", signal, 3, 32))
    flat = as_windows(sound, HEARD, 16000)
    np.testing.assert_allclose(flat, mono[:800].reshape(2, 400), atol=1e-6)
    np.testing.assert_array_equal(as_windows(sound, replace(HEARD, shape=(None, 1, 400)), 16000)[:, 0], flat)
    both = as_windows(sound, replace(HEARD, shape=(None, 400, 2)), 16000)
    np.testing.assert_allclose(both.reshape(800, 2), signal[:800], atol=1e-6)
    first = as_windows(sound, replace(HEARD, shape=(None, 2, 400)), 16000)
    np.testing.assert_allclose(first[0].T, signal[:400], atol=1e-6)
    short = as_windows(sound, replace(HEARD, shape=(None, 1600)), 16000)
    assert short.shape == (1, 1600) and not short[:, 1000:].any()
    bits = as_windows(sound, replace(HEARD, dtype=np.dtype(np.int16)), 16000)
    np.testing.assert_allclose(bits, 32768 * flat, atol=0.51)
    with pytest.raises(ConfigError, match="takes 2 channels of sound, and the recording has 3"):
        as_windows(replace(sound, wave=np.zeros((500, 3), np.float32)), replace(HEARD, shape=(None, 2, 400)), 16000)


def test_the_rate_is_told_by_an_input_for_it_or_by_names() -> None:
    assert wanted_rate([HEARD]) == 16000
    assert wanted_rate([HEARD, RATE]) == 8000
    assert wanted_rate([HEARD], ["denoiser_48k_v2"]) == 48000
    assert wanted_rate([replace(HEARD, name="wave_22050")]) == 22050
    assert wanted_rate([HEARD], ["resnet18_160k"]) == 16000  # no rate that is in use


def test_what_takes_sound_is_seen_by_kind_or_shape() -> None:
    unknown = replace(HEARD, kind="unknown")
    assert takes_sound(HEARD)
    assert takes_sound(unknown)
    assert takes_sound(replace(unknown, shape=(None, 1, 16000)))
    assert not takes_sound(replace(unknown, shape=(None, 64)))
    assert not takes_sound(replace(HEARD, kind="features"))
    assert not takes_sound(replace(unknown, shape=(None, 80, 300)))


def test_folders_of_sounds_give_windows_with_the_class_of_their_file(tmp_path: Path) -> None:
    for name, frames in (("no", 900), ("yes", 400)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.wav", tone(frames))
    data = load_data(tmp_path, [HEARD, STATE], None)
    feeds, labels = next(data.batches(9))
    assert feeds["audio"].shape == (3, 400)
    assert labels is not None and labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(feeds["h"], np.zeros((3, 2, 5)))
    alone = load_data(tmp_path / "yes" / "a.wav", [HEARD], None)
    np.testing.assert_allclose(alone.arrays()["audio"][0], tone(400)[:, 0], atol=1e-4)


def test_sounds_for_a_network_that_takes_none_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    table = InputSpec(name="row", shape=(None, 9), dtype=np.dtype(np.float32))
    for place in (tmp_path, tmp_path / "a.wav"):
        with pytest.raises(ConfigError, match=r"holds sounds, but the model does not take one sound .*row float32"):
            load_data(place, [table], None)


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (16000, 44100), (48000, 16000), (44101, 16000)])
def test_a_tone_is_the_same_tone_at_another_rate(old: int, new: int) -> None:
    made = resample(tone(old // 10, 2, old).astype(np.float32), old, new)
    wanted = tone(len(made), 2, new)
    inner = slice(100, -100)  # the ends know nothing of what is beyond
    assert np.abs(made - wanted)[inner].max() < 1e-3


@pytest.mark.parametrize("rate", [0, 1, 4_000_000_000])
def test_rates_that_no_sound_has_are_refused(tmp_path: Path, rate: int) -> None:
    with pytest.raises(ConfigError, match=f"rate of {rate} Hz"):
        read_sound(write(tmp_path / "a.wav", tone(), rate=rate))
