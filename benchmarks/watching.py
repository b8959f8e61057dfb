"""Watching a generator at work: what the network was fed in each turn, how long it took, what a bare pass takes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.module import TorchGraph, Visit
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.losses import wasserstein
from zsq_compile.synthesis.probe import layer_targets, measure_moments

Feeds = dict[str, Tensor]

_WARM = 2  # turns that are not counted
_LOOKS = 40  # at most, over the whole run


def statistics_loss(teacher: TorchGraph, layers: Sequence[BatchNorm], feeds: Mapping[str, Tensor]) -> float:
    """Mean over layers of the mean over channels of the Wasserstein distance, of all samples as one, in float32."""
    measured = measure_moments(teacher, layers, feeds, 16)
    pairs = zip(measured, layer_targets(layers, teacher.device), strict=True)
    return float(torch.stack([wasserstein(one, target).mean() for one, target in pairs]).mean())


def bare_seconds(teacher: TorchGraph, pieces: Sequence[Feeds]) -> float:
    """Seconds of forward and backward pass of the whole network, to its inputs only, of the sum of its outputs."""
    leaves = [{name: value.detach().requires_grad_() for name, value in piece.items()} for piece in pieces]
    started = time.perf_counter()
    for piece in leaves:
        with reduced_precision(teacher.device):
            outputs = teacher.run(piece)
        total = torch.stack([value.float().sum() for value in outputs.values()]).sum()
        torch.autograd.grad(total, list(piece.values()))
    return time.perf_counter() - started


class Watch:
    """A Progress that stops its clock after every turn, and then measures what the turn did.

    Attributes:
        pairs: images, seconds of the turn, and seconds of a bare pass on the same images.
        curve: seconds since the start, and the loss of the whole set as it was then.
        kept: the set at each point of the curve, on request.

    """

    def __init__(self, teacher: TorchGraph, layers: Sequence[BatchNorm], count: int, turns: int, keep: bool) -> None:
        self.pairs: list[tuple[int, float, float]] = []
        self.curve: list[tuple[float, float]] = []
        self.kept: list[Feeds] = []
        self._teacher, self._layers, self._count, self._turns, self._keep = teacher, layers, count, turns, keep
        self._seen: list[Feeds] = []
        self._latest: list[Feeds] = []
        self._clock = 0.0
        self._mark = 0.0
        self._done = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note what any TorchGraph is fed while it is to be differentiated, and start the clock."""
        plain = TorchGraph.run

        def run(
            graph: TorchGraph,
            feeds: Mapping[str, Tensor],
            outputs: Sequence[str] | None = None,
            *,
            replace: Mapping[str, Tensor] | None = None,
            visit: Visit | None = None,
        ) -> dict[str, Tensor]:
            if torch.is_grad_enabled():
                self._seen.append({name: value.detach() for name, value in feeds.items()})
            return plain(graph, feeds, outputs, replace=replace, visit=visit)

        TorchGraph.run = run  # type: ignore[method-assign]
        self._mark = time.perf_counter()
        try:
            yield
        finally:
            TorchGraph.run = plain  # type: ignore[method-assign]

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """See Progress.stage."""
        yield lambda turns: self._turn(turns, total or 1)

    def note(self, text: str) -> None:
        """See Progress.note."""

    def detail(self, text: str) -> None:
        """See Progress.detail."""

    def warn(self, text: str) -> None:
        """See Progress.warn."""
        print(text)

    def finish(self, feeds: Feeds) -> None:
        """Take the set that came out as the end of the curve."""
        self._clock += time.perf_counter() - self._mark
        self._look(feeds)

    def _turn(self, turns: int, total: int) -> None:
        spent = time.perf_counter() - self._mark
        self._clock += spent
        pieces = self._pieces()
        if turns == 1 and pieces:  # neither the turns that an early end saves, nor one that learns nothing
            self._done += 1
            images = sum(map(_size, pieces))
            parts = -(-self._count // images)
            if len(self.pairs) < self._turns + _WARM:
                self.pairs.append((images, spent, bare_seconds(self._teacher, pieces)))
            self._latest = [*self._latest, _whole(pieces)][-parts:]
            sweep, rest = divmod(self._done, parts)
            if rest == 0 and sweep % max(1, total // parts // _LOOKS) == 0:
                self._look(_whole(self._latest))
        self._seen = []
        self._mark = time.perf_counter()

    def _pieces(self) -> list[Feeds]:
        """Find what one turn fed, without what was computed a second time on the way back."""
        pieces: list[Feeds] = []
        for feeds in self._seen:
            if any(feeds[name].data_ptr() == piece[name].data_ptr() for piece in pieces for name in feeds):
                break
            pieces.append(feeds)
        return pieces

    def _look(self, feeds: Feeds) -> None:
        self.curve.append((self._clock, statistics_loss(self._teacher, self._layers, feeds)))
        if self._keep:
            self.kept.append({name: value.clone() for name, value in feeds.items()})

    def counted(self) -> list[tuple[int, float, float]]:
        """Give the pairs behind those that warm up."""
        return self.pairs[_WARM:]


def _size(feeds: Feeds) -> int:
    return min(len(value) for value in feeds.values())


def _whole(pieces: Sequence[Feeds]) -> Feeds:
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
