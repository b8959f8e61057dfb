import pytest

from zsq_compile import progress
from zsq_compile.progress import Clock, Silent


class Watcher(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class FakeTime:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_the_deadline_leaves_time_for_what_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", FakeTime())
    watcher = Watcher()
    timer = Clock(watcher, started=90.0)
    timer.seconds["calibrate"] = 4.0
    assert timer.deadline(None) is None
    assert timer.deadline(60.0) == 90.0 + 60.0 - 7.0
    assert watcher.warnings == []
    assert timer.deadline(15.0) == 98.0
    assert len(watcher.warnings) == 1 and "15 s was used up" in watcher.warnings[0]
