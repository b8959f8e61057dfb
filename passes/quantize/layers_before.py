"""Which layers lie right before which."""

import onnx_ir as ir

from passes.surgery import producer


def layers_before(weighted: list[ir.Node]) -> dict[ir.Node, set[ir.Node]]:
    """For each layer the layers right before it, with no other layer between."""
    layers = set(weighted)
    before: dict[ir.Node, set[ir.Node]] = {}
    for layer in weighted:
        before[layer], seen, stack = set(), set[ir.Node](), [layer]
        while stack:
            node = stack.pop()
            for maker in (producer(node, position) for position in range(len(node.inputs))):
                if maker is None or maker in seen:
                    continue
                seen.add(maker)
                if maker in layers:
                    before[layer].add(maker)
                else:
                    stack.append(maker)
    return before
