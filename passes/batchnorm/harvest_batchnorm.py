"""Read the statistics of the training data that BatchNormalization keeps.

In ``layer -> value x -> BatchNormalization(x; scale, shift, mean, variance)`` channel c of x had mean ``mean[c]`` and
variance ``variance[c]`` over the training set. That is all that data-free methods know of the data.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.operators import CONVOLUTIONS, DENSE, WEIGHTED
from passes.plan import Refusal
from passes.surgery import standard_nodes
from passes.value_ranges import never_negative

_DEAD_ABSOLUTE = 1e-10
_DEAD_RELATIVE = 1e-5  # of the median of the channels that vary at all
_ZERO_MEAN = 1e-4  # of the standard deviation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchNorm:
    """One BatchNormalization node: y = scale * (x - mean) / sqrt(variance + epsilon) + shift, per channel.

    Attributes:
        node, input, output: names.
        mean, variance: (C,) moments of the input over the training data.
        scale, shift: (C,) gamma and beta.
        layer: name of the layer whose output it normalizes, possibly through a bias Add; None if there is none.
        dead: (C,) True where the variance is about 0: the channel is constant, and its moments are noise.

    """

    node: str
    input: str
    output: str
    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    epsilon: float
    layer: str | None
    dead: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchNormStatistics:
    """The BatchNormalization statistics of a model.

    Attributes:
        entries: every node that could be read, in graph order.
        refusals: nodes that could not be read or are degenerate.
        layers_total: convolutions of the graph (fully connected layers, if it has no convolution).
        layers_covered: how many of them have a BatchNormalization behind them.
        degenerate: names of the entries whose statistics must not be matched.
        layer_kind: what ``layers_total`` counts.

    """

    entries: tuple[BatchNorm, ...]
    refusals: tuple[Refusal, ...]
    layers_total: int
    layers_covered: int
    degenerate: tuple[str, ...]
    layer_kind: str = "convolutions"

    @property
    def usable(self) -> tuple[BatchNorm, ...]:
        """The entries that are not degenerate."""
        return tuple(entry for entry in self.entries if entry.node not in self.degenerate)

    def coverage(self) -> str:
        """Describe in one line how much of the network has statistics."""
        text = f"BN found behind {self.layers_covered} of {self.layers_total} {self.layer_kind}"
        elsewhere = sum(entry.layer is None for entry in self.entries)
        remarks = [f"{elsewhere} more elsewhere"] if elsewhere else []
        remarks += [f"{len(self.degenerate)} of them unusable"] if self.degenerate else []
        return f"{text} ({', '.join(remarks)})" if remarks else text


def folded_advice() -> str:
    """Return advice for the owner of a model whose BatchNormalization was folded away at export."""
    return (
        "The model has no BatchNormalization: exporters fold it into the convolutions, and the statistics of the "
        "training data are lost. They can be taken from the trained tensors (--checkpoint model.pth), or from a model "
        "that still has it (zsq-compile harvest, --bn-stats). To keep it, export again from PyTorch with "
        "torch.onnx.export(model.eval(), ..., dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, "
        "do_constant_folding=False), or with torch.onnx.export(model.eval(), ..., dynamo=True, optimize=False)."
    )


def harvest_batchnorm(model: ir.Model) -> BatchNormStatistics:
    """Read every BatchNormalization of the main graph, whatever makes its input."""
    entries: list[BatchNorm] = []
    refusals: list[Refusal] = []
    covered: set[ir.Node] = set()
    degenerate: dict[str, str] = {}
    for node in standard_nodes(model.graph, "BatchNormalization"):
        layer = _layer(node.inputs[0])
        entry = _read(node, layer)
        if isinstance(entry, str):
            refusals.append(Refusal.of(node, entry))
        else:
            entries.append(entry)
            covered |= set() if layer is None else {layer}
            if (reason := find_degeneracy(entry, layer)) is not None:
                degenerate[entry.node] = reason
    refusals.extend(
        Refusal(where=name, op_type="BatchNormalization", reason=reason) for name, reason in degenerate.items()
    )
    operators = {node.op_type for node in model.graph}
    layers = CONVOLUTIONS if operators.intersection(CONVOLUTIONS) else DENSE
    return BatchNormStatistics(
        entries=tuple(entries),
        refusals=tuple(refusals),
        layers_total=sum(node.op_type in layers for node in model.graph),
        layers_covered=sum(node.op_type in layers for node in covered),
        degenerate=tuple(degenerate),
        layer_kind="convolutions" if layers is CONVOLUTIONS else "fully connected layers",
    )


def _read(node: ir.Node, layer: ir.Node | None) -> BatchNorm | str:
    """Return the entry, or the reason why there is none."""
    if node.attributes.get_int("training_mode", 0) or sum(bool(output.name) for output in node.outputs) > 1:
        return "it is in training mode: it uses the moments of the batch, not running ones; export with model.eval()"
    if not node.attributes.get_int("spatial", 1):
        return "it has moments for every position (spatial=0), not for every channel"
    labels = ("scale", "shift", "mean", "variance")
    arrays: dict[str, NDArray[np.float32]] = {}
    for label, value in zip(labels, node.inputs[1:5], strict=True):
        array = constant_value(value)
        if array is None:
            return f"its {label} is not constant"
        arrays[label] = np.asarray(array, dtype=np.float32).reshape(-1)
        if not np.isfinite(arrays[label]).all():
            return f"its {label} holds numbers that are not finite"
    if len({array.shape for array in arrays.values()}) != 1:
        return f"its parameters differ in length: {[array.size for array in arrays.values()]}"
    if (arrays["variance"] < 0).any():
        return "its variance is negative in places"
    source, variance = node.inputs[0], arrays["variance"]
    assert source is not None
    return BatchNorm(
        node=node.name or "",
        input=source.name or "",
        output=node.outputs[0].name or "",
        epsilon=node.attributes.get_float("epsilon", 1e-5),
        layer=layer.name if layer is not None else None,
        dead=dead_channels(variance),
        **arrays,
    )


def _layer(value: ir.Value | None) -> ir.Node | None:
    """Return the layer that makes the value, through the Add of a constant bias."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Add":
        variable = [source for source in node.inputs if constant_value(source) is None]
        node = variable[0].producer() if len(variable) == 1 and variable[0] is not None else None
    return node if node and node.op_type in WEIGHTED and constant_value(node.inputs[1]) is not None else None


