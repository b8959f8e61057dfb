"""What a network makes of an input at many scales: how wide each layer's results are, beside its biases, and the heads.

Training starts from weights that keep a signal's size from layer to layer, and moves weights and biases by steps that
are about alike. So under the scale that a network was trained on, results of layers are neither tiny beside the biases
nor huge, they are centred, gates are neither shut nor idle, and heads answer firmly, but not as firmly as can be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from passes.constants import constant_value
from passes.operators import RECURRENT, WEIGHTED
from passes.surgery import input_at, is_standard, only_use
from zsq_compile.frontend.find_signal_kinds import fourier_rows
from zsq_compile.frontend.trace_input import Reading
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

Array = NDArray[np.float64]

_MOST_LAYERS = 12
_TINY = 1e-12
_HEADS = {"Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "softmax", "ArgMax": "softmax"}
_TOGETHER = 1 << 20  # samples: all
_MOST_ROWS = 4096  # places of a layer that are looked at
_CLIP = 8.0  # logarithms count no farther


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layer:
    """A layer with constant weights that the input reaches.

    Attributes:
        value: what to watch: its results behind the bias; of a recurrent one, what it reads.
        axis: of the channels in that value.
        bias: (channels,) zeros where it has none.
        weight: (channels, inputs) of a recurrent layer, whose results before the gates are not in the graph.

    """

    value: str
    axis: int
    bias: Array
    weight: Array | None = None

    def places(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (places, channels) of the value, some thousand places at most."""
        moved = np.moveaxis(values, self.axis, -1)
        places = np.arange(0, moved[..., 0].size, _step(moved[..., 0].size))
        return moved[np.unravel_index(places, moved.shape[:-1])]

    def results(self, places: NDArray[np.float32]) -> Array:
        """Return (places, channels) results before any activation."""
        rows: Array = places.astype(np.float64)
        results: Array = rows if self.weight is None else rows @ self.weight.T + self.bias
        return results


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Watched:
    """Layers of a network that an input reaches, and the head, if it decides.

    Attributes:
        layers: in order of the graph, the first ones and the last.
        scores: value that the head reads: logits.
        head: what it makes of them.
        transforms: whether a Fourier transform is in the network.

    """

    layers: tuple[Layer, ...]
    scores: str | None
    head: str | None
    transforms: bool = False

    @property
    def values(self) -> list[str]:
        """Names of what is to be computed."""
        return list(dict.fromkeys([*(layer.value for layer in self.layers), *filter(None, [self.scores])]))

    @property
    def is_recurrent(self) -> bool:
        """Whether its first layer is a recurrent one."""
        return bool(self.layers) and self.layers[0].weight is not None


def find_layers(model: ir.Model, name: str) -> Watched:
    """Find the layers behind an input, without transforms that nobody trained."""
    reached, transforms = {name}, False
    layers: list[Layer] = []
    scores, head = None, None
    for node in model.graph:
        if not any(value is not None and value.name in reached for value in node.inputs):
            continue
        reached.update(str(value.name) for value in node.outputs if value.name)
        if is_standard(node, *_HEADS) and node.inputs[0] is not None:
            scores, head = str(node.inputs[0].name), _HEADS[node.op_type]
        if _is_transform(node):
            transforms = True
            continue
        layers.extend(_as_layer(node))
    kept = layers if len(layers) <= _MOST_LAYERS else [*layers[: _MOST_LAYERS - 1], layers[-1]]
    return Watched(layers=tuple(kept), scores=scores, head=head, transforms=transforms)


