"""How the pixels of an image, or a signal, become network input, and how that was found out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from zsq_compile.data.input_spec import InputSpec, Layout

ChannelOrder = Literal["rgb", "bgr", "gray", "rgba", "none"]
Source = Literal["given", "read", "inferred", "ranked", "assumed", "unexplained"]
SignalFamily = Literal[
    "noise",
    "white",
    "bursts",
    "sound",
    "speech",
    "music",
    "noises",
    "levelled",
    "log_mel",
    "mfcc",
    "mel",
    "log_spectrum",
    "embedding",
    "positive",
    "rows",
]
Pixels = TypeVar("Pixels")

_CLOSE_MARGIN = 1.5
_MOST_LISTED = 4
_MEANINGS = {
    "unit": "pixels in [0, 1]",
    "symmetric": "pixels in [-1, 1]",
    "imagenet": "mean and std of ImageNet",
    "byte": "pixels in 0..255",
    "standard": "mean 0, deviation 1",
    "byte_bgr": "pixels in 0..255 minus mean (123, 117, 104)",
    "centred": "pixels in [0, 1] minus the mean of ImageNet",
    "mnist": "mean and std of MNIST",
    "stretched": "pixels in [0, 1] over the deviation of ImageNet",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """Network input = (pixel - mean) / std for pixels in [0, 1], then the order of channels and axes.

    Attributes:
        name: "unit", "symmetric", "imagenet", "byte", "byte_bgr" (see ``usual_preprocessings``), "fitted", "standard"
            or "given".
        mean: per channel, in RGB order; one number stands for all channels.
        std: per channel, in RGB order.
        channel_order: "bgr" reverses the three channels after scaling; "rgba" has a fourth plane; "none" of a signal.
        source: given by the user; read from what zsq-compile left in the file; inferred from BatchNormalization
            statistics, real examples or the input's type, which prove it; ranked: the only plausible one by how a
            network without statistics looks under it, which proves nothing; assumed: the most probable of several; or
            unexplained: the nearest to statistics that nothing comes near to.
        reason: what decided, in words.
        margin: of an inferred one, the distance of the runner-up over that of the best (>= 1); else None.
        layout: of the network input; None of a signal (N, C, ...), which is in order as it is.
        family: what signals are drawn from before they are scaled; None of pictures.

    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: ChannelOrder
    source: Source = "assumed"
    reason: str = ""
    margin: float | None = None
    layout: Layout | None = "NCHW"
    family: SignalFamily | None = None

    @property
    def is_proven(self) -> bool:
        """Whether it rests on more than how a network without statistics looks under it."""
        return self.source in ("given", "read", "inferred")

    @property
    def is_certain(self) -> bool:
        """Whether the user gave it, the input's type leaves no other, or the statistics point to it clearly."""
        return self.is_proven and (self.margin is None or self.margin >= _CLOSE_MARGIN)

    def fits(self, spec: InputSpec) -> bool:
        """Whether it can be that of an input: of pictures with as many channels, or of a signal."""
        if not spec.is_image or self.layout is None:
            return not spec.is_image and self.layout is None and not spec.takes_stand_ins
        return len(self.mean) in (1, spec.channels)

    def encode(self, pixels: Pixels) -> Pixels:
        """(N, C, H, W) pixels in [0, 1] -> network input; a float array, or a tensor (differentiable).

        Values for an input that takes integers are not rounded yet (see ``InputSpec.typed``).
        """
        mean, std = self._numbers(pixels)
        values: Any = pixels
        encoded: Pixels = _permuted(self._in_order((values - mean) / std), (0, 2, 3, 1), self.layout)
        return encoded

    def decode(self, values: Pixels) -> Pixels:
        """Inverse of encode: network input -> (N, C, H, W) pixels."""
        first: Any = _permuted(_as_float(values), (0, 3, 1, 2), self.layout)
        mean, std = self._numbers(first)
        pixels: Pixels = self._in_order(first) * std + mean
        return pixels

    def describe(self) -> str:
        """Say what it is and how it was found, such as "imagenet: mean and std of ImageNet (assumed: ...)"."""
        if self.source == "given" and self.layout is None:
            return f"{self.name}: {self._ends()}"
        if self.source == "given":
            return f"{self.name}: mean {_listed(self.mean)}, std {_listed(self.std)}"
        how = f"{self.source}{' from' if self.source in ('inferred', 'read') else ':'} {self.reason}"
        if self.margin is not None:
            how = f"{how}, {self.margin:.2f} times closer than the next"
        return f"{self.words()} ({how})"

    def words(self) -> str:
        """Say what it is, such as "unit: pixels in [0, 1], BGR"."""
        order = ", BGR" if self.channel_order == "bgr" else ""
        return f"{self.name}: {_MEANINGS.get(self.name) or self._ends()}{order}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values as reports, compiled files and packages hold them.

        ``source``, ``layout`` and ``family`` are there where ``name`` and ``inferred`` leave them open.
        """
        plain = {**asdict(self), "inferred": self.source == "inferred"}
        if self.source == _implied_source(plain):  # what is not said, so that files of before are the same
            del plain["source"]
        if self.layout == "NCHW":
            del plain["layout"]
        if self.family is None:
            del plain["family"]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Preprocessing":
        """Read what ``to_json`` returned."""
        return cls(
            name=plain["name"],
            mean=tuple(plain["mean"]),
            std=tuple(plain["std"]),
            channel_order=plain["channel_order"],
            source=plain.get("source") or _implied_source(plain),
            reason=plain.get("reason", ""),
            margin=plain.get("margin"),
            layout=plain.get("layout", "NCHW"),
            family=plain.get("family"),
        )

    def _ends(self) -> str:
        """Say what becomes of black and white pixels, or of a signal."""
        pairs = list(zip(self.mean, self.std, strict=True))
        if self.layout is None:
            gains, offsets = [1.0 / std for _, std in pairs], [-mean / std for mean, std in pairs]
            return f"{self.family} times {_listed(gains)}, plus {_listed(offsets)}"
        black, white = [-mean / std for mean, std in pairs], [(1.0 - mean) / std for mean, std in pairs]
        return f"pixels from {_listed(black)} (black) to {_listed(white)} (white)"

    def _numbers(self, like: Any) -> tuple[Any, Any]:
        """Mean and std, of the kind and type of ``like`` and in a shape that broadcasts."""
        make = like.new_tensor if hasattr(like, "new_tensor") else lambda numbers: np.asarray(numbers, like.dtype)
        shape = (1, -1, *(1,) * (like.ndim - 2)) if like.ndim > 1 else (-1,)
        mean, std = (make(numbers).reshape(shape) for numbers in (self.mean, self.std))
        return mean, std

    def _in_order(self, values: Any) -> Any:
        return values[:, [2, 1, 0]] if self.channel_order == "bgr" else values


def _implied_source(plain: Mapping[str, Any]) -> Source:
    return "given" if plain["name"] == "given" else "inferred" if plain["inferred"] else "assumed"


def _listed(numbers: Sequence[float]) -> str:
    if len(numbers) > _MOST_LISTED:
        return f"{min(numbers):.4g} to {max(numbers):.4g}"
    return " ".join(f"{number:.4g}" for number in numbers)


def _permuted(values: Any, axes: tuple[int, ...], layout: Layout | None) -> Any:
    """Permute the axes where the layout is not that of pixels."""
    if layout != "NHWC":
        return values
    return values.permute(axes) if hasattr(values, "permute") else values.transpose(axes)


def _as_float(values: Any) -> Any:
    if hasattr(values, "is_floating_point"):
        return values if values.is_floating_point() else values.float()
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float32)


def _channel_order(channels: int) -> ChannelOrder:
    return {1: "gray", 3: "rgb"}.get(channels, "rgba")  # type: ignore[return-value]


def usual_preprocessings(channels: int, layout: Layout = "NCHW") -> tuple[Preprocessing, ...]:
    """Preprocessings in common use, for images of 1, 3 or 4 channels; all of them with the source "assumed"."""
    order = _channel_order(channels)
    colour, gray = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225)), (0.449, 0.226)
    rgba = (gray,) if channels == 1 else (*colour, gray)[:channels]
    imagenet = tuple(mean for mean, _ in rgba), tuple(std for _, std in rgba)
    rows: list[tuple[str, tuple[float, ...], tuple[float, ...], ChannelOrder]] = [
        ("unit", (0.0,) * channels, (1.0,) * channels, order),
        ("symmetric", (0.5,) * channels, (0.5,) * channels, order),
        ("imagenet", *imagenet, order),
        ("byte", (0.0,) * channels, (1.0 / 255,) * channels, order),
    ]
    if channels == 3:  # the mean of Caffe's networks
        rows.append(("byte_bgr", (123.0 / 255, 117.0 / 255, 104.0 / 255), (1.0 / 255,) * 3, "bgr"))
    return tuple(
        Preprocessing(name=name, mean=mean, std=std, channel_order=given, layout=layout)
        for name, mean, std, given in rows
    )


def imagenet_preprocessing(channels: int) -> Preprocessing:
    """Return what brings natural pixels to mean 0 and standard deviation 1: ImageNet's mean and std."""
    return next(one for one in usual_preprocessings(channels) if one.name == "imagenet")