def dead_channels(variance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(C,) True where a variance is about 0, absolutely or relative to the other channels."""
    dead = variance < _DEAD_ABSOLUTE
    if dead.all():
        return dead
    return dead | (variance < _DEAD_RELATIVE * np.median(variance[~dead]))


def find_degeneracy(entry: BatchNorm, layer: ir.Node | None) -> str | None:
    """Why the moments cannot be those of a trained network, or None; ``layer`` makes the input of the entry.

    Means of about 0 alone are no reason: a layer without bias has them where its inputs have mean 0, as behind the
    linear bottlenecks of MobileNetV2. Where its inputs are never negative it cannot.
    """
    alive = ~entry.dead
    if not alive.any():
        return "all its variances are about 0"
    if entry.mean.size > 1 and np.ptp(entry.mean) == 0 and np.ptp(entry.variance) == 0:
        moments = f"mean {entry.mean[0]:g}, variance {entry.variance[0]:g}"
        return f"every channel has the same moments ({moments}): they were never taken from data"
    ratio = np.sqrt(np.mean(entry.mean[alive].astype(np.float64) ** 2) / np.median(entry.variance[alive]))
    if layer is not None and ratio < _ZERO_MEAN and never_negative(layer.inputs[0]):
        return f"all its means are about 0, which cannot be behind '{layer.name}', whose inputs are never negative"
    return None
