"""Profile the float network and the quantized one, node by node, for what decides which layers stay float."""

import onnx
import onnx_ir as ir

from backends.session import usable_providers
from passes.emit.emit import emit
from passes.operators import WEIGHTED
from passes.qdq_names import owners_of
from zsq_compile.quantization.placement.layer_costs import NodeTimes
from zsq_compile.quantization.state import FloatNetwork, QuantizedState
from zsq_compile.verification.profile import NodeTime, profile_model

_SECONDS = 0.4  # of each profile


def measure_times(network: FloatNetwork, state: QuantizedState) -> NodeTimes | None:
    """Return the times of all nodes; None where the target's runtime is not here.

    Raises:
        IllegalGraphError: the quantized network cannot be written as it is.
        RuntimeModelError: the runtime does not run one of the two.

    """
    target = network.target
    if usable_providers(target.providers) != target.providers:
        return None
    quantized = state.qdq.clone()
    emit(quantized, state.plan, target)
    feeds = {name: array[: network.held_out.fixed or 1] for name, array in network.held_out.arrays().items()}
    floats, integers = (
        profile_model(
            _serialized(model), feeds, seconds=_SECONDS, providers=target.providers, config=target.session_config
        )
        for model in (network.model, quantized)
    )
    sizes = _sizes(network.model)
    return NodeTimes(
        floats=_by_name(floats),
        integers=_by_name(integers),
        to_codes=_rate(integers, "QuantizeLinear", sizes),
        to_floats=_rate(integers, "DequantizeLinear", sizes),
    )


def _serialized(model: ir.Model) -> onnx.ModelProto:
    proto: onnx.ModelProto = ir.to_proto(model)
    return proto


def _by_name(nodes: tuple[NodeTime, ...]) -> dict[str, float]:
    """Microseconds by the name of a layer, and by the float value that a node makes, in codes or not."""
    found: dict[str, float] = {}
    for node in nodes:
        microseconds = 1000.0 * node.ms
        if any(op_type in node.op_type for op_type in WEIGHTED):
            found.setdefault(node.name, microseconds)
        for value in node.outputs:
            for owner in (value, *owners_of(value)):
                found.setdefault(owner, microseconds)
    return found


def _rate(nodes: tuple[NodeTime, ...], op_type: str, sizes: dict[str, int]) -> float | None:
    """Microseconds of a million elements, over all conversions whose size is known."""
    time = elements = 0.0
    for node in nodes:
        if node.op_type == op_type:
            names = [owner for value in (*node.inputs[:1], *node.outputs) for owner in (value, *owners_of(value))]
            size = next((sizes[name] for name in names if name in sizes), 0)
            if size:
                time, elements = time + 1000.0 * node.ms, elements + size / 1e6
    return time / elements if elements else None


def _sizes(model: ir.Model) -> dict[str, int]:
    values = (*model.graph.inputs, *(value for node in model.graph for value in node.outputs))
    return {str(value.name): size for value in values if value.shape is not None for size in [_product(value.shape)]}


def _product(shape: ir.Shape) -> int:
    size = 1
    for one in shape:
        size *= one if isinstance(one, int) else 1
    return size
