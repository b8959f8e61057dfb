"""Draw the same procedural pictures once in a process: compilations of tests want them again and again."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[int, int, int, int, torch.Generator], Tensor]

_MOST_NUMBERS = 1 << 20  # of one set of pictures
_MOST_SETS = 400


def remember(draw: Draw) -> Draw:
    """Return a function with the same pictures, and the same generator behind them."""
    made: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor]] = OrderedDict()

    def remembered(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> Tensor:
        key = (count, channels, height, width, str(rng.device), rng.get_state().numpy().tobytes())
        if key not in made:
            pictures = draw(count, channels, height, width, rng)
            if pictures.numel() > _MOST_NUMBERS:
                return pictures
            made[key] = pictures.clone(), rng.get_state()
            if len(made) > _MOST_SETS:
                made.popitem(last=False)
            return pictures
        pictures, state = made[key]
        rng.set_state(state)
        return pictures.clone()

    return remembered
