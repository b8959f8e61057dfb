"""Write an activation that an exporter took apart as one node, recognised by what it computes.

    Max(x, 0), Clip(x, min=0), Where(x > 0, x, 0)           ->  Relu(x)
    Min(Max(x, 0), 6), Clip(Relu(x), max=6)                 ->  Clip(x, 0, 6)
    Max(x, 0.1 x), PRelu(x, 0.1), Where(x >= 0, x, 0.1 x)   ->  LeakyRelu(x)
    1 / (1 + Exp(-x)), x / (1 + Exp(-x))                    ->  Sigmoid(x), x * Sigmoid(x)
    Clip(x + 3, 0, 6) / 6, x * that                         ->  HardSigmoid(x), HardSwish(x)
    x (1 + Erf(x / Sqrt(2))) / 2, and the form with Tanh    ->  Gelu(x)
    x * Tanh(Log(1 + Exp(x)))                               ->  Mish(x)

Targets run the first three in integers, and parts of the others: two or three roundings to 8 bits in the place of one.
Any nodes that make a number of one number and of constants are evaluated on numbers of all sizes; what comes out within
float32 rounding of an activation is that activation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import erf, pi, sqrt

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value, value_given
from passes.graph_pass import NodePass, Outcome
from passes.surgery import add_constant, free_name, is_standard, remove_unread, take_over

Array = NDArray[np.float64]

_ENDS = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Where", "Clip", "PRelu")
_INSIDE = (
    *(*_ENDS, "Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Erf", "Tanh", "Sigmoid", "Softplus", "Relu"),
    *("HardSigmoid", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Identity", "Cast"),
)
_LINEAR = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Identity", "Cast"})  # nothing that bends
_MOST = 16  # nodes of one activation
_RELATIVE = 2e-6  # of the number, and of 1 where a sum of numbers near 1 may have cancelled out
_FAR = 100.0  # from here on both must be the same: a limit that keeps logarithms and quotients finite is no rounding

_POWERS = 10.0 ** np.arange(-6, 38)
_NUMBERS = np.concatenate([np.linspace(-12, 12, 481), _POWERS, -_POWERS])


@dataclass(frozen=True, slots=True)
class _Region:
    """Nodes, the last one first, that make its output of ``source`` and numbers alone."""

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    numbers: Mapping[ir.Value, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class _Activation:
    """An operator, its attributes, the limits that it reads behind its input, what it computes, a factor of that."""

    op_type: str
    function: Callable[[Array], Array]
    attributes: Mapping[str, float | str] = field(default_factory=dict)
    limits: tuple[float, ...] = ()
    cancels: bool = False
    factor: float = 1.0


class FuseActivation(NodePass):
    """Fuse the largest number of nodes that compute a known activation, if nobody else reads what is between them."""

    op_types = _ENDS

    def call(self, model: ir.Model) -> Outcome:
        """Visit the nodes from the last to the first, so that wholes come before parts of them."""
        place = {node: number for number, node in enumerate(model.graph)}
        modified = False
        for node in reversed(list(place)):
            if node.graph is not None and is_standard(node, *self.op_types):
                modified |= _fuse(model.graph, node, place)
        return Outcome(model, modified)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fuse the activation that ends in a node."""
        return _fuse(graph, node, {one: number for number, one in enumerate(graph)})


def _fuse(graph: ir.Graph, node: ir.Node, place: Mapping[ir.Node, int]) -> bool:
    for region in reversed(_regions(node, place)):
        found = None if {one.op_type for one in region.nodes} <= _LINEAR else _recognised(region)
        if found is not None:
            if _is_written(region, found):
                return False
            _replace(graph, region, found)
            return True
    return False


def _regions(node: ir.Node, place: Mapping[ir.Node, int]) -> list[_Region]:
    """Return every region that ends in the node, the smallest first."""
    found: list[_Region] = []
    nodes, numbers, ends = [node], dict[ir.Value, NDArray[np.generic]](), set[ir.Value]()
    while True:
        for value in nodes[-1].inputs:
            constant = constant_value(value)
            if value is not None and constant is None:
                ends.add(value)
            elif value is not None and constant is not None and constant.size and (constant == constant.flat[0]).all():
                numbers[value] = constant.reshape(-1)[0]
            elif value is not None:
                return found
        if len(ends) == 1:
            source = next(iter(ends))
            if source.dtype == ir.DataType.FLOAT and all(_spans(source, value) for value in numbers):
                found.append(_Region(source, tuple(nodes), dict(numbers)))
        makers = {value.producer(): value for value in ends}
        maker = max((one for one in makers if one is not None), key=lambda one: place.get(one, -1), default=None)
        if maker is None or len(nodes) == _MOST or not _belongs(maker, nodes):
            return found
        ends.remove(makers[maker])
        nodes.append(maker)


def _belongs(maker: ir.Node, nodes: list[ir.Node]) -> bool:
    """Tell whether a node may be part of an activation: all that it makes is read inside."""
    if not is_standard(maker, *_INSIDE) or len(maker.outputs) != 1 or maker.outputs[0].is_graph_output():
        return False
    return all(user in nodes for user, _ in maker.outputs[0].uses())


def _spans(source: ir.Value, constant: ir.Value) -> bool:
    """Tell whether a constant leaves the shape of what it is combined with as it is."""
    array = constant_value(constant)
    shape = None if source.shape is None else list(source.shape)
    if array is None or shape is None or array.ndim > len(shape):
        return array is not None and array.ndim == 0
    return all(size in (1, own) for size, own in zip(array.shape[::-1], shape[::-1], strict=False))


