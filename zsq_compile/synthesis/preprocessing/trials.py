"""Try preprocessings on a network in ONNX Runtime: what its first layers, and its decisions, make of the same images.

Without torch, so that ``inspect`` can ask as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from passes.analysis.find_uneven_values import find_uneven_values
from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing, unit_preprocessing
from zsq_compile.frontend.partial_session import open_partial_session
from zsq_compile.metrics import are_probabilities, array_outputs, score_output

Arrays = Mapping[str, NDArray[Any]]
DrawImages = Callable[[int, int, int], NDArray[np.float32]]
"""(count, height, width) -> (count, C, height, width) images with pixels in [0, 1], others in every call."""

TRIAL_IMAGES = 16
_LARGEST_SIDE, _PART = 96, 48
_VARIANCE_FLOOR, _LEAST_RATIO = 1e-12, 1e-4


def _no_images(count: int, height: int, width: int) -> NDArray[np.float32]:
    raise AssertionError("an input that takes no images is tried on signals")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrialNetwork:
    """A network and what it is tried on.

    Attributes:
        model: in normal form.
        spec: the image input in question.
        others: for the other inputs, of at least a batch.
        draw_images: for that input, if it takes images.
        whole: names of inputs without a batch, which every run gets one sample of.
        aside: names of inputs whose batch, a fixed one, is not on axis 0; every run gets all that there is of them.

    """

    model: ir.Model
    spec: InputSpec
    others: Arrays
    draw_images: DrawImages = _no_images
    whole: frozenset[str] = frozenset()
    aside: frozenset[str] = frozenset()

    def watch(self, layers: Sequence[BatchNorm], samples: NDArray[np.float32] | None = None) -> "Trial | None":
        """Watch what BatchNormalizations read; None where that part of the network cannot be run.

        ``samples`` None draws images, at a reduced size where the network takes that.
        """
        try:
            session = self.open([layer.input for layer in layers], sizes_open=samples is None)
            if samples is not None:
                return Trial(network=self, session=session, layers=layers, samples=samples)
            sizes = next((one for one in self.sizes() if self.runs(session, *one)), None)
        except RuntimeModelError:
            return None
        if sizes is None:
            return None
        return Trial(network=self, session=session, layers=layers, samples=self.draw_some(TRIAL_IMAGES, *sizes))

    def seen_moments(
        self, value: str, preprocessings: Sequence[Preprocessing], images: NDArray[np.float32]
    ) -> list[tuple[float, float]] | None:
        """Mean, and mean deviation of a channel, of a value under each preprocessing; None where it cannot be run."""
        try:
            session = self.open([value])
            runs = [[found[value] for found in self.run(session, one.encode(images))] for one in preprocessings]
        except RuntimeModelError:
            return None
        return [pooled_moments(np.concatenate(batches)) for batches in runs]

    def draw(self) -> NDArray[np.float32]:
        """Draw images of the network's own size."""
        return self.draw_some(TRIAL_IMAGES, self.spec.height, self.spec.width)

    def bias_dominance(self, value: str, preprocessing: Preprocessing) -> float:
        """Median over channels of |mean| / standard deviation of a feature map (N, C, H, W); 0 where it is none."""
        images = preprocessing.encode(self.draw_some(1, self.spec.height, self.spec.width))
        try:
            found = next(self.run(self.open([value]), images))[value]
        except RuntimeModelError:
            return 0.0
        if found.ndim != 4:
            return 0.0
        mean, deviation = found.mean((0, 2, 3), np.float64), found.std((0, 2, 3), np.float64)
        return float(np.median(np.abs(mean) / np.maximum(deviation, 1e-12)))

    def decisiveness(self, candidates: Sequence[Preprocessing]) -> list[float] | None:
        """Nats of information in a classifier's decision, by candidate; None where the network is no classifier.

        That is the logarithm of the Inception score (Salimans et al. 2016, section 4): the entropy of the mean
        probabilities less the mean entropy. It is high where decisions are firm on each image and differ over all.
        """
        images = self.draw()
        uneven = find_uneven_values(self.model)
        made = (value for value in self.model.graph.outputs if value.producer() is not None)
        names = [str(value.name) for value in made if value.name not in uneven]
        if not names:
            return None
        try:
            session = self.open(names)
            outputs = next(self.run(session, candidates[0].encode(images[: self.spec.shape[0] or 1])))
            scores = score_output(array_outputs({name: outputs[name] for name in names}))
            if scores is None:
                return None
            runs = [[values[scores] for values in self.run(session, one.encode(images))] for one in candidates]
        except RuntimeModelError:
            return None
        return [_information(np.concatenate(batches)) for batches in runs]

    def open(self, values: Sequence[str], *, sizes_open: bool = False) -> Session | None:
        """Open a session of what computes the values; None where all of them are inputs."""
        if {str(value.name) for value in self.model.graph.inputs}.issuperset(values):
            return None
        open_axes = {self.spec.name: self.spec.spatial_axes} if sizes_open else {}
        return open_partial_session(self.model, values, open_axes=open_axes)

    def _rounded(self, count: int) -> int:
        """Next multiple of a fixed batch."""
        batch = self.spec.shape[0] or 1
        return -(-count // batch) * batch

    def draw_some(self, count: int, height: int, width: int) -> NDArray[np.float32]:
        """Draw images of a size, as many as fill batches."""
        return self.draw_images(self._rounded(count), height, width)

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width to try, smallest first: reduced in steps of 16, as strided networks like them, or whole."""
        height, width = self.spec.height, self.spec.width
        scale = min(1.0, _LARGEST_SIDE / max(height, width))
        if scale == 1.0:
            return ((height, width),)
        return (max(16, round(height * scale / 16) * 16), max(16, round(width * scale / 16) * 16)), (height, width)

    def runs(self, session: Session | None, height: int, width: int) -> bool:
        """Whether a session of ``open`` takes images of a size."""
        blank = np.zeros((self._rounded(TRIAL_IMAGES), self.spec.channels, height, width), np.float32)
        try:
            next(self.run(session, unit_preprocessing(self.spec).encode(blank)))
        except RuntimeModelError:
            return False
        return True

    def run(self, session: Session | None, encoded: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
        """Compute the values by name of each batch, inputs included; those alone without a session."""
        cut = {name: other for name, other in self.others.items() if other.ndim and name not in self.aside}
        batched = [other for name, other in cut.items() if name not in self.whole]
        size = self.spec.shape[0] or min((len(encoded), *map(len, batched)))
        shared = {**self.others, **{name: other[: 1 if name in self.whole else size] for name, other in cut.items()}}
        for start in range(0, len(encoded), size):
            feeds = {**shared, self.spec.name: self.spec.typed(encoded[start : start + size])}
            needed = {} if session is None else {name: feeds[name] for name in session.input_names if name in feeds}
            yield feeds if session is None else {**feeds, **session.run(needed)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Of the channels of a layer's input that vary in training, (channels,): as measured, and as remembered.

    ``count`` numbers of each channel were measured.
    """

    count: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    target_mean: NDArray[np.float64]
    target_variance: NDArray[np.float64]

    def divergence(self) -> float:
        """Median over channels of KL(N(measured) || N(remembered))."""
        ratio = np.maximum(self.variance / self.target_variance, _LEAST_RATIO)
        shift = (self.mean - self.target_mean) ** 2 / self.target_variance
        return float(np.quantile(0.5 * (shift + ratio - np.log(ratio) - 1.0), 0.5, method="lower"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """Samples of an input, and what a network's BatchNormalizations see of them under a preprocessing.

    Attributes:
        network: with the input in question.
        session: computes what the layers read; None where that is an input.
        layers: that are watched.
        samples: before the preprocessing: images, or signals.

    """

    network: TrialNetwork
    session: Session | None
    layers: Sequence[BatchNorm]
    samples: NDArray[np.float32]

    def of_first_layer(self) -> "Trial":
        """Watch the first layer only, on a part of large images where it takes that: both take less time."""
        first, is_image = self.layers[:1], self.network.spec.is_image
        session = self.network.open([first[0].input], sizes_open=is_image)
        whole = replace(self, session=session, layers=first)
        if not is_image or max(self.samples.shape[2:]) <= _PART:
            return whole
        part = replace(whole, samples=np.ascontiguousarray(self.samples[:, :, :_PART, :_PART]))
        return part if np.isfinite(part.distance(unit_preprocessing(self.network.spec))) else whole

    def moments(self, preprocessing: Preprocessing) -> list[Moments]:
        """Moments of the layers' inputs.

        Raises:
            RuntimeModelError: the runtime failed.

        """
        batches, counts = [], [0] * len(self.layers)
        for values in self.network.run(self.session, preprocessing.encode(self.samples)):
            read = [values[layer.input] for layer in self.layers]
            batches.append([_moments(*pair) for pair in zip(read, self.layers, strict=True)])
            counts = [count + value.size // value.shape[1] for count, value in zip(counts, read, strict=True)]
        return [_joined(*row) for row in zip(zip(*batches, strict=True), self.layers, counts, strict=True)]

    def distance(self, preprocessing: Preprocessing) -> float:
        """How far the moments are from those remembered: 0 where all are met.

        The mean over layers of the median over channels (a few odd or dying channels must not decide) of the
        divergence. The first layer sees the input through a linear map and has most information; every layer counts
        for half of the one before, as each normalises more of the evidence away. Infinite where the network cannot be
        run.
        """
        try:
            terms = [moments.divergence() for moments in self.moments(preprocessing)]
        except RuntimeModelError:
            return float("inf")
        weights = [0.5**depth for depth in range(len(terms))]
        return sum(weight * term for weight, term in zip(weights, terms, strict=True)) / sum(weights)


def pooled_moments(value: NDArray[Any]) -> tuple[float, float]:
    """Mean over all of (N, C, ...), and the root of the mean variance of a channel."""
    axes = tuple(axis for axis in range(value.ndim) if axis != 1)
    return float(value.mean(dtype=np.float64)), float(np.sqrt(value.var(axes, dtype=np.float64).mean()))


def _moments(value: NDArray[Any], layer: BatchNorm) -> NDArray[np.float64]:
    """(2, channels) mean and variance of the channels that vary in training."""
    axes = tuple(axis for axis in range(value.ndim) if axis != 1)
    exact = value.astype(np.float64)
    return np.stack([exact.mean(axes), exact.var(axes)])[:, ~layer.dead]


def _joined(batches: Sequence[NDArray[np.float64]], layer: BatchNorm, count: int) -> Moments:
    """Moments of all batches, which are of one size."""
    means, variances = np.stack(batches, 1)
    alive = ~layer.dead
    return Moments(
        count=count,
        mean=means.mean(0),
        variance=variances.mean(0) + means.var(0),
        target_mean=layer.mean[alive].astype(np.float64),
        target_variance=np.maximum(layer.variance[alive].astype(np.float64), _VARIANCE_FLOOR),
    )


def _information(scores: NDArray[Any]) -> float:
    """Nats that the classes of (N, classes, ...) scores or probabilities hold on the samples."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    if not are_probabilities(rows):
        exponents = np.exp(rows - rows.max(1, keepdims=True))
        rows = exponents / exponents.sum(1, keepdims=True)
    mean, *each = (-(row * np.log(np.maximum(row, 1e-300))).sum() for row in (rows.mean(0), *rows))
    return float(mean - np.mean(each))
