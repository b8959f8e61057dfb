"""Choose the cheapest set of values to leave in float that keeps what the network is for.

Noise powers of different values add while they are small, so the order of a greedy choice (noise that a step removes,
over the time that it costs) needs each group measured alone only. How far to go along that order is found by joint
measurements, by bisection; and what turns out to bring nothing goes back to integers.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from zsq_compile.config.compile import KeepQuality
from zsq_compile.quantization.placement.judge import Judgement, is_better
from zsq_compile.tasks.task import TaskKind

Groups = frozenset[str]

_FREE = 1e-3  # of the time of the whole: what costs less counts as that much, so that gains are told apart
_CANDIDATES = 48  # of most noise, at each step of the order
_SPARED = 1.05  # of the noise that is allowed: so much is what the last step to integers may bring
_DROPS = 8  # joint measurements of going back to integers
_REACHED = 1.58  # times the noise that is left with everything in float, which no choice betters: 2 dB
BETTER = 1.26  # times less noise, at least, that a choice must bring: 1 dB
_WORTH = 2.0  # times less noise, at least, where the floor cannot be reached: 3 dB


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """What is good enough: signal to noise in dB, and the share of what the network says that is kept."""

    noise_db: float
    kept: float

    @property
    def nsr(self) -> float:
        """Noise-to-signal ratio of the floor."""
        return float(10.0 ** (-self.noise_db / 10.0))


_RUINED_DB, _FINE_DB, _CLASS_DB = 8.0, 25.0, 15.0


def floor_of(kind: TaskKind | None, quality: KeepQuality) -> Floor | None:
    """Return the floor of a kind of task, see docs/decisions/0038; None where none is wanted.

    A class is the largest of many numbers, and survives noise that moves boxes, letters and edges.
    """
    if quality == "off":
        return None
    if quality == "fast":
        return Floor(noise_db=_RUINED_DB, kept=0.75)
    fine = _CLASS_DB if kind in ("classification", "indices") else _FINE_DB
    return Floor(noise_db=fine + 6.0, kept=0.995) if quality == "best" else Floor(noise_db=fine, kept=0.97)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is relieved.

    Attributes:
        groups: closed; empty where nothing is.
        before: the network with none of them.
        after: the network with all of them, on the same samples.
        limit: the network with every group relieved; None where nobody had to look.

    """

    groups: Groups
    before: Judgement
    after: Judgement
    limit: Judgement | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """Finds the cheapest closed set of groups that meets a floor.

    Attributes:
        all_groups: everything that can be relieved.
        close: adds what must follow.
        price: time of a run with some groups relieved, in any unit.
        measure: judges a network with some groups relieved.
        most: largest price; None for any.

    """

    all_groups: Groups
    close: Callable[[Set[str]], Groups]
    price: Callable[[Set[str]], float]
    measure: Callable[[Set[str]], Judgement]
    most: float | None = None

    def find(self, floor: Floor, noise: Callable[[], Mapping[str, float]]) -> Choice:
        """Find the set; ``noise`` measures what each group brings alone, and is asked only where that is needed."""
        before = self.measure(frozenset())
        nothing = Choice(groups=frozenset(), before=before, after=before)
        if meets(before, floor) or not self.all_groups:
            return nothing
        limit = self.measure(self.all_groups)
        goal = _reachable(floor, before, limit)
        if goal is None:
            return Choice(groups=frozenset(), before=before, after=before, limit=limit)
        alone = noise()
        path = self.order(alone)
        groups, after = self._along(path, goal, before)
        if groups:
            groups, after = self._drop(groups, after, goal, alone)
        if not groups or not is_better(after, before, quieter=BETTER):
            return Choice(groups=frozenset(), before=before, after=before, limit=limit)
        return Choice(groups=groups, before=before, after=after, limit=limit)

    def order(self, noise: Mapping[str, float]) -> list[Groups]:
        """Line up closed sets, each within the next, by what a step removes over what it costs."""
        chosen: Groups = frozenset()
        path: list[Groups] = []
        time = self.price(chosen)
        least = max(time * _FREE, 1e-9)
        while chosen != self.all_groups:
            left = sorted(self.all_groups - chosen, key=lambda group: -noise.get(group, 0.0))[:_CANDIDATES]
            best: tuple[float, Groups, float] | None = None
            for group in left:
                closed = self.close(chosen | {group})
                cost = self.price(closed)
                if self.most is not None and cost > max(self.most, time):
                    continue
                gain = sum(noise.get(one, 0.0) for one in closed - chosen)
                worth = gain / max(cost - time, least)
                if best is None or worth > best[0]:
                    best = worth, closed, cost
            if best is None:
                break
            _, chosen, time = best
            path.append(chosen)
        return path or [self.all_groups]  # no slower than the float network, where all else is

    def _along(self, path: list[Groups], goal: Floor, before: Judgement) -> tuple[Groups, Judgement]:
        """Take the first set of a path that meets the goal, by bisection; the last one where none does."""
        if not path:
            return frozenset(), before
        low, high = -1, len(path) - 1
        best = self.measure(path[high])
        if not meets(best, goal):
            return path[high], best
        while high - low > 1:
            middle = (low + high) // 2
            tried = self.measure(path[middle])
            low, high, best = (low, middle, tried) if meets(tried, goal) else (middle, high, best)
        return path[high], best

    def _drop(
        self, groups: Groups, after: Judgement, goal: Floor, noise: Mapping[str, float]
    ) -> tuple[Groups, Judgement]:
        """Bring back to integers what costs time and brings nothing, dearest first."""
        allowed = Floor(noise_db=min(goal.noise_db, after.noise_db) - 0.2, kept=min(goal.kept, after.kept or 1.0))
        for _ in range(_DROPS):
            time, slack = self.price(groups), allowed.nsr - after.nsr
            savings = []
            for group in groups:
                rest = self.close(groups - {group})
                lost = sum(noise.get(one, 0.0) for one in groups - rest)
                saved = time - self.price(rest)
                if rest < groups and saved > time * _FREE and lost <= max(slack, 0.0) * _SPARED:
                    savings.append((saved / max(lost, allowed.nsr * 1e-3), sorted(rest)))
            if not savings:
                break
            rest = frozenset(max(savings)[1])
            tried = self.measure(rest)
            if not meets(tried, allowed):
                break
            groups, after = rest, tried
        return groups, after


def meets(judged: Judgement, floor: Floor) -> bool:
    """Tell whether a network is as good as a floor asks for."""
    loud = judged.noise_db < floor.noise_db and not judged.decides
    chance = 1.0 / judged.count if judged.count else 0.0  # of few, one may change by chance
    return not loud and (judged.kept is None or judged.kept + chance >= floor.kept)


def _reachable(floor: Floor, before: Judgement, limit: Judgement) -> Floor | None:
    """Lower a floor that no choice meets; None where what can be had is not worth it."""
    kept = floor.kept if limit.kept is None else min(floor.kept, limit.kept)
    noise_db = floor.noise_db
    if limit.nsr * _REACHED > floor.nsr:
        noise_db = Judgement(nsr=limit.nsr * _REACHED).noise_db
        if not is_better(limit, before, quieter=_WORTH):
            return None
    goal = Floor(noise_db=noise_db, kept=kept)
    return None if meets(before, goal) else goal
