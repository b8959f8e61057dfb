"""What a compilation leaves behind for whoever wants to look closer: plain values, for the report."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentMatch:
    """How near the calibration data come to what one BatchNormalization remembers of the training data.

    Attributes:
        node: name of the BatchNormalization, or of what tells its statistics.
        layer: name of the layer whose output it describes; None if there is none.
        channels: that were compared; dead ones are not.
        distance: squared 2-Wasserstein distance of the two normal distributions in units of the remembered variance,
            mean over the channels. Training data themselves, in sets of a thousand, come to 0.01 to 0.04.
        mean_gap: root mean square over the channels of the difference of the means, in remembered deviations.
        deviation_ratio: median over the channels of the measured deviation over the remembered one.

    """

    node: str
    layer: str | None
    channels: int
    distance: float
    mean_gap: float
    deviation_ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One synthetic image to be shown.

    Attributes:
        png: bytes of a PNG file.
        label: class that the float network sees in it; None where no output looks like class scores.
        confidence: probability that it gives to that class, 0 to 1.
        asked: class that was asked for; None where none was.

    """

    png: bytes
    label: int | None
    confidence: float | None
    asked: int | None
