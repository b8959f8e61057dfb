"""Pad values with channels of zeros to numbers of channels that the runtime's integer kernels are fast at.

    x (24 channels) -> Conv (24 groups) -> Conv (48 x 24)    ->    x (32) -> Conv (32 groups) -> Conv (48 x 32)

Filters of zeros are added to the layer that makes a value, and columns of zeros to the layers that read it. All other
numbers stay the same, to the bit in integer kernels (in float, sums may be taken in another order). ONNX Runtime has a
fast kernel for depthwise convolutions of a multiple of 16 channels; that for all others takes twice the time for 24
channels that the fast one takes for 32. It multiplies 4 input channels at once, and unfolds the image where they do not
come in fours: so an image of 3 channels gets a fourth, as codes, behind its QuantizeLinear.

Values with the same channels (through quantizers, Relu, Clip, Add, pooling, depthwise convolutions) form a group, which
is widened where only convolutions with constant integer weights make and read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from backends.target import Alignment
from passes.graph_pass import GraphPass
from passes.operators import QUANTIZERS
from passes.surgery import add_constant, dequantizer, free_name, input_at, is_standard

_CHANNELWISE = (*QUANTIZERS, "Relu", "Clip", "MaxPool", "AveragePool")
_MOST_GROWTH = 2  # factor; an image may grow further


@dataclass(frozen=True, slots=True)
class AlignChannels(GraphPass):
    """Widen groups of values in a QDQ graph whose weights are not packed yet."""

    alignment: Alignment

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen every group for which the target has a faster kernel."""
        modified = False
        for group in _groups(model.graph):
            width = group.width(self.alignment)
            if width is not None and width > group.channels:
                group.widen(model.graph, width)
                modified = True
        return ir.passes.PassResult(model, modified)


@dataclass(slots=True)
class _Group:
    """Values of one number of channels, and the convolutions around them."""

    channels: int = 0
    values: list[ir.Value] = field(default_factory=list)
    images: list[ir.Value] = field(default_factory=list)
    sources: list[ir.Node] = field(default_factory=list)
    depthwise: list[ir.Node] = field(default_factory=list)
    sinks: list[ir.Node] = field(default_factory=list)
    closed: bool = True

    def width(self, alignment: Alignment) -> int | None:
        """Return the number of channels to widen to; None where the group must stay as it is."""
        sizes = {_weight(node).shape[0] for node in (*self.sources, *self.depthwise)}
        sizes |= {_weight(node).shape[1] for node in self.sinks}
        if not self.closed or not self.sinks or sizes - {self.channels} or not self.channels:
            return None
        wanted = self.channels
        if self.depthwise:
            wanted = _up(wanted, alignment.depthwise)
        wanted = _up(wanted, alignment.inputs)
        if any(_taps(node) > 1 for node in self.sources) and 3 * wanted >= 2 * alignment.outputs:
            wanted = max(wanted, alignment.outputs)  # from fewer channels the gain is small, and the file grows
        return wanted if self.images or wanted <= _MOST_GROWTH * self.channels else None

    def widen(self, graph: ir.Graph, width: int) -> None:
        """Add channels of zeros up to ``width``."""
        more = width - self.channels
        for node in (*self.sources, *self.depthwise):
            for reader in _parameters(node):
                _grow(graph, reader, more)
        for node in self.depthwise:
            node.attributes["group"] = ir.AttrInt64("group", width)
        for node in self.sinks:
            _grow_constant(graph, _weight_maker(node), 0, 1, more)
            _lengthen(_weight_maker(node).outputs[0], 1, more)
        for value in self.values:
            if not value.is_graph_input():
                _lengthen(value, 1, more)
        for image in self.images:
            _pad_codes(graph, image, more)


def _groups(graph: ir.Graph) -> Iterator[_Group]:
    """All groups, in graph order."""
    parent: dict[ir.Value, ir.Value] = {}

    def leader(value: ir.Value) -> ir.Value:
        while parent.get(value, value) is not value:
            value = parent[value]
        return value

    for node in graph:
        linked = _linked(node)
        for other in linked[1:]:
            parent[leader(other)] = leader(linked[0])
    found: dict[ir.Value, _Group] = {}
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        if _channels(value):
            found.setdefault(leader(value), _Group()).values.append(value)
    for group in found.values():
        _find_layers(group)
        yield group


def _linked(node: ir.Node) -> list[ir.Value]:
    """Values that have the same channels because of a node: its first input and its output, both inputs of an Add."""
    inputs = [value for value in node.inputs if value is not None]
    if is_standard(node, "Add") and not any(value.const_value is not None for value in inputs):
        return [*inputs, node.outputs[0]]
    channelwise = is_standard(node, *_CHANNELWISE) and len(node.outputs) == 1 and _per_tensor(node)
    return [inputs[0], node.outputs[0]] if channelwise or _is_depthwise(node) else []


def _find_layers(group: _Group) -> None:
    """Sort the nodes that make and read the values of a group; only a group of convolutions is ``closed``."""
    members = set(group.values)
    group.channels = _channels(group.values[0])
    group.closed = len({_channels(value) for value in group.values}) == 1
    for value in group.values:
        maker = value.producer()
        if value.is_graph_output():
            group.closed = False
        if maker is None:
            quantized = value.is_graph_input() and all(is_standard(use.node, "QuantizeLinear") for use in value.uses())
            group.closed &= quantized
            group.images.append(value)
        elif _is_depthwise(maker):
            group.depthwise.append(maker)
        elif _is_dense(maker):
            group.sources.append(maker)
        elif not (_linked(maker) and all(other in members for other in _linked(maker))):
            group.closed = False
        for use in value.uses():
            if use.idx == 0 and _is_dense(use.node):
                group.sinks.append(use.node)
            elif not (use.node.outputs[0] in members and value in _linked(use.node)):
                group.closed = False
    if group.images and (group.sources or group.depthwise):
        group.closed = False  # an image that is added to something else


