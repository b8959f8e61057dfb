"""How the inside of a network looks under a preprocessing, where no statistics of the training data are left.

Training centred and scaled what each layer makes: with batch normalisation in front of an activation, a channel's mean
is beta and its deviation gamma, numbers of order 1 with nothing in common with the weights. Folding that away leaves a
bias b = beta - m, where m is the mean that weights alone make of the training data. So, under the right preprocessing,

1. the mean of a channel is small against its deviation. Small inputs violate this: deviations vanish and biases stay;
2. bias and mean of the weighted inputs cancel. Large inputs violate this: biases vanish against what they cancelled.

The first alone would always prefer the larger contrast. Each is averaged over the channels of a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from passes.analysis.count_work import layer_work
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.constants import constant_value
from passes.operators import CONVOLUTIONS, WEIGHTED
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

FEATURES = ("centred", "cancelled", "opposed", "first", "first_squared", "growth", "growth_squared")
"""Names of the numbers that describe a preprocessing (see ``_summarise``)."""

MOST_WORK, LITTLE_WORK = 1_500_000_000, 300_000_000
"""Multiplications of all images under one preprocessing, where there is time, and in a moment."""

_IMAGES, _FEW_IMAGES = 8, 3
_SMALL = 20_000  # pixels
_POSITIONS = 1200  # of a feature map that are looked at
_FEWEST_CHANNELS, _FEWEST_VALUES, _FEWEST_LAYERS = 4, 8, 2
_FLOOR = 0.05  # of the variance: means and biases below its root are as good as 0
_SILENT = 1e-5  # of the largest deviation
_CENTRED_FLOOR = 0.1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layer:
    """A layer with constant weights: the value that it writes, its bias if it has one, and where its channels are."""

    output: str
    bias: NDArray[np.float64] | None
    axis: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Interior:
    """What a network is tried on, and the layers that are watched."""

    network: TrialNetwork
    session: Session | None
    layers: Sequence[Layer]
    images: NDArray[np.float32]

    def describe(self, preprocessing: Preprocessing) -> NDArray[np.float64] | None:
        """Return the ``FEATURES`` under a preprocessing; None where numbers overflow or the runtime fails."""
        try:
            with np.errstate(all="ignore"):
                batches = list(self.network.run(self.session, preprocessing.encode(self.images)))
                rows = [_describe_layer(layer, _channels(layer, batches)) for layer in self.layers]
        except RuntimeModelError:
            return None
        return _summarise([row for row in rows if row is not None])


def watch_interior(network: TrialNetwork, *, most_work: int = MOST_WORK) -> Interior | None:
    """Watch the layers of a network; None where it has none, or cannot be run.

    Of a large network only the first layers are watched, as many as take ``most_work`` multiplications for each
    preprocessing.
    """
    folded = network.model.clone()
    FoldBatchNorm().call(folded)
    tried = replace(network, model=folded)
    found, whole = _find_layers(tried), network.spec.height * network.spec.width
    for height, width in network.sizes() if found else ():
        area = height * width
        count = _IMAGES if area < _SMALL else _FEW_IMAGES
        layers = _affordable(tried, found, most_work * whole / (count * area))
        try:
            session = tried.open([layer.output for layer in layers], sizes_open=area < whole)
        except RuntimeModelError:
            continue
        if tried.runs(session, height, width):
            images = tried.draw_some(count, height, width)
            return Interior(network=tried, session=session, layers=layers, images=images)
    return None


def _find_layers(network: TrialNetwork) -> list[Layer]:
    found = []
    for node in network.model.graph:
        weight = constant_value(node.inputs[1]) if node.op_type in WEIGHTED else None
        if weight is None or not node.outputs[0].name:
            continue
        bias = constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
        flat = None if bias is None or bias.size < _FEWEST_CHANNELS else bias.astype(np.float64).reshape(-1)
        found.append(Layer(output=node.outputs[0].name, bias=flat, axis=1 if node.op_type in CONVOLUTIONS else -1))
    return found


def _affordable(network: TrialNetwork, layers: list[Layer], most_work: float) -> list[Layer]:
    """Return the first layers, as many as one image of the network's own size takes that work for."""
    work = layer_work(network.model)
    makers = {value.name: str(node.name) for node in network.model.graph for value in node.outputs}
    spent = np.cumsum([work.get(makers[layer.output], 0) / (network.spec.shape[0] or 1) for layer in layers])
    return layers[: max(_FEWEST_LAYERS, int((spent <= most_work).sum()))]


