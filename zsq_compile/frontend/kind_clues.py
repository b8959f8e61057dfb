"""What names and sizes of inputs usually stand for: evidence, of which the graph has the last word.

Names are those that exporters and published networks use: Hugging Face (input_ids, attention_mask, token_type_ids,
past_key_values, input_features), NeMo and sherpa (audio_signal, length, x_lens, cached_*), PaddleDetection (im_shape,
scale_factor), Silero (sr, state), torch.nn.LSTM (h0, hn).
"""

import re
from itertools import pairwise

MASK_WORDS = frozenset({"mask", "masks", "attnmask", "attentionmask", "padmask"})
HIDING_WORDS = frozenset({"padding", "pad", "padmask"})
"""Of a mask that says where nothing is, as ``key_padding_mask`` of torch does."""

LENGTH_WORDS = frozenset({"len", "lens", "length", "lengths", "seqlen", "seqlens"})
RATE_WORDS = frozenset({"sr", "fs", "samplerate", "samplingrate"})
RATE_PHRASES = ("sample_rate", "sampling_rate", "samplerate")
TYPE_WORDS = frozenset({"segment", "segments", "seg", "type", "types"})
POSITION_WORDS = frozenset({"position", "positions", "pos"})
STATE_WORDS = frozenset(
    (
        *("state", "states", "hidden", "hiddens", "cache", "cached", "caches", "past", "memory", "mem", "carry", "rnn"),
        *("h", "c", "hx", "cx", "h0", "c0", "lstm", "gru"),
    )
)
ENCODER_WORDS = frozenset({"encoder", "enc"})
"""Of what a decoder reads of another network (``encoder_hidden_states``): data, whatever has its shape."""

SIZE_WORDS = frozenset({"shape", "size", "sizes", "info"})
SIZED_WORDS = frozenset({"im", "image", "img", "target", "orig", "original", "input"})
"""What a size is of: ``im_shape``, ``orig_target_sizes``, ``im_info``."""

SCALE_PHRASES = ("scale_factor", "scalefactor", "im_scale")
AUDIO_WORDS = frozenset({"audio", "wav", "wave", "waveform", "waveforms", "pcm", "speech", "sound", "signal"})
SPECTRUM_WORDS = frozenset(
    (
        *("mel", "mels", "spec", "spect", "spectra", "spectrum", "spectrogram", "spectrograms", "mfcc", "mfccs"),
        *("fbank", "fbanks", "filterbank", "filterbanks", "logmel", "melspec", "stft", "cqt"),
    )
)
SPECTRUM_PARTS = ("spectro", "mfcc", "fbank", "filterbank", "melspec", "logmel", "mel_spec", "input_features")
PICTURE_WORDS = frozenset({"image", "images", "img", "imgs", "picture", "pictures", "pixel", "pixels", "photo", "gray"})
AUDIO_PARTS = ("audio", "waveform", "speech")

BANDS = frozenset({10, 12, 13, 20, 23, 24, 26, 32, 39, 40, 64, 80, 96, 128, 201, 229, 257})
"""Bands of spectrograms and coefficients of cepstra."""

ODD_BANDS = frozenset({10, 13, 20, 23, 26, 39, 40, 80, 129, 161, 201, 229, 257, 321, 513, 1025})
"""Those that sides of pictures and of embeddings hardly ever are: 2^k + 1 are the bins of a Fourier transform."""

BINS = frozenset({65, 129, 161, 201, 257, 321, 401, 513, 1025})
"""Bins of a Fourier transform alone."""

FRAMES_AND_BANDS = frozenset(
    (
        *((49, 10), (49, 20), (49, 40), (98, 40), (99, 40), (101, 40), (98, 64), (96, 64), (76, 32), (61, 13)),
        *((98, 10), (99, 10), (101, 10), (32, 40), (51, 40), (100, 40), (1001, 64), (1024, 128), (998, 128)),
    )
)
"""Shapes of published networks: DS-CNN, MLPerf Tiny, honk, TC-ResNet, VGGish, YAMNet, openWakeWord, PANNs, AST."""

WAVEFORM_LENGTH = 4096
"""From here on, a vector is taken for samples of a waveform where nothing speaks against it."""

SHORTEST_SOUND = 160
"""Ten milliseconds at 16 kHz: shorter pieces of sound are not given to networks."""

DECORATIONS = frozenset(
    (
        *("in", "out", "input", "output", "new", "next", "prev", "previous", "past", "present", "cur", "current"),
        *("updated", "init", "initial", "final", "last", "n", "i", "o", "values", "value", "of", "the"),
    )
)
"""Words that tell the two ends of a state apart, and nothing else."""

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def split_name(name: str) -> tuple[str, ...]:
    """Split a name into words and numbers: ``past_key_values.0.key`` -> past, key, values, 0, key; ``stateN`` too."""
    return tuple(part.lower() for part in _PARTS.findall(name.rsplit("/", 1)[-1].rsplit("::", 1)[-1]))


def names_mask(name: str) -> bool:
    """Whether a name is that of a mask."""
    return bool(MASK_WORDS & set(split_name(name))) or name.lower().endswith("mask")


def names_length(name: str) -> bool:
    """Whether a name is that of a length, or of a number of frames."""
    words = split_name(name)
    counted = {("num", what) for what in ("frames", "samples", "tokens", "steps")} & set(pairwise(words))
    return bool(LENGTH_WORDS & set(words) or counted)


def names_rate(name: str) -> bool:
    """Whether a name is that of a sampling rate."""
    words = split_name(name)
    return bool(RATE_WORDS & set(words)) or words == ("rate",) or any(one in name.lower() for one in RATE_PHRASES)


def names_spectrum(name: str) -> bool:
    """Whether a name is that of spectrograms or cepstra."""
    return bool(SPECTRUM_WORDS & set(split_name(name))) or any(part in name.lower() for part in SPECTRUM_PARTS)


def names_picture(name: str) -> bool:
    """Whether a name is that of pictures."""
    return bool(PICTURE_WORDS & set(split_name(name)))


def names_audio(name: str) -> bool:
    """Whether a name is that of sound."""
    return bool(AUDIO_WORDS & set(split_name(name))) or any(part in name.lower() for part in AUDIO_PARTS)


def names_size(name: str) -> bool:
    """Whether a name is that of a picture's size."""
    words = set(split_name(name))
    return bool(words & SIZE_WORDS) and bool(words & SIZED_WORDS)


def names_scale(name: str) -> bool:
    """Whether a name is that of the factor that a picture was resized by."""
    return any(one in name.lower() for one in SCALE_PHRASES)


def related_names(one: str, other: str) -> bool:
    """Whether two names differ only in what tells the ends of a state apart, such as h and hn, or r1i and r1o."""
    left, right = (_core(split_name(name)) for name in (one, other))
    if left and left == right and any(word.isalpha() for word in left):
        return True
    first, second = one.lower(), other.lower()
    if first[:-1] == second[:-1] and first.endswith("i") and second.endswith("o"):
        return len(first) > 1
    return second == f"{first}n" or (first.endswith("0") and second == f"{first[:-1]}n")


def _core(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(word for word in words if word not in DECORATIONS))