def _weight_maker(node: ir.Node) -> ir.Node:
    maker = dequantizer(node, 1)
    assert maker is not None
    return maker


def _weight(node: ir.Node) -> ir.TensorProtocol:
    codes = _weight_maker(node).inputs[0]
    assert codes is not None and codes.const_value is not None
    return codes.const_value


def _taps(node: ir.Node) -> int:
    return int(np.prod(_weight(node).shape.numpy()[2:]))


def _is_layer(node: ir.Node) -> bool:
    """Tell whether a node is a 2-D convolution whose weight and bias are dequantized constants of its own."""
    if not is_standard(node, "Conv"):
        return False
    for position in (1, 2) if input_at(node, 2) is not None else (1,):
        maker = dequantizer(node, position)
        if maker is None or len(maker.outputs[0].uses()) != 1:
            return False
        codes = maker.inputs[0]
        if codes is None or codes.const_value is None or len(codes.uses()) != 1 or codes.is_graph_input():
            return False
    return len(_weight(node).shape) == 4


def _is_dense(node: ir.Node) -> bool:
    return _is_layer(node) and node.attributes.get_int("group", 1) == 1


def _is_depthwise(node: ir.Node) -> bool:
    if not _is_layer(node):
        return False
    count, depth = _weight(node).shape.numpy()[:2]
    return depth == 1 and 1 < count == node.attributes.get_int("group", 1)


def _per_tensor(node: ir.Node) -> bool:
    """Tell whether a node is no quantizer with a scale per channel."""
    if node.op_type not in QUANTIZERS:
        return True
    scale = node.inputs[1]
    return scale is not None and scale.shape is not None and len(scale.shape) == 0


def _channels(value: ir.Value) -> int:
    """Channels of a value of rank 4; 0 where it is no such value, or they are open."""
    if value.shape is None or len(value.shape) != 4 or value.const_value is not None:
        return 0
    size = value.shape[1]
    return size if isinstance(size, int) else 0


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple if multiple else count


def _parameters(node: ir.Node) -> list[ir.Node]:
    """Dequantizers of the weight and the bias of a layer."""
    return [maker for position in (1, 2) if (maker := dequantizer(node, position)) is not None]


def _grow(graph: ir.Graph, maker: ir.Node, more: int) -> None:
    """Add output channels with codes of zero to a dequantized constant, with their scales and zero points."""
    _grow_constant(graph, maker, 0, 0, more)
    for position in range(1, len(maker.inputs)):
        value = maker.inputs[position]
        product = None if value is None else value.producer()
        if product is not None:  # of two scales; the weight's is widened with the weight
            _lengthen(product.outputs[0], 0, more)
        elif value is not None and value.const_value is not None and value.const_value.size > 1:
            _grow_constant(graph, maker, position, 0, more, repeat=position == 1)
    _lengthen(maker.outputs[0], 0, more)


def _grow_constant(
    graph: ir.Graph, node: ir.Node, position: int, axis: int, more: int, *, repeat: bool = False
) -> None:
    """Lengthen a constant input along an axis, by zeros or by its last entry; other readers keep the old one."""
    old = node.inputs[position]
    assert old is not None and old.const_value is not None
    array = old.const_value.numpy()
    widths = [(0, more if place == axis else 0) for place in range(array.ndim)]
    longer = np.pad(array, widths, mode="edge") if repeat else np.pad(array, widths)
    partners = [use for use in old.uses() if use.node is node or _shares_scale(use.node, node)]
    if len(partners) == len(list(old.uses())):
        old.const_value, old.shape = ir.Tensor(longer, name=old.name), ir.Shape(longer.shape)
        return
    value = add_constant(graph, f"{old.name}_aligned", longer)
    for use in partners:
        use.node.replace_input_with(use.idx, value)


def _shares_scale(reader: ir.Node, maker: ir.Node) -> bool:
    """Tell whether a reader of a weight's scale makes the scale of the same layer's bias."""
    if not is_standard(reader, "Mul"):
        return False
    layers = {use.node for use in maker.outputs[0].uses()}
    biases = [use.node for use in reader.outputs[0].uses()]
    return all(use.node in layers for bias in biases for use in bias.outputs[0].uses())


def _lengthen(value: ir.Value, axis: int, more: int) -> None:
    """Update the shape of a value that has grown along an axis, where it is known."""
    sizes = [] if value.shape is None else list(value.shape)
    size = sizes[axis] if len(sizes) > axis else None
    if isinstance(size, int):
        value.shape = ir.Shape([size + more if place == axis else other for place, other in enumerate(sizes)])


def _pad_codes(graph: ir.Graph, image: ir.Value, more: int) -> None:
    """Give an image more channels, behind its quantizer, where a number takes one byte."""
    for use in image.uses():
        quantizer, codes = use.node, use.node.outputs[0]
        pads = add_constant(graph, f"{image.name}_aligned", np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))
        name = free_name(graph, f"{image.name}_wider")
        pad = ir.node("Pad", [codes, pads, input_at(quantizer, 2)], name=f"{name}_Pad")
        wider = pad.outputs[0]
        wider.name, wider.type, wider.shape = name, codes.type, codes.shape
        codes.shape = image.shape
        for reader in codes.uses():
            reader.node.replace_input_with(reader.idx, wider)
        graph.insert_after(quantizer, pad)
        pad.replace_input_with(0, codes)
