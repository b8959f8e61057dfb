"""What holds for all tests: no test waits for a deadline, and no file of a test depends on the clock."""

import math

import pytest
from hypothesis import settings

from zsq_compile.stages import export

settings.register_profile("house", deadline=None)  # no timed assertions: a busy machine is no failure
settings.load_profile("house")


@pytest.fixture(autouse=True)
def no_speed_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks are slower in integers, and by how much differs from run to run."""
    monkeypatch.setattr(export, "_SLOWER", math.inf)
