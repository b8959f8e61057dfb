"""Conventions of the field for the pixels of a picture, from ``conventions.toml``, each with its prior odds."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import ChannelOrder, Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """A row of ``conventions.toml``; ``mean`` and ``std`` are of pixels in [0, 1], ``bgr`` is a share.

    Without mean and std it is one for gray pictures only.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gray: tuple[float, float]
    odds: float
    bgr: float

    def preprocessing(self, spec: InputSpec, order: ChannelOrder) -> Preprocessing:
        """Return it for an input of 1, 3 or 4 channels; the fourth is as the gray ones are."""
        channels = spec.channels
        rows = [self.gray] if channels == 1 else [*zip(_wide(self.mean), _wide(self.std), strict=True), self.gray]
        return Preprocessing(
            name=self.name,
            mean=tuple(mean for mean, _ in rows[:channels]),
            std=tuple(std for _, std in rows[:channels]),
            channel_order=order,
            layout=spec.layout or "NCHW",
        )


@cache
def all_conventions() -> tuple[Convention, ...]:
    """Read the conventions."""
    text = files(__package__).joinpath("conventions.toml").read_text(encoding="utf-8")
    return tuple(
        Convention(
            name=row["name"],
            mean=tuple(row.get("mean", ())),
            std=tuple(row.get("std", ())),
            gray=tuple(row["gray"]),
            odds=row["odds"],
            bgr=row["bgr"],
        )
        for row in tomllib.loads(text)["convention"]
    )


def conventions(spec: InputSpec) -> tuple[Convention, ...]:
    """Return the conventions for the pictures that an input takes."""
    return tuple(one for one in all_conventions() if one.mean or spec.channels == 1)


def channel_orders(spec: InputSpec) -> tuple[ChannelOrder, ...]:
    """Orders that the channels of a picture may have."""
    return {1: ("gray",), 3: ("rgb", "bgr")}.get(spec.channels, ("rgba",))  # type: ignore[return-value]


def _wide(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return numbers * (3 // len(numbers))
