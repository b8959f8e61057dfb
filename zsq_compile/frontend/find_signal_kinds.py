"""What float inputs take that are data: pictures, waveforms, spectrograms, sequences of vectors, rows of tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from passes.operators import CONVOLUTIONS, RECURRENT
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputKind, InputSpec
from zsq_compile.frontend.kind_clues import (
    BANDS,
    BINS,
    FRAMES_AND_BANDS,
    ODD_BANDS,
    SHORTEST_SOUND,
    WAVEFORM_LENGTH,
    names_audio,
    names_picture,
    names_rate,
    names_spectrum,
)
from zsq_compile.frontend.trace_input import (
    Reading,
    constant_of,
    first_layers,
    trace,
    vector_axis,
    weight_shape,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a data input takes, why, and how many steps its sequences have; None of what is no sequence."""

    kind: InputKind
    reason: str
    steps: int | None = None


_FEWEST_FRAMES = 10
_SLIDING = 5  # length of a first kernel of one row that pictures do not have
_LONG = 64  # steps of a recording of several channels
_MOST_CHANNELS = 64  # of recordings: sensors, electrodes
_WAVES = 0.8  # share of a layer's rows that are sinusoids where it is a Fourier transform
_CONCENTRATED = 0.9  # of a row's energy in a few neighbouring bins
_SHORTEST_ROW = 64


def find_signal_kind(value: ir.Value, spec: InputSpec, inputs: Sequence[InputSpec]) -> Told:
    """Tell what a data input takes, and why."""
    told = _find(value, spec, inputs)
    longest = max((int(size or 1) for size in spec.shape[1:]), default=1)
    return replace(told, steps=longest) if told.steps is None and told.kind in ("waveform", "spectrogram") else told


def _find(value: ir.Value, spec: InputSpec, inputs: Sequence[InputSpec]) -> Told:
    if not np.issubdtype(spec.dtype, np.floating) and not spec.is_image:
        return _whole_numbers(value, spec)
    layers = first_layers(value)
    if spec.is_image:
        return _as_spectrogram_of_picture(layers, spec) or Told(kind="picture", reason=_picture_reason(spec))
    inner = tuple(int(size or 1) for size in spec.shape[1:])
    wide = tuple(size for size in inner if size > 1)
    if len(wide) == 0:
        return Told(kind="table", reason="one number for each sample")
    if len(wide) == 1:
        return _of_vectors(layers, spec, wide[0], inputs)
    if len(wide) == 2:
        return _of_sequences(layers, spec, inner)
    if len(inner) == 3 and set(inner[1:]) & BINS and inner[0] <= 4:
        return Told(kind="spectrogram", reason=f"planes of {max(set(inner[1:]) & BINS)} bins")
    return Told(kind="features", reason=f"maps of {inner[0]} channels")


def _whole_numbers(value: ir.Value, spec: InputSpec) -> Told:
    """Whole numbers that are no ids, lengths and masks: samples of sound, or counts."""
    inner = tuple(int(size or 1) for size in spec.shape[1:])
    if spec.dtype == np.int16 and max(inner, default=1) >= SHORTEST_SOUND:
        return Told(kind="waveform", reason=f"{max(inner)} numbers of 16 bits")
    if any(is_standard(one.node, "Cast") for one in trace(value)) and len(inner) == 1:
        return Told(kind="table", reason=f"{inner[0]} whole numbers that are computed with")
    return Told(kind="unknown", reason=f"{spec.dtype} that index no table and mask nothing")


def _picture_reason(spec: InputSpec) -> str:
    return f"{spec.channels} channel{'s' if spec.channels > 1 else ''}, {spec.layout}"


def _as_spectrogram_of_picture(layers: Sequence[Reading], spec: InputSpec) -> Told | None:
    """Tell a spectrogram of the shape of a picture: by its name, its sides, or what reads it."""
    sides = (spec.height, spec.width)
    named = names_spectrum(spec.name) or (names_audio(spec.name) and spec.channels == 1)
    if named and BANDS & set(sides):
        return Told(kind="spectrogram", reason=f"its name, and {max(BANDS & set(sides))} bands")
    if spec.channels != 1:
        return None
    for one in layers:
        if is_standard(one.node, "BatchNormalization"):
            scale = constant_of(one.node.inputs[1])
            if scale is not None and scale.size in sides and scale.size in BANDS:
                return Told(kind="spectrogram", reason=f"{scale.size} bands are normalized each by itself")
    if named or sides[0] == sides[1] or names_picture(spec.name):
        return Told(kind="spectrogram", reason="its name") if named else None
    return _by_sides(layers, sides)


def _by_sides(layers: Sequence[Reading], sides: tuple[int, int]) -> Told | None:
    """Tell a spectrogram, or a recording of several channels, by sides that differ and by the first kernel."""
    pair = (max(sides), min(sides))
    if sides in FRAMES_AND_BANDS or pair in FRAMES_AND_BANDS:
        return Told(kind="spectrogram", reason=f"{pair[0]} frames of {pair[1]} bands, a usual size")
    kernel = next((weight_shape(one.node)[2:] for one in layers if is_standard(one.node, *CONVOLUTIONS)), ())
    if len(kernel) == 2 and min(kernel) == 1 and max(kernel) >= _SLIDING and pair[1] <= _MOST_CHANNELS:
        reason = f"a kernel of {max(kernel)} slides along {pair[0]} steps of {pair[1]} channels"
        return Told(kind="waveform", reason=reason)
    if len(kernel) == 2 and max(kernel) >= 3 and pair[1] in kernel:
        return Told(kind="spectrogram", reason=f"its first kernel spans all of {pair[1]} bands")
    if pair[1] in ODD_BANDS:
        return Told(kind="spectrogram", reason=f"{pair[0]} frames of {pair[1]} bands")
    if len(kernel) == 2 and max(kernel) >= 2 * min(kernel) and pair[1] in BANDS:
        return Told(kind="spectrogram", reason=f"{pair[1]} bands, and a first kernel of {kernel[0]} x {kernel[1]}")
    if pair[1] in BANDS and pair[0] % 4 in (1, 3) and pair[0] > pair[1]:
        return Told(kind="spectrogram", reason=f"{pair[0]} frames, an odd number, of {pair[1]} bands")
    return None


