"""What holds for all tests: no test waits for a deadline.

Compilations of tests have ``speed_trials=False``: whether a tiny network is slower in integers differs from run to run.
"""

from hypothesis import settings

settings.register_profile("house", deadline=None)  # no timed assertions: a busy machine is no failure
settings.load_profile("house")