def _is_transform(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if is_standard(node, "STFT", "DFT"):
        return True
    if source is None or not is_standard(node, *WEIGHTED) or input_at(node, 2) is not None:
        return False
    return fourier_rows(Reading(node=node, place=0, value=source)) is not None


def _as_layer(node: ir.Node) -> Iterator[Layer]:
    if is_standard(node, *RECURRENT):
        weight, bias = constant_value(input_at(node, 1)), constant_value(input_at(node, 3))
        if weight is not None and node.inputs[0] is not None:
            rows = weight.reshape(-1, weight.shape[-1]).astype(np.float64)
            added = np.zeros(len(rows))
            if bias is not None:
                added = bias.astype(np.float64).reshape(len(weight), 2, -1).sum(1).reshape(-1)
            yield Layer(value=str(node.inputs[0].name), axis=-1, bias=added, weight=rows)
        return
    weight = constant_value(input_at(node, 1)) if is_standard(node, *WEIGHTED) else None
    source, result, bias = node.inputs[0], node.outputs[0], constant_value(input_at(node, 2))
    if weight is None or weight.ndim < 2 or source is None:
        return
    use = only_use(result)
    if bias is None and use is not None and is_standard(use[0], "Add"):
        bias = next((one for one in map(constant_value, use[0].inputs) if one is not None), None)
        result = use[0].outputs[0] if bias is not None else result
    axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
    flat = np.zeros(1) if bias is None else bias.astype(np.float64).reshape(-1)
    yield Layer(value=str(result.name), axis=axis, bias=flat)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What is seen at one scale and offset; logarithms are natural, and of deviations.

    Attributes:
        first: width of the first layer's results.
        inner: mean width of those of the layers between.
        last: width of the logits, or of the last layer's results.
        first_bias: root of the mean square of the first layer's biases, over the width of its results.
        inner_bias: mean of that over the other layers.
        centre: mean over layers and channels of log(1 + mean² / variance).
        first_centre: that of the first layer.
        firm: one less the mean entropy of a head's decisions, as a share of the largest; 0 without a head.
        varied: information of the decisions in shares of the most that there can be; 0 without a head.

    """

    first: float
    inner: float
    last: float
    first_bias: float
    inner_bias: float
    centre: float
    first_centre: float
    firm: float
    varied: float


def watch_scales(
    network: TrialNetwork,
    watched: Watched,
    feeds: Sequence[Callable[[], NDArray[np.float32]]],
    together: int = _TOGETHER,
) -> list[Sight | None]:
    """See what the network makes of each feed; None where results are not finite.

    Args:
        network: with the input in question.
        watched: layers and head.
        feeds: make what the network gets.
        together: samples that are run at once at most; whole batches where those are fixed.

    Raises:
        RuntimeModelError: that part of the network cannot be run.

    """
    session = network.open(watched.values)
    seen: list[Sight | None] = []
    for make in feeds:
        try:
            seen.append(_see(watched, *_watch(network, session, watched, make(), together)))
        except RuntimeModelError:
            seen.append(None)
    return seen


def _watch(
    network: TrialNetwork, session: Session | None, watched: Watched, encoded: NDArray[np.float32], together: int
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
    """Return (places, channels) of every layer, and the scores."""
    places: list[list[NDArray[np.float32]]] = [[] for _ in watched.layers]
    scores: list[NDArray[np.float32]] = []
    for start in range(0, len(encoded), together):
        for values in network.run(session, encoded[start : start + together]):
            for found, layer in zip(places, watched.layers, strict=True):
                found.append(layer.places(values[layer.value]))
            scores += [] if watched.scores is None else [values[watched.scores]]
    joined = [np.concatenate(found) for found in places]
    return [found[:: _step(len(found))] for found in joined], np.concatenate(scores) if scores else None


def _step(places: int) -> int:
    return max(-(-places // _MOST_ROWS), 1)


def _see(watched: Watched, places: Sequence[NDArray[np.float32]], scores: NDArray[np.float32] | None) -> Sight | None:
    widths, biases, centres = [], [], []
    for layer, found in zip(watched.layers, places, strict=True):
        rows = layer.results(found)
        if not np.isfinite(rows).all():
            return None
        variance, mean = rows.var(0), rows.mean(0)
        width = float(np.sqrt(variance.mean()))
        bias = float(np.sqrt((layer.bias**2).mean()))
        widths.append(_log(width))
        biases.append(_log(bias / max(width, _TINY)) if bias > 0 else None)
        centres.append(float(np.minimum(np.log1p(mean**2 / np.maximum(variance, _TINY)), _CLIP).mean()))
    told = [one for one in biases[1:] if one is not None]
    firm, varied, last = _decisions(watched, scores)
    return Sight(
        first=widths[0],
        inner=float(np.mean(widths[1:-1])) if len(widths) > 2 else 0.0,
        last=widths[-1] if last is None else last,
        first_bias=biases[0] or 0.0,
        inner_bias=float(np.mean(told)) if told else 0.0,
        centre=float(np.mean(centres)),
        first_centre=centres[0],
        firm=firm,
        varied=varied,
    )


def _decisions(watched: Watched, read: NDArray[np.float32] | None) -> tuple[float, float, float | None]:
    if read is None:
        return 0.0, 0.0, None
    scores = read.astype(np.float64)
    if watched.head == "sigmoid":
        flat = scores.reshape(-1)
        likely = 1.0 / (1.0 + np.exp(-np.clip(flat, -50, 50)))
        width = _log(float(flat.std()))
        chances = np.stack([likely, 1.0 - likely], 1)
    else:
        rows = scores.reshape(-1, scores.shape[-1])
        width = _log(float((rows - rows.mean(1, keepdims=True)).std()))
        exponents = np.exp(rows - rows.max(1, keepdims=True))
        chances = exponents / exponents.sum(1, keepdims=True)
    most = np.log(chances.shape[1]) if chances.shape[1] > 1 else 1.0
    entropy = -(chances * np.log(np.maximum(chances, 1e-300))).sum(1).mean()
    mean = chances.mean(0)
    whole = -(mean * np.log(np.maximum(mean, 1e-300))).sum()
    return float(1.0 - entropy / most), float((whole - entropy) / most), width


def _log(number: float) -> float:
    return float(np.clip(np.log(max(number, _TINY)), -2 * _CLIP, 2 * _CLIP))