def given_preprocessing(
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_range: tuple[float, float] | None = None,
    layout: Layout = "NCHW",
) -> Preprocessing:
    """Take a user's mean and std, in pixel units of [0, 1], or the input values of black and white.

    A single number stands for every channel.

    Raises:
        ValueError: neither form is complete, or the lengths do not fit the channels.

    """
    if input_range is not None:
        low, high = input_range
        mean, std = (-low / (high - low),), (1.0 / (high - low),)
    if mean is None or std is None:
        raise ValueError("expected mean and std, or input_range; got neither in full")
    wide = [tuple(map(float, numbers)) * (channels if len(numbers) == 1 else 1) for numbers in (mean, std)]
    if any(len(numbers) != channels for numbers in wide):
        raise ValueError(f"expected 1 or {channels} numbers for mean and std, got {len(mean)} and {len(std)}")
    return Preprocessing(
        name="given",
        mean=wide[0],
        std=wide[1],
        channel_order=_channel_order(channels),
        source="given",
        reason="by the user",
        layout=layout,
    )


def unit_preprocessing(spec: InputSpec) -> Preprocessing:
    """Return that of an image input that takes pixels as they are, in [0, 1], or in 0..255 where it takes bytes."""
    return _named("byte" if np.issubdtype(spec.dtype, np.integer) else "unit", spec)


def byte_preprocessing(spec: InputSpec) -> Preprocessing:
    """Return the only one of an image input that takes bytes."""
    return replace(_named("byte", spec), source="inferred", reason=f"its type, {spec.dtype}")


def _named(name: str, spec: InputSpec) -> Preprocessing:
    return next(one for one in usual_preprocessings(spec.channels, spec.layout or "NCHW") if one.name == name)
