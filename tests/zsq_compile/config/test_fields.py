"""What a field says about itself, and the check of all fields."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from zsq_compile.cli.options import CONFIGURED
from zsq_compile.config.checks import Bounds
from zsq_compile.config.fields import Count, Option, Share, check_fields, settings_of
from zsq_compile.config.units import parse_seconds
from zsq_compile.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A base.

    Attributes:
        count: how many. None is as many
            as there are.
        share: of them: ``all``, or fewer.

    """

    count: Annotated[Count | None, Option(panel="Many", metavar="N")] = None
    share: Share = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived(Base):
    """A class of its own.

    Attributes:
        share: another share.
        width: bits of it
        time: seconds.

    """

    share: Share = 0.25
    width: Annotated[int, (8, 4)] = 8
    kind: Literal["a", "b"] | None = None
    time: Annotated[Annotated[float, Bounds(above=0.0, hint="in seconds")] | None, Option(read=parse_seconds)] = None
    on: Annotated[bool, Option(names=("--on/--off", "-o"))] = False

    def __post_init__(self) -> None:
        check_fields(self, "part")


def test_a_field_is_read_through_its_notes() -> None:
    count, share, width, kind, time, on = settings_of(Derived, "part")
    assert (count.kind, count.optional, count.bounds, count.key) == (int, True, Bounds(low=1), "part.count")
    assert (count.word, count.parameter, count.option) == ("--count", "count", Option(panel="Many", metavar="N"))
    assert (share.kind, share.optional, share.default) == (float, False, 0.25)
    assert (width.choices, kind.choices, kind.optional) == ((8, 4), ("a", "b"), True)
    assert (time.kind, time.bounds) == (float, Bounds(above=0.0, hint="in seconds"))
    assert (on.word, on.words, on.parameter, on.is_flag) == ("--on", ("--on/--off", "-o"), "on", True)


def test_a_description_is_that_of_the_class_or_of_its_base() -> None:
    told = {one.name: (one.description, one.summary) for one in settings_of(Derived)}
    assert told["count"] == ("how many. None is as many as there are.", "How many.")
    assert told["share"] == ("another share.", "Another share.")
    assert told["width"] == ("bits of it", "Bits of it.")
    assert told["kind"] == ("", "")
    assert settings_of(Base)[1].summary == "Of them: ``all``, or fewer."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 0}, "part.count must be a whole number of at least 1, got 0"),
        ({"count": True}, "part.count must be a whole number of at least 1, got True"),
        ({"count": 2.0}, "part.count must be a whole number of at least 1, got 2.0"),
        ({"share": 1.5}, "part.share must be a finite number of at least 0 and of at most 1, got 1.5"),
        ({"share": None}, "part.share must be a finite number"),
        ({"share": "0.5"}, "part.share must be a finite number of at least 0 and of at most 1, got '0.5'"),
        ({"width": 5}, "part.width must be one of 8, 4, got 5"),
        ({"kind": "c"}, "part.kind must be one of a, b, got 'c'"),
        ({"time": 0.0}, "part.time must be a finite number above 0, got 0.0; in seconds"),
        ({"time": float("inf")}, "part.time must be a finite number above 0, got inf"),
    ],
)
def test_each_field_is_checked_by_itself(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Derived(**given)
    assert words in str(caught.value)
    Derived(count=1, share=1.0, width=4, kind="a", time=1)


def test_what_an_option_reads_is_refused_with_its_name() -> None:
    time = settings_of(Derived)[4]
    assert time.parsed("2m") == 120.0
    with pytest.raises(ConfigError, match=r"--time: .* got 'soon'"):
        time.parsed("soon")


@pytest.mark.parametrize("name", CONFIGURED)
def test_the_help_of_every_option_is_a_sentence_that_stands_by_itself(name: str) -> None:
    summary = CONFIGURED[name].summary
    assert 10 < len(summary) < 320 and summary[0].isupper() and summary.endswith(".")
    assert not summary.startswith(("Likewise", "See ", "None"))
