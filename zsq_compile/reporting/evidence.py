"""Values of the report about the calibration data."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentMatch:
    """Moments of the calibration data against the statistics of one BatchNormalization.

    Attributes:
        node: name of the BatchNormalization.
        layer: name of the layer whose output it describes; None if there is none.
        channels: number of channels that were compared; dead ones are not.
        distance: squared 2-Wasserstein distance of the two normal distributions in units of the statistics' variance,
            mean over the channels. Training data, in sets of a thousand, have 0.01 to 0.04.
        mean_gap: root mean square over the channels of the difference of the means, in the statistics' deviations.
        deviation_ratio: median over the channels of the measured deviation over that of the statistics.

    """

    node: str
    layer: str | None
    channels: int
    distance: float
    mean_gap: float
    deviation_ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One synthetic image.

    Attributes:
        png: bytes of a PNG file.
        label: class that the float network sees in it; None where no output looks like class scores.
        confidence: probability that it gives to that class, 0 to 1.
        asked: class that the generator aimed at; None without one.

    """

    png: bytes
    label: int | None
    confidence: float | None
    asked: int | None
