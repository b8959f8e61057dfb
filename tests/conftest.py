"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("house", deadline=None)  # no timed assertions: a busy machine is no failure
settings.load_profile("house")
