"""Find branches that are small or sensitive: squeeze and excite, products of attention, layers on a graph input."""

import onnx_ir as ir

from passes.operators import CONVOLUTIONS, DATA_MOVEMENT
from passes.quantize.float_regions import FloatRegion
from passes.surgery import input_at, is_standard

_FEW_CHANNELS = 4
_SPATIAL = (2, 3)


def squeeze_branches(graph: ir.Graph) -> FloatRegion:
    """Find what makes the factors that channels are multiplied by, from the means of the channels (Hu et al. 2018)."""
    nodes: set[ir.Node] = set()
    for pool in graph:
        if is_standard(pool, "GlobalAveragePool", "ReduceMean") and _keeps_places(pool):
            nodes |= _branch(graph, pool)
    return FloatRegion(nodes=frozenset(nodes))


def _keeps_places(pool: ir.Node) -> bool:
    """Whether means stay a map of one place, so that they can be multiplied with the map again."""
    shape = pool.outputs[0].shape
    return shape is not None and len(shape) >= 3 and all(size == 1 for size in list(shape)[2:])


def _branch(graph: ir.Graph, pool: ir.Node) -> set[ir.Node]:
    """Nodes from a pool to the products that its numbers are factors in; none where they lead anywhere else."""
    made = set(pool.outputs)
    branch = {pool}
    for node in graph:
        computed = [value for value in node.inputs if value is not None and value.const_value is None]
        if made.isdisjoint(computed):
            continue
        if made.issuperset(computed):
            branch.add(node)
            made.update(node.outputs)
        elif not is_standard(node, "Mul"):
            return set()
    return branch if not any(value.is_graph_output() for value in made) else set()


def attention_products(graph: ir.Graph) -> FloatRegion:
    """Find the products of computed values in front of a Softmax and behind one, and what they read and make."""
    nodes: set[ir.Node] = set()
    values: set[str] = set()
    for node in graph:
        if is_standard(node, "MatMul") and all(
            value is not None and value.const_value is None for value in node.inputs
        ):
            nodes.add(node)
            values.update(str(value.name) for value in node.outputs)
            for value in node.inputs:
                while value is not None:
                    values.add(str(value.name))
                    maker = value.producer()
                    value = maker.inputs[0] if maker is not None and is_standard(maker, *DATA_MOVEMENT) else None
    return FloatRegion(nodes=frozenset(nodes), values=frozenset(values))


def first_layers(graph: ir.Graph) -> FloatRegion:
    """Find the convolutions that read a graph input of few channels."""
    return FloatRegion(
        nodes=frozenset(
            node
            for node in graph
            if is_standard(node, *CONVOLUTIONS)
            and (data := input_at(node, 0)) is not None
            and data.is_graph_input()
            and data.shape is not None
            and isinstance(data.shape[1], int)
            and data.shape[1] <= _FEW_CHANNELS
        )
    )
