"""Which scale and family an input that is no picture has, where no statistics tell: a posterior over what is usual.

Before anything is seen, samples of deviation 1 are the most usual, and sounds at full scale 1. Behind it stands what
the network makes of each (see ``scale_likelihood``).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backends.session import RuntimeModelError
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.synthesis.preprocessing.plan_scan import SCAN_WORK, fill_between, find_chains, plan_scan
from zsq_compile.synthesis.preprocessing.scale_likelihood import WEIGHTS, describe
from zsq_compile.synthesis.preprocessing.trial_costs import count_trial
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork
from zsq_compile.synthesis.preprocessing.watch_scales import Sight, Watched, find_layers, watch_scales

DrawSignals = Callable[[SignalFamily, tuple[int, ...]], NDArray[np.float32]]
"""(family, shape) -> signals of that shape, as ``signals`` draws them."""

_SCALES = tuple(10.0 ** (half / 2) for half in range(-3, 7))  # deviations from 0.03 to 1000
_USUAL = 0.15  # of the probability is that of deviation 1
_SPREAD = 3.2  # of the logarithm of the deviation, otherwise: a factor of 25
_FULL_SCALE, _FREE = 32768.0, 0.02  # of 16 bits; odds of sounds at any other scale
_ALIKE = 0.02  # logarithm of widths that do not depend on the scale
_LEAST = 1e-3  # of the probability of the best

_FAMILIES: dict[str, tuple[tuple[SignalFamily, float, float], ...]] = {
    # family, mean in deviations, prior odds
    "spectrogram": (("log_mel", 0.0, 0.6), ("log_mel", -2.5, 0.25), ("mel", 0.0, 0.15)),
    "cepstrum": (("mfcc", 0.0, 0.6), ("log_mel", 0.0, 0.25), ("log_mel", -2.5, 0.15)),
    "features": (("embedding", 0.0, 0.75), ("positive", 0.0, 0.25)),
    "table": (("rows", 0.0, 0.8), ("positive", 0.0, 0.2)),
}
_FEWEST_BANDS = 20  # of a spectrogram; fewer are cepstral coefficients


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """Signals of a family, times ``gain``, with a mean of ``offset`` of their deviations added before; prior odds."""

    family: SignalFamily
    gain: float
    offset: float
    odds: float

    def preprocessing(self, reason: str) -> Preprocessing:
        """Return it as a preprocessing."""
        return Preprocessing(
            name="standard" if self.gain == 1.0 and self.offset == 0.0 and self.family != "sound" else "scaled",
            mean=(-self.offset,),
            std=(1.0 / self.gain,),
            channel_order="none",
            source="assumed",
            reason=reason,
            layout=None,
            family=self.family,
        )


def usual_guesses(spec: InputSpec, *, transforms: bool = False) -> tuple[Guess, ...]:
    """Return what an input may take, by its kind; none for a kind that is no signal.

    Windows are brought to deviation 1 one by one for networks that see the waveform as it is, hardly ever for those
    that compute its spectrum (``transforms``).
    """
    if spec.kind == "waveform":
        rest = [10.0 ** (half / 2) for half in range(-3, 9) if half != 0]
        free = [Guess(family="sound", gain=gain, offset=0.0, odds=_FREE / len(rest)) for gain in rest]
        levelled = Guess(family="levelled", gain=1.0, offset=0.0, odds=0.03 if transforms else 0.3)
        whole = Guess(family="sound", gain=1.0, offset=0.0, odds=0.87 if transforms else 0.6)
        return whole, levelled, Guess(family="sound", gain=_FULL_SCALE, offset=0.0, odds=0.08), *free
    kind = "cepstrum" if spec.kind == "spectrogram" and min(spec.batched(1)[-2:]) < _FEWEST_BANDS else spec.kind
    spread = [math.exp(-0.5 * (math.log(scale) / _SPREAD) ** 2) for scale in _SCALES]
    odds = [(1.0 - _USUAL) * one / sum(spread) + (_USUAL if scale == 1.0 else 0.0)
            for scale, one in zip(_SCALES, spread, strict=True)]  # fmt: skip
    return tuple(
        Guess(family=family, gain=scale, offset=offset, odds=share * one)
        for family, offset, share in _FAMILIES.get(kind, ())
        for scale, one in zip(_SCALES, odds, strict=True)
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looked:
    """What a network makes of every guess.

    Attributes:
        guesses: that are usual for the input.
        seen: of each guess; None where the network cannot be run on it.
        deviations: root of the mean square around the mean, of the network's input under each guess.
        watched: layers and head.
        too_large: whether nothing was tried, because that would take too long.

    """

    guesses: tuple[Guess, ...]
    seen: tuple[Sight | None, ...]
    deviations: tuple[float, ...]
    watched: Watched
    too_large: bool = False


def look_at_guesses(network: TrialNetwork, draw: DrawSignals, most_work: int = SCAN_WORK) -> Looked | None:
    """Try what is usual for an input; None where its kind is no signal.

    Args:
        network: with the input in question.
        draw: signals to try.
        most_work: that trying takes, see ``count_trial``.

    """
    spec, watched = network.spec, find_layers(network.model, network.spec.name)
    guesses = usual_guesses(spec, transforms=watched.transforms)
    if not guesses:
        return None
    batch, gains = int(spec.shape[0] or 1), [guess.gain for guess in guesses]
    kinds = [(guess.family, guess.offset) for guess in guesses]
    chains = find_chains(kinds, gains, [guess.odds for guess in guesses])
    cost = count_trial(network.model, watched.values)
    scan = plan_scan(chains, cost, math.prod(spec.batched(1)), batch, most_work)
    shape = spec.batched(batch if scan is None else scan.samples)
    samples = {family: draw(family, shape) for family in dict.fromkeys(guess.family for guess in guesses)}
    deviations = tuple(guess.gain * float(samples[guess.family].std()) for guess in guesses)

    def feed(guess: Guess) -> Callable[[], NDArray[np.float32]]:
        return lambda: guess.preprocessing("").encode(samples[guess.family])

    seen: list[Sight | None] = [None] * len(guesses)
    if scan is not None and watched.layers:
        tried = sorted(scan.tried)
        with contextlib.suppress(RuntimeModelError):
            found = watch_scales(network, watched, [feed(guesses[one]) for one in tried], scan.together)
            for number, sight in zip(tried, found, strict=True):
                seen[number] = sight
            if len(tried) < len(guesses):
                seen = fill_between(chains, gains, seen)
    return Looked(
        guesses=guesses, seen=tuple(seen), deviations=deviations, watched=watched, too_large=scan is None
    )  # fmt: skip


def infer_scale(network: TrialNetwork, draw: DrawSignals, most_work: int = SCAN_WORK) -> Posterior | None:
    """Infer family and scale of an input without statistics; None where its kind is no signal.

    Args:
        network: with the input in question.
        draw: signals to try.
        most_work: that trying takes, see ``count_trial``; a network that is too large for it has the usual odds.

    """
    looked = look_at_guesses(network, draw, most_work)
    if looked is None:
        return None
    if _is_indifferent(looked):
        best = max(looked.guesses, key=lambda guess: guess.odds)
        usual = best.preprocessing("the network brings any scale to its own")
        return Posterior.certain(replace(usual, source="inferred"))
    told = any(one is not None for one in looked.seen)
    reason = "the usual, and how wide it makes the network's layers and decisions" if told else "the usual"
    reason += ": the network is too large for all scales to be tried" if looked.too_large else ""
    weights = weigh(looked, WEIGHTS)
    kept = [
        (guess, float(one)) for guess, one in zip(looked.guesses, weights, strict=True) if one >= _LEAST * max(weights)
    ]
    return Posterior.of([guess.preprocessing(reason) for guess, _ in kept], [one for _, one in kept])


def weigh(looked: Looked, weights: Sequence[float]) -> NDArray[np.float64]:
    """Probability of each guess: its odds times its likelihood under the weights of ``describe``."""
    odds = np.log([guess.odds for guess in looked.guesses])
    logs = np.array([-math.inf if one is None else describe(one, looked.watched) @ weights for one in looked.seen])
    total = odds + logs if np.isfinite(logs).any() else odds
    likely = np.exp(total - total.max())
    chances: NDArray[np.float64] = likely / likely.sum()
    return chances


def _is_indifferent(looked: Looked) -> bool:
    """Whether the first layer sees the same at all scales, as behind a normalisation of each sample."""
    first, offset = looked.guesses[0].family, looked.guesses[0].offset
    pairs = zip(looked.guesses, looked.seen, strict=True)
    widths = [one.first for guess, one in pairs if one is not None and (guess.family, guess.offset) == (first, offset)]
    # the smallest scales drown in what such layers add to the variance
    widths = widths[len(widths) // 3 :]
    return len(widths) > 2 and max(widths) - min(widths) < _ALIKE
