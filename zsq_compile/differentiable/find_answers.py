"""Find where a network answers: the sigmoids and softmaxes behind which its outputs are only arranged.

A detector says at every place whether something is there, a recogniser of text which character, a detector of voice
for every frame whether somebody speaks. Nearly everywhere they say "nothing", and inputs on which they say nothing else
cause only half as large numbers as real ones. Which numbers are answers, and what "nothing" is, is read off the graph
and off what the network says to inputs at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir
import torch
from torch import Tensor

from passes.operators import REARRANGING
from passes.surgery import is_standard
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.metrics import class_axis

AnswerKind = Literal["probability", "objectness", "classes", "classes or nothing"]
Feeds = Mapping[str, Tensor]

_SELECTING = (
    "Cast",
    "Pad",
    "Split",
    "Gather",
    "GatherND",
    "GatherElements",
    "TopK",
    "ReduceMax",
    "Sqrt",
    "Pow",
    "Clip",
)
"""Behind these, and those that only rearrange, the numbers of the first input still stand in the same order of size."""

_JOINING = ("Concat", "Max")
_DECIDING = ("Sigmoid", "Softmax", "LogSoftmax")
_BOX_SCORES = 1  # input of NonMaxSuppression
_RULES = 0.8  # share of the positions at which a class wins that stands for nothing
_SELDOM = 0.05  # share of the positions at which an answer is given; what is more frequent is a mask or a coordinate
_SOMETIMES = 0.25  # the same of a number that a sample has only one of
_TOP = 1e-6  # probabilities are held this far away from 1
_LAST_AXIS_FROM = 13  # opset from which on a softmax is along one axis, the last if none is named


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnsweringHead:
    """Numbers whose sigmoid or softmax is an answer.

    Attributes:
        output: graph output that they reach, or scores of boxes that are suppressed inside the graph; the first.
        logits: value in front of the sigmoid or softmax.
        kind: "probability" of one number for each sample, "objectness" of one number at each place, "classes" of
            several, where low numbers are nothing, and "classes or nothing" of a softmax at each place with a class for
            nothing, such as a background or the blank of CTC. The softmax of a classifier is no head: every sample has
            some class, and none of them is nothing.
        samples: axis of ``logits`` that holds the samples.
        rows: how many entries of that axis each sample has.
        positions: places of each sample; 1 where the sample as a whole gets an answer.
        classes: axis of the classes (of channels, under a sigmoid) once the samples are axis 0; None without such.
        excluding: whether classes exclude each other, as under a softmax.
        nothing: class that stands for nothing; None under a sigmoid, where a low number does.
        seldom: (classes,) which are answers: those that are given seldom, and not ``nothing``.

    """

    output: str
    logits: str
    kind: AnswerKind
    samples: int
    rows: int
    positions: int
    classes: int | None
    excluding: bool
    nothing: int | None
    seldom: Tensor

    def answers(self, logits: Tensor) -> Tensor:
        """Log-odds of every answer, (samples, positions, classes), -inf where a class is none; differentiable."""
        table = as_table(logits, self.samples, self.rows, self.classes)
        odds = exclusive_odds(table) if self.excluding else table
        return odds.masked_fill(~self.seldom.to(odds.device), -torch.inf)

    def strongest(self, logits: Tensor) -> Tensor:
        """Log-odds of the firmest answer that each sample gets, (samples,)."""
        return self.answers(logits).flatten(1).amax(1)


def as_table(logits: Tensor, samples: int, rows: int, classes: int | None) -> Tensor:
    """Bring logits to (samples, positions, classes) in float32; for the axes see AnsweringHead."""
    first = _samples_first(logits.float(), samples, rows)
    if classes is None:
        return first.flatten(1).unsqueeze(2) if first.ndim > 1 else first[:, None, None]
    moved = first.movedim(classes, -1)
    return moved.flatten(1, -2) if moved.ndim > 2 else moved.unsqueeze(1)


def exclusive_odds(table: Tensor) -> Tensor:
    """Log-odds of every class against all others, of the shape of the (..., classes) logits."""
    shares = table.log_softmax(-1)
    return shares - torch.log1p(-shares.exp().clamp(max=1.0 - _TOP))


def find_answers(teacher: TorchGraph, batches: Sequence[Feeds]) -> list[AnsweringHead]:
    """Heads that answer seldom, in the order of the graph's outputs.

    Args:
        teacher: the float network.
        batches: inputs as the network takes them, on which its habits are seen; the first as large as any.

    """
    found = _deciding_nodes(teacher.model.graph)
    names = list(dict.fromkeys(logits for logits, _, _ in found))
    habits = []
    with torch.no_grad():
        axes = _sample_axes(teacher, batches[0], names)
        for logits, node, output in found:
            if logits in axes:
                habits.append(_Habits(logits, output, node, *axes[logits]))
        wanted = list(dict.fromkeys(one.logits for one in habits))
        for feeds in batches if wanted else ():
            values = teacher.run(feeds, wanted)
            for one in habits:
                one.observe(values[one.logits])
    heads = [one.describe() for one in habits]
    return [head for head in heads if head is not None]


class _Habits:
    """What a sigmoid or softmax says to inputs: how often each class wins, or is more likely than not."""

    def __init__(self, logits: str, output: str, node: ir.Node, samples: int, rows: int) -> None:
        self.logits = logits
        self._output = output
        self._node = node
        self._samples = samples
        self._rows = rows
        self._excluding = node.op_type != "Sigmoid"
        self._classes: int | None = None
        self._wins = self._said = torch.zeros(0)
        self._seen = self._positions = 0

    def observe(self, logits: Tensor) -> None:
        """Count what is said in one batch."""
        shape = tuple(_samples_first(logits, self._samples, self._rows).shape)
        self._classes = self._softmax_axis(logits) if self._excluding else _channel_axis(shape)
        if self._excluding and self._classes is None:
            return
        table = as_table(logits, self._samples, self._rows, self._classes)
        self._positions, classes = table.shape[1:]
        if not self._seen:
            self._wins, self._said = torch.zeros(classes), torch.zeros(classes)
        self._seen += table.shape[0] * table.shape[1]
        odds = exclusive_odds(table) if self._excluding else table
        self._said += (odds > 0.0).flatten(0, 1).sum(0).cpu()
        self._wins += torch.bincount(table.argmax(-1).flatten(), minlength=classes).cpu()

    def describe(self) -> AnsweringHead | None:
        """Return the head; None where nothing is said seldom."""
        if not self._seen:
            return None
        kind, nothing = self._kind(), None
        seldom = self._said / self._seen < (_SOMETIMES if self._positions == 1 else _SELDOM)
        if self._excluding:
            if self._positions == 1:  # a classifier: a class that rules only tells what samples look like
                return None
            rules = self._wins / self._seen >= _RULES
            if not rules.any():
                return None
            nothing = int(rules.long().argmax())
            seldom[nothing] = False
        if not seldom.any():
            return None
        return AnsweringHead(
            output=self._output,
            logits=self.logits,
            kind=kind,
            samples=self._samples,
            rows=self._rows,
            positions=self._positions,
            classes=self._classes,
            excluding=self._excluding,
            nothing=nothing,
            seldom=seldom,
        )

    def _kind(self) -> AnswerKind:
        if self._excluding:
            return "classes or nothing"
        if len(self._said) > 1:
            return "classes"
        return "probability" if self._positions == 1 else "objectness"

    def _softmax_axis(self, logits: Tensor) -> int | None:
        """Axis of the classes once the samples are first; None where the softmax is not along one other axis."""
        version = self._node.graph.opset_imports.get("") if self._node.graph is not None else None
        along_one = (version or _LAST_AXIS_FROM) >= _LAST_AXIS_FROM
        axis = self._node.attributes.get_int("axis", -1 if along_one else 1) % logits.ndim
        if not along_one:  # all axes from the named one on, of which only one may have a size
            wide = [one for one in range(axis, logits.ndim) if logits.shape[one] > 1]
            if len(wide) != 1:
                return None
            axis = wide[0]
        if axis == self._samples:
            return None
        behind = axis if axis > self._samples else axis + 1
        return behind + 1 if self._rows > 1 else behind


def _deciding_nodes(graph: ir.Graph) -> list[tuple[str, ir.Node, str]]:
    """(logits, node, output) of every sigmoid or softmax behind which outputs are only arranged, each node once."""
    starts = [(value, str(value.name)) for value in graph.outputs]
    for node in graph:
        if is_standard(node, "NonMaxSuppression") and (scores := node.inputs[_BOX_SCORES]) is not None:
            starts.append((scores, str(scores.name)))
    found: dict[ir.Node, tuple[str, ir.Node, str]] = {}
    for value, output in starts:
        for node in _behind(value, set()) or ():
            logits = node.inputs[0]
            if logits is not None and logits.name is not None:
                found.setdefault(node, (logits.name, node, output))
    return list(found.values())


def _behind(value: ir.Value | None, seen: set[ir.Value]) -> list[ir.Node]:
    """Sigmoids and softmaxes that a value is arranged from; none where anything else lies between."""
    node = None if value is None else value.producer()
    if value is None or node is None or value in seen:
        return []
    seen.add(value)
    if is_standard(node, *_DECIDING):
        return [node]
    if is_standard(node, *REARRANGING, *_SELECTING):
        return _behind(node.inputs[0], seen)
    if is_standard(node, *_JOINING):
        return [one for source in node.inputs for one in _behind(source, seen)]
    if is_standard(node, "Mul"):  # a product of probabilities, not of features and a gate
        parts = [_behind(source, seen) for source in node.inputs if not _is_constant(source)]
        return [one for part in parts for one in part] if all(parts) else []
    return []


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or value.is_initializer() or value.const_value is not None


def _sample_axes(teacher: TorchGraph, feeds: Feeds, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Axis that holds the samples, and its entries for each of them, by name; without values where there is none.

    Two runs of different sizes tell it. Of a network that takes one size only, the first axis of that size is it.
    """
    count = min((len(value) for value in feeds.values()), default=0)
    if not names or not count:
        return {}
    sizes = [count] if has_fixed_batch(teacher) else [min(count, size) for size in (1, 2)]
    shapes = [{name: value.shape for name, value in teacher.run(_first(feeds, size), names).items()} for size in sizes]
    axes = {}
    for name in names:
        one, other = shapes[0][name], shapes[-1][name]
        if len(sizes) == 1 or sizes[0] == sizes[1]:
            places = [axis for axis, size in enumerate(one) if size % count == 0][:1]
            rows = [one[axis] // count for axis in places]
        else:
            places = [axis for axis in range(len(one)) if one[axis] != other[axis]]
            rows = [one[axis] for axis in places if other[axis] == 2 * one[axis]]
        if len(places) == 1 and len(rows) == 1:
            axes[name] = (places[0], rows[0])
    return axes


def _first(feeds: Feeds, count: int) -> dict[str, Tensor]:
    return {name: value[:count] for name, value in feeds.items()}


def has_fixed_batch(teacher: TorchGraph) -> bool:
    """Whether a network takes one number of samples only."""
    shapes = [value.shape for value in teacher.model.graph.inputs if value.name in teacher.input_names]
    return any(shape is not None and len(shape) > 0 and isinstance(shape[0], int) for shape in shapes)


def _samples_first(values: Tensor, samples: int, rows: int) -> Tensor:
    """Put the axis of the samples first, with an axis of their rows behind it where each has several."""
    first = values.movedim(samples, 0)
    return first.reshape(-1, rows, *first.shape[1:]) if rows > 1 else first


def _channel_axis(shape: Sequence[int]) -> int | None:
    """Axis of the channels of numbers with the samples on axis 0; None where all of them are places.

    Of a list of places it is the shorter axis, whichever comes first; of maps see ``class_axis``; of maps of several
    anchors, the axis behind these that is no side of the map.
    """
    wide = [axis for axis, size in enumerate(shape) if axis and size > 1]
    if len(shape) <= 2 or len(wide) <= 1:
        return 1 if wide == [1] and len(shape) != 3 else None
    if len(wide) == 2 and len(shape) == 3:
        return min(wide, key=lambda axis: shape[axis])
    if len(shape) == 4:
        return class_axis(tuple(shape))
    sides = [shape[axis] for axis in wide]
    return next((axis for axis in reversed(wide[1:]) if sides.count(shape[axis]) == 1), wide[-1])