def _channels(layer: Layer, batches: Sequence[Mapping[str, NDArray[Any]]]) -> NDArray[np.float64]:
    """(channels, values) of a layer's output, feature maps at a part of their positions."""
    parts = []
    for values in batches:
        value = values[layer.output]
        step = int(np.ceil(np.sqrt(max(1.0, value[0, 0].size / _POSITIONS)))) if value.ndim == 4 else 1
        seen = value[:, :, step // 2 :: step, step // 2 :: step] if step > 1 else value
        parts.append(np.moveaxis(seen, layer.axis, 0).reshape(value.shape[layer.axis], -1))
    return np.concatenate(parts, 1).astype(np.float64)


def _describe_layer(layer: Layer, values: NDArray[np.float64]) -> dict[str, float] | None:
    """Numbers of a layer; None where too little of it varies. NaN where it has no bias.

    With the mean mu, the deviation s and the bias b of a channel, and m = mu - b:

    - centred: mean over channels of log(1 + mu²/s²);
    - left: mean of log(mu²/b²), what the bias leaves of the mean, against the bias;
    - cancelled: mean of log(mu²/max(b², m²)), against the larger of the two that make it;
    - opposed: correlation of b/s with -m/s around 0, in which a large one counts no more than others;
    - scale: mean of log s.
    """
    mean, deviation = values.mean(1), values.std(1)
    if not np.isfinite(deviation).all():
        raise RuntimeModelError("values overflow")
    varied = deviation > _SILENT * deviation.max(initial=0.0)
    if varied.sum() < 2 or values.shape[1] < _FEWEST_VALUES:
        return None
    mean, deviation = mean[varied], np.maximum(deviation[varied], 1e-9)
    found = {"centred": float(np.log1p((mean / deviation) ** 2).mean()), "scale": float(np.log(deviation).mean())}
    if layer.bias is None or layer.bias.size != varied.size or varied.sum() < _FEWEST_CHANNELS or not layer.bias.any():
        return found
    bias = layer.bias[varied]
    made, floor = mean - bias, _FLOOR * deviation**2
    found["left"] = float(np.log((mean**2 + floor) / (bias**2 + floor)).mean())
    found["cancelled"] = float(np.log((mean**2 + floor) / (np.maximum(bias**2, made**2) + floor)).mean())
    ours, theirs = bias / deviation, made / deviation
    weights = 1.0 / (1.0 + np.maximum(ours**2, theirs**2))
    size = (weights * ours**2).sum() * (weights * theirs**2).sum()
    found["opposed"] = float(-(weights * ours * theirs).sum() / np.sqrt(size + 1e-30))
    return found


def _summarise(rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64] | None:
    """Return the ``FEATURES``: means over the layers behind the first, the first by itself, and the growth of scale.

    How centred the first layer is has a typical size, so it counts by the square of its logarithm, too. Growth is the
    slope of the scale over the whole depth.
    """
    if not rows:
        return None

    def mean(name: str, part: slice) -> float:
        known = [row[name] for row in rows[part] if name in row]
        return float(np.mean(known)) if known else 0.0

    first, behind = slice(0, 1), slice(1, None)
    scales = [row["scale"] for row in rows]
    growth = float(np.polyfit(np.linspace(0.0, 1.0, len(rows)), scales, 1)[0]) if len(rows) > 2 else 0.0
    return np.array(
        [
            mean("centred", behind),
            mean("cancelled", behind),
            mean("opposed", behind),
            mean("centred", first) + mean("left", first),
            np.log(mean("centred", first) + _CENTRED_FLOOR) ** 2,
            growth,
            growth**2,
        ]
    )
