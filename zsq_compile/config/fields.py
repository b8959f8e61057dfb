"""What a field of a configuration says about itself: its bounds, its option, its key in a file.

    samples: Annotated[int | None, Bounds(low=1), Option(panel=DATA, default="from the effort")] = None

A note is Bounds, a tuple of all values that there are, where the type does not say them, or an Option.
The command line, the reader of configuration files, the reference pages and ``check_fields`` are made from that. What a
field is for stands once as well, in its class's docstring under Attributes; the first sentence there is the option's
help. Fields of the same name in a base class lend their description to a class that has none.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from zsq_compile.config.checks import Bounds, require_choice, require_number
from zsq_compile.errors import ConfigError

PRECISION, DATA, INPUT, RESULT, RUN = "Precision", "Calibration data", "Network input", "Result", "Run"
"""Panels of ``--help``, and parts of the reference page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """How the command line offers a field.

    Attributes:
        panel: of ``--help``; None stands in front of all panels.
        names: with their dashes. Empty takes the field's name.
        metavar: what follows the option. None takes it from the field's type.
        default: what holds where the option is left out, where the field's default does not say so.
        read: from a word of the command line, or a text in a configuration file, to the field's value; of a mapping, to
            one entry of it. ConfigError says what is wanted.
        words: that the option takes in place of the field's values; the caller knows what they stand for.
        value: of the field where the option, which then takes no word, is given.
        help: where the option says something else than the field does.
        at_once: what to do when the option is seen, before all others.

    """

    panel: str | None = None
    names: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None
    read: Callable[[str], Any] | None = None
    words: tuple[str, ...] = ()
    value: object = None
    help: str | None = None
    at_once: Callable[[bool], None] | None = None


Count = Annotated[int, Bounds(low=1)]
Positive = Annotated[float, Bounds(above=0.0)]
Weight = Annotated[float, Bounds(low=0.0)]
Share = Annotated[float, Bounds(low=0.0, high=1.0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field, read off its class.

    Attributes:
        owner: the class.
        name: of the field.
        section: table of the configuration file that it stands in; empty at the top level.
        kind: its type, without None and notes.
        optional: whether None is a value of it.
        default: its value where nothing is given.
        bounds: of its numbers, if it has any.
        choices: all values there are; empty where they cannot be counted.
        option: how the command line offers it, if it does.

    """

    owner: type
    name: str
    section: str
    kind: Any
    optional: bool
    default: object
    bounds: Bounds | None
    choices: tuple[object, ...]
    option: Option | None

    @property
    def key(self) -> str:
        """Its place in a configuration file."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def words(self) -> tuple[str, ...]:
        """Its option, as it is written, and the short forms."""
        names = self.option.names if self.option else ()
        return names or (f"--{self.name.replace('_', '-')}",)

    @property
    def word(self) -> str:
        """Its option, as it is written."""
        return self.words[0].partition("/")[0]

    @property
    def parameter(self) -> str:
        """Its option, as Python spells it."""
        return self.word.lstrip("-").replace("-", "_")

    @property
    def is_flag(self) -> bool:
        """Whether its option takes no word."""
        return self.kind is bool or (
            self.option is not None and (self.option.value is not None or "/" in self.words[0])
        )

    @property
    def description(self) -> str:
        """What it is for; empty where Python was told to drop docstrings."""
        texts = (_attributes(kind).get(self.name, "") for kind in self.owner.__mro__)
        return next(filter(None, texts), "")

    @property
    def summary(self) -> str:
        """What its option is for."""
        if self.option is not None and self.option.help is not None:
            return self.option.help
        first = self.description.partition(". ")[0].removesuffix(".")
        return f"{first[:1].upper()}{first[1:]}." if first else ""

    def check(self, value: object) -> None:
        """Raise ConfigError where the value is none of the choices, or out of bounds."""
        if value is None and self.optional:
            return
        if self.choices:
            require_choice(self.key, value, self.choices)
        elif self.bounds is not None:
            require_number(self.key, value, self.bounds, whole=self.kind is int)

    def parsed(self, given: Any) -> Any:
        """Turn what was given for the option into the field's value; ConfigError names the option."""
        option = self.option or Option()
        if option.value is not None:
            return option.value
        if option.read is None:
            return tuple(given) if get_origin(self.kind) is tuple else given
        try:
            return dict(map(option.read, given)) if get_origin(self.kind) is Mapping else option.read(given)
        except ConfigError as error:
            raise ConfigError(f"{self.word}: {error}") from error


def settings_of(owner: type, section: str = "") -> tuple[Setting, ...]:
    """Return the fields of a dataclass, in its order."""
    return tuple(_setting(owner, section, one.name, one.type, one.default) for one in fields(owner))


def check_fields(config: Any, section: str = "") -> None:
    """Check every field of a configuration by itself; ConfigError names the first that is wrong."""
    for one in settings_of(type(config), section):
        one.check(getattr(config, one.name))


def _setting(owner: type, section: str, name: str, kind: Any, default: object) -> Setting:
    kind, optional, notes = _unwrapped(kind)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Setting(
        owner=owner,
        name=name,
        section=section,
        kind=kind,
        optional=optional,
        default=default,
        bounds=next((note for note in notes if isinstance(note, Bounds)), None),
        choices=next((note for note in notes if isinstance(note, tuple)), choices),
        option=next((note for note in notes if isinstance(note, Option)), None),
    )


def _unwrapped(kind: Any) -> tuple[Any, bool, tuple[object, ...]]:
    """Take a type apart: itself, whether None is allowed, and the notes on it."""
    if get_origin(kind) is Annotated:
        inner, optional, notes = _unwrapped(kind.__origin__)
        return inner, optional, (*kind.__metadata__, *notes)
    if get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
        rest = tuple(one for one in get_args(kind) if one is not NoneType)
        inner, _, notes = _unwrapped(rest[0]) if len(rest) == 1 else (reduce(or_, rest), True, ())
        return inner, True, notes
    return kind, False, ()


@cache
def _attributes(owner: type) -> dict[str, str]:
    """Descriptions under Attributes in the docstring of a class, each in one line."""
    _, _, listed = inspect.cleandoc(owner.__doc__ or "").partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
