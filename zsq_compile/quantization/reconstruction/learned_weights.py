"""Weights whose integer codes are learned: what a gradient sees of them, and the codes that come out in the end.

All start from codes that a closed form chose, so that a learning step of length 0 changes nothing.
"""

import torch
from torch import Tensor, nn

from backends.target import NumberFormat
from zsq_compile.config.compile import LearnedRounding

_STRETCH = 0.1
_INSIDE = 0.02


class LearnedWeight(nn.Module):
    """One weight while its layer is learned.

    Attributes:
        logits: what decides the codes, in the shape of the weight.
        growth: natural logarithm of what each channel's step has grown by, broadcastable to the weight; None where
            steps are not learned. Steps of depthwise layers differ a hundredfold, so they move by shares of themselves.

    """

    def __init__(self, logits: Tensor, step: Tensor, number_format: NumberFormat, *, learn_step: bool = True) -> None:
        super().__init__()
        self._low, self._high, self._start = number_format.qmin, number_format.qmax, step
        self.logits = nn.Parameter(logits)
        self.growth: nn.Parameter | None = nn.Parameter(torch.zeros_like(step)) if learn_step else None

    def step(self) -> Tensor:
        """Step of each channel, broadcastable to the weight."""
        return grow(self._start, self.growth)

    def values(self) -> Tensor:
        """Real values with a gradient to ``logits`` and ``step``."""
        raise NotImplementedError

    def codes(self) -> Tensor:
        """Integer codes that stand for them, as floats."""
        raise NotImplementedError

    def regulariser(self, progress: float) -> Tensor | None:
        """Sum of what pushes undecided codes to one side, ``progress`` going from 0 to 1; None where none are."""
        return None

    def unsettled(self) -> float:
        """Share of the codes that the last step has left between two integers."""
        return 0.0


class StraightThrough(LearnedWeight):
    """Codes round(U), with the gradient of U (Esser et al., "Learned Step Size Quantization", ICLR 2020).

    What the forward pass computes is at any time the network that would ship. A code may move by more than one. U
    starts in the middle of its code: where it started on the float weight's side instead, the first noise tipped codes
    that had made up for each other's errors, and depthwise layers came out worse than they went in.
    """

    def __init__(self, codes: Tensor, step: Tensor, number_format: NumberFormat) -> None:
        super().__init__(codes.clone(), step, number_format)

    def values(self) -> Tensor:
        """See LearnedWeight."""
        inside = self.logits.clamp(self._low, self._high)
        return (inside + (inside.round() - inside).detach()) * self.step()

    def codes(self) -> Tensor:
        """See LearnedWeight."""
        return self.logits.detach().round().clamp(self._low, self._high)


class SoftRounding(LearnedWeight):
    """Codes B + h(V) with h the rectified sigmoid (AdaRound, Nagel et al. 2020, equations 21 to 24).

    With ``learn_step`` it is Genie-M (Jeon et al. 2023, section 3.2): B is fixed once, so the step can be learned along
    without changing what is being rounded. B and B + 1 are the start's code and its neighbour towards the float
    weight.
    """

    def __init__(
        self, weight: Tensor, codes: Tensor, step: Tensor, number_format: NumberFormat, *, learn_step: bool
    ) -> None:
        real = weight / step
        base = torch.where(real < codes, codes - 1, codes)
        share = (real - base).clamp(0, 1)
        share = torch.where(codes > base, share.clamp(min=0.5), share.clamp(max=0.5 - _INSIDE))
        share = share.clamp(_INSIDE, 1 - _INSIDE)
        logits = torch.log((share + _STRETCH) / (1 + _STRETCH - share))
        super().__init__(logits, step, number_format, learn_step=learn_step)
        self._base = base

    def _share(self) -> Tensor:
        return ((1 + 2 * _STRETCH) * torch.sigmoid(self.logits) - _STRETCH).clamp(0, 1)

    def values(self) -> Tensor:
        """See LearnedWeight."""
        return (self._base + self._share()).clamp(self._low, self._high) * self.step()

    def codes(self) -> Tensor:
        """See LearnedWeight."""
        return (self._base + (self._share().detach() >= 0.5)).clamp(self._low, self._high)

    def regulariser(self, progress: float) -> Tensor | None:
        """See LearnedWeight: 1 - |2h - 1|^beta with beta from 20 down to 2, after a fifth of the way."""
        if progress < 0.2:
            return None
        beta = 20.0 - 18.0 * (progress - 0.2) / 0.8
        return (1 - (2 * self._share() - 1).abs().pow(beta)).sum()

    def unsettled(self) -> float:
        """See LearnedWeight."""
        share = self._share().detach()
        return float(((share > 0.05) & (share < 0.95)).float().mean())


def grow(start: Tensor, growth: Tensor | None) -> Tensor:
    """Step that has grown: always positive."""
    return start if growth is None else start * growth.exp()


def make_learnable(
    rounding: LearnedRounding, weight: Tensor, codes: Tensor, step: Tensor, number_format: NumberFormat
) -> LearnedWeight:
    """Make a float weight learnable, from integer codes (floats in its shape) and the step of each channel on."""
    if rounding == "lsq":
        return StraightThrough(codes, step, number_format)
    return SoftRounding(weight, codes, step, number_format, learn_step=rounding == "genie-m")
