"""Sounds as waveforms: speech, music, noise and silence at the levels of recordings, cut into consecutive windows."""

import torch
from torch import Tensor

from zsq_compile.synthesis.signals.background import draw_noises
from zsq_compile.synthesis.signals.music import draw_music
from zsq_compile.synthesis.signals.segments import uniform
from zsq_compile.synthesis.signals.speech import draw_speech

RATE = 16000.0
"""Samples a second, where nothing tells another rate."""

WINDOWS = 16
"""Consecutive windows that a sound is cut into, at most."""

_LONGEST = 2.0  # seconds of them
_PATTERN = ("speech", "music", "speech", "noises", "speech", "speech", "silence", "speech", "music", "noises")
_QUIET, _LOUD = 0.006, 0.2  # deviation of a sound at full scale 1: 30 dB
_FLOOR, _SILENT = (1e-5, 3e-2), (1e-6, 1e-3)  # noise beneath a sound, relative to it; and that of silence


def draw_sounds(count: int, length: int, rng: torch.Generator, kind: str = "sound", rate: float = RATE) -> Tensor:
    """(count, length) windows of sounds, in [-1, 1].

    Short windows follow one another in a sound, up to 16 of them, as frames of a recording do; long ones have a sound
    each. The deviation of a sound is spread evenly on a logarithmic scale over 30 dB, and peaks are cut at full scale.

    Args:
        count: of windows.
        length: of a window.
        rng: all randomness.
        kind: "speech", "music", "noises", "silence", or "sound" for a mixture of them, half of which is speech.
        rate: samples a second.

    """
    each = max(min(WINDOWS, int(_LONGEST * rate) // length), 1)
    sounds, whole = -(-count // each), each * length
    kinds = [_PATTERN[number % len(_PATTERN)] for number in range(sounds)] if kind == "sound" else [kind] * sounds
    made = torch.zeros(sounds, whole, device=rng.device)
    for one in dict.fromkeys(kinds):
        chosen = torch.tensor([number for number, other in enumerate(kinds) if other == one], device=rng.device)
        made[chosen] = _draw(one, len(chosen), whole, rate, rng)
    return made.reshape(sounds * each, length)[:count].clamp(-1.0, 1.0)


def _draw(kind: str, count: int, length: int, rate: float, rng: torch.Generator) -> Tensor:
    """Sounds of one kind at their levels, with noise beneath."""
    noise = draw_noises(count, length, rate, rng)
    if kind == "silence":
        return noise * uniform((count, 1), *_SILENT, rng, log=True)
    level = uniform((count, 1), _QUIET, _LOUD, rng, log=True)
    if kind == "noises":
        return noise * level
    made = (draw_speech if kind == "speech" else draw_music)(count, length, rate, rng)
    return (made + noise * uniform((count, 1), *_FLOOR, rng, log=True)) * level