def _of_vectors(layers: Sequence[Reading], spec: InputSpec, length: int, inputs: Sequence[InputSpec]) -> Told:
    """Vectors: waveforms, or rows of a table."""
    for one in layers:
        rows = fourier_rows(one)
        if rows is not None:
            return Told(kind="waveform", reason=f"its first layer is a Fourier transform of {rows}")
    first = layers[0] if layers else None
    if first is not None and is_standard(first.node, "STFT", "DFT"):
        return Told(kind="waveform", reason=f"{first.node.op_type} reads it")
    rated = any(names_rate(one.name) for one in inputs)
    if rated or (names_audio(spec.name) and length >= SHORTEST_SOUND):
        reason = "a sampling rate is given beside it" if rated else f"its name, and {length} samples"
        return Told(kind="waveform", reason=reason)
    if first is not None and is_standard(first.node, *CONVOLUTIONS):
        kernel = max(weight_shape(first.node)[2:], default=1)
        if kernel > 1:
            return Told(kind="waveform", reason=f"a kernel of {kernel} slides along {length} numbers")
    if first is not None and _reads_whole(first, length):
        return Told(kind="table", reason=f"{first.node.op_type} weighs each of {length} numbers by itself")
    if length >= WAVEFORM_LENGTH:
        return Told(kind="waveform", reason=f"{length} numbers in a row")
    if first is not None and is_standard(first.node, *RECURRENT):
        return Told(kind="features", reason=f"one vector of {length} at a time")
    return Told(kind="table", reason=f"a row of {length} numbers")


def _reads_whole(reading: Reading, length: int) -> bool:
    """Whether a layer has a weight for each number of a vector."""
    if is_standard(reading.node, "BatchNormalization"):
        scale = constant_of(reading.node.inputs[1])
        return scale is not None and scale.size == length
    if not is_standard(reading.node, "Gemm", "MatMul"):
        return False
    return length in weight_shape(reading.node)


def _of_sequences(layers: Sequence[Reading], spec: InputSpec, inner: tuple[int, ...]) -> Told:
    """Two axes: spectrograms, recordings of several channels, sequences of vectors."""
    first = next((one for one in layers if not is_standard(one.node, "InstanceNormalization")), None)
    wide = [size for size in inner if size > 1]
    vector = _vector_size(first, wide)
    steps = wide[0] if vector == wide[1] else wide[1]
    if names_spectrum(spec.name) or (names_audio(spec.name) and vector in BANDS):
        return Told(kind="spectrogram", reason=f"its name, {steps} frames of {vector}", steps=steps)
    if vector in ODD_BANDS and steps >= _FEWEST_FRAMES:
        return Told(kind="spectrogram", reason=f"{steps} frames of {vector} bands", steps=steps)
    if first is not None and is_standard(first.node, *CONVOLUTIONS):
        kernel = weight_shape(first.node)[2:]
        along = max(kernel, default=1)
        if along > 1 and vector <= _MOST_CHANNELS and steps >= max(_LONG, vector):
            reason = f"a kernel of {along} slides along {steps} steps of {vector} channels"
            return Told(kind="waveform", reason=reason, steps=steps)
    return Told(kind="features", reason=f"{steps} vectors of {vector}", steps=steps)


def _vector_size(reading: Reading | None, wide: Sequence[int]) -> int:
    """Which of two sizes is that of a vector: the one that the first layer weighs together; else the last."""
    if reading is not None and reading.value.shape is not None:
        axis = vector_axis(reading)
        size = reading.value.shape[axis] if axis is not None and axis < len(reading.value.shape) else None
        if isinstance(size, int) and size in wide:
            return size
    return wide[-1]


def fourier_rows(reading: Reading) -> str | None:
    """Describe the rows of a layer that are cosines and sines under a window; None where they are not.

    Almost all of a row's energy lies in a few neighbouring bins then, and the bins of the rows differ.
    """
    if not is_standard(reading.node, "Conv", "Gemm", "MatMul"):
        return None
    weight = constant_of(reading.node.inputs[1])
    if weight is None or weight.ndim < 2:
        return None
    if is_standard(reading.node, "Conv"):
        rows = weight.reshape(len(weight), -1)
    else:
        turned = is_standard(reading.node, "Gemm") and reading.node.attributes.get_int("transB", 0) == 1
        rows = weight if turned else weight.reshape(-1, weight.shape[-1]).T
    if rows.shape[1] < _SHORTEST_ROW or len(rows) < _SHORTEST_ROW // 2 or rows.size > 1 << 24:
        return None
    power = np.abs(np.fft.rfft(rows.astype(np.float64), 2 * rows.shape[1])) ** 2
    live = power.sum(1) > 1e-12 * power.sum(1).max(initial=1e-300)
    power = power[live]
    peaks, bins = power.argmax(1), np.arange(power.shape[1])
    near = np.abs(bins - peaks[:, None]) <= 6  # the main lobe of a Hann window, at twice the resolution
    share = (power * near).sum(1) / power.sum(1)
    if len(peaks) and (share >= _CONCENTRATED).mean() >= _WAVES and len(set(peaks)) >= len(peaks) // 4:
        return f"{rows.shape[1]} samples in {len(rows)} rows of cosines and sines"
    return None