def _recognised(region: _Region) -> _Activation | None:
    """Return the activation that a region computes, within rounding, on numbers of all sizes."""
    near = [float(number) for number in region.numbers.values() if number.dtype.kind == "f" and np.isfinite(number)]
    steps = [number * sign + step for number in near for sign in (1, -1) for step in (-1e-3, 0.0, 1e-3)]
    numbers = np.concatenate([_NUMBERS, steps]).astype(np.float32)
    known = {region.source: numbers, **region.numbers}
    with np.errstate(all="ignore"):
        made = value_given(region.nodes[0].outputs[0], known)
    if made is None or made.shape != numbers.shape or made.dtype != np.float32 or not np.isfinite(made).all():
        return None
    if (made == made[0]).all():
        return None
    x, y = numbers.astype(np.float64), made.astype(np.float64)
    found = next((one for one in _activations(x, y) if _agree(x, y, one)), None)
    factor = float(y[x.argmax()] / x.max())
    if found is not None or factor in (0.0, 1.0):
        return found
    # simplifiers move the constant at the end of a chain into the layer behind it
    whole = next((one for one in _LIKE_X if _agree(x, y / factor, one)), None)
    return None if whole is None else replace(whole, factor=factor)


def _agree(x: Array, y: Array, activation: _Activation) -> bool:
    with np.errstate(all="ignore"):
        wanted = activation.function(x)
    scale = np.abs(wanted)
    if activation.cancels:
        scale = np.where(np.abs(x) < _FAR, np.maximum(scale, np.maximum(np.abs(x), 1.0)), scale)
    return bool((np.abs(y - wanted) <= _RELATIVE * scale + 1e-30).all())


def _activations(x: Array, y: Array) -> list[_Activation]:
    """Return the known activations, those that have parameters with the ones that y of x shows."""
    at = dict(zip(x.tolist(), y.tolist(), strict=True))
    low, high = float(y[x.argmin()]), float(y[x.argmax()])
    slope, middle, rise = -at[-1.0], at[0.0], at[1.0] - at[0.0]
    found = [_Activation("Relu", lambda x: np.maximum(x, 0.0))]
    if low < high and abs(low) < x.max() and high < x.max():
        found.append(_Activation("Clip", lambda x: np.clip(x, low, high), limits=(low, high)))
    if -slope != -1.0:
        found.append(_Activation("LeakyRelu", lambda x: np.where(x < 0, slope * x, x), {"alpha": slope}))
    found += [
        _Activation("Sigmoid", _sigmoid),
        _Activation("Silu", lambda x: x * _sigmoid(x)),
        _Activation(
            "HardSigmoid",
            lambda x: np.clip(rise * x + middle, 0.0, 1.0),
            {"alpha": rise, "beta": middle},
            cancels=True,
        ),
        *_LIKE_X,
    ]
    return found


_erf = np.vectorize(erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _gelu_by_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(sqrt(2.0 / pi) * (x + 0.044715 * x**3)))


_LIKE_X = (
    _Activation("HardSwish", lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0), cancels=True),
    _Activation("Gelu", lambda x: 0.5 * x * (1.0 + _erf(x / sqrt(2.0))), cancels=True),
    _Activation("Gelu", _gelu_by_tanh, {"approximate": "tanh"}, cancels=True),
    _Activation("Mish", lambda x: x * np.tanh(np.logaddexp(0.0, x)), cancels=True),
)
"""Those that large numbers pass unchanged."""


def _is_written(region: _Region, found: _Activation) -> bool:
    """Tell whether the nodes are the activation already, or the two that targets take as well."""
    written = {node.op_type for node in region.nodes}
    if len(region.nodes) == 1 or len(written) < len(region.nodes):
        return written == {found.op_type} and len(region.nodes) == 1
    return written == {"Mul", {"Silu": "Sigmoid", "HardSwish": "HardSigmoid"}.get(found.op_type, "")}


def _replace(graph: ir.Graph, region: _Region, found: _Activation) -> None:
    last = region.nodes[0]
    output = last.outputs[0]
    values = [
        add_constant(graph, f"{last.name}.{kind}", np.array(limit, np.float32))
        for kind, limit in zip(("min", "max"), found.limits, strict=False)
    ]
    if found.op_type == "Silu":
        squashed = ir.node("Sigmoid", [region.source], name=f"{last.name}_sigmoid")
        squashed.outputs[0].name = free_name(graph, f"{output.name}_sigmoid")
        squashed.outputs[0].type, squashed.outputs[0].shape = region.source.type, output.shape
        made = ir.node("Mul", [region.source, squashed.outputs[0]], name=last.name)
        graph.insert_before(last, squashed)
    else:
        made = ir.node(found.op_type, [region.source, *values], dict(found.attributes), name=last.name)
    made.outputs[0].type, made.outputs[0].shape = region.source.type, output.shape
    graph.insert_before(last, made)
    if found.factor != 1.0:
        factor = add_constant(graph, f"{last.name}.factor", np.array(found.factor, np.float32))
        made.outputs[0].name = free_name(graph, f"{output.name}_{found.op_type.lower()}")
        made = ir.node("Mul", [made.outputs[0], factor], name=f"{last.name}_factor")
        made.outputs[0].type, made.outputs[0].shape = region.source.type, output.shape
        graph.insert_before(last, made)
    take_over(output, made.outputs[0])
    remove_unread(graph, last)
