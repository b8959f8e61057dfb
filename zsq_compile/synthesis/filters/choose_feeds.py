"""Which samples of a set a filter changes."""

import torch
from torch import Tensor


def choose_feeds(count: int, feed: int, share: float) -> Tensor:
    """Choose a share, 0 to 1, of whole feeds of ``feed`` samples, spread evenly over a set: (count,) truth values."""
    places = torch.arange(count) // feed
    return ((places + 1) * share).floor() > (places * share).floor()
