"""Give every layer a width: the least sum of noise-to-signal ratios that fits into a number of bytes.

This is the multiple-choice knapsack problem (Kellerer, Pferschy and Pisinger 2004, chapter 11), solved by dynamic
programming over bytes. A greedy rule (most noise saved per byte), or a Lagrange multiplier, finds only the choices
on the convex hull; where one layer holds a third of all weights, as a classifier often does, that leaves as many bytes
unused as its next width takes. There are few layers and few widths, so the whole table costs less than one image.

Bytes are counted in units of a 20,000th of the range between the smallest and the largest choice, rounded up for each
layer: a choice never takes more than its budget, and may leave a unit per layer unused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

_CELLS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerOptions:
    """What one layer can be stored as: bytes of its weight in the file, and its NSR (0 or more), by bits."""

    node: str
    size: Mapping[int, int]
    nsr: Mapping[int, float]

    def __post_init__(self) -> None:
        """Refuse options whose widths differ, or none."""
        if not self.size or self.size.keys() != self.nsr.keys():
            raise ValueError(
                f"{self.node} needs the size and the NSR at every number of bits, got {self.size}, {self.nsr}"
            )


class WidthTable:
    """The bits of least NSR for every number of bytes.

    Attributes:
        smallest: bytes of the smallest choice.
        largest: bytes of the largest choice that any number of bytes leads to.

    """

    def __init__(self, layers: Sequence[LayerOptions]) -> None:
        self._layers = [(layer.node, _useful(layer)) for layer in layers]
        self._least = {node: min(size for _, size, _ in options) for node, options in self._layers}
        self.smallest = sum(self._least.values())
        self.largest = sum(max(size for _, size, _ in options) for _, options in self._layers)
        self._unit = max(-(-(self.largest - self.smallest) // _CELLS), 1)
        self._cells = -(-(self.largest - self.smallest) // self._unit) + len(self._layers) + 1
        self._chosen = self._fill()

    def least_nsr(self, budget: int) -> dict[str, int] | None:
        """Bits by node of least NSR within so many bytes; None when even the smallest choice takes more."""
        if budget < self.smallest:
            return None
        cell = min((budget - self.smallest) // self._unit, self._cells - 1)
        bits: dict[str, int] = {}
        for (node, options), chosen in zip(reversed(self._layers), reversed(self._chosen), strict=True):
            width, size, _ = options[chosen[cell]]
            bits[node] = width
            cell -= self._cost(node, size)
        return dict(reversed(bits.items()))

    def by_size(self, count: int) -> list[dict[str, int]]:
        """Different choices from the smallest to the largest, at most so many, at even distances in bytes."""
        budgets = np.linspace(self.smallest, self.smallest + self._unit * (self._cells - 1), count)
        found = (self.least_nsr(int(budget)) for budget in budgets)
        unique = {tuple(choice.items()): choice for choice in found if choice is not None}
        return list(unique.values())

    def _cost(self, node: str, size: int) -> int:
        """Units that a width takes beyond the smallest of its layer."""
        return -(-(size - self._least[node]) // self._unit)

    def _fill(self) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
        """For each layer and number of units, the option to take when the layers before it share what is left."""
        nsr = np.zeros(self._cells)
        table = []
        for node, options in self._layers:
            totals = np.full((len(options), self._cells), np.inf)
            for row, (_, size, own) in enumerate(options):
                cost = self._cost(node, size)
                totals[row, cost:] = nsr[: self._cells - cost] + own
            table.append(totals.argmin(0))
            nsr = totals.min(0)
        return table


def _useful(layer: LayerOptions) -> list[tuple[int, int, float]]:
    """(bits, size, nsr) of the options worth choosing, most bits first.

    More bits for no more bytes always win: a width whose storage is that of a wider one is never chosen. Nor can more
    bits make more noise than fewer do; where a measurement says so, both get the smaller ratio.
    """
    widths = sorted(layer.size)
    ratios = dict(zip(widths, accumulate((layer.nsr[bits] for bits in widths), min), strict=True))
    useful: list[tuple[int, int, float]] = []
    for bits in reversed(widths):
        if not useful or layer.size[bits] < useful[-1][1]:
            useful.append((bits, layer.size[bits], ratios[bits]))
    return useful
