"""Control flow. These kernels take the bodies of the node first, by attribute: functions of the body's inputs."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import TORCH_TYPES, Input, Kernel, Row, integer, integers

Bodies = Mapping[str, Callable[..., tuple[Tensor, ...]]]


def _if(node: ir.Node) -> Kernel:
    def run(bodies: Bodies, condition: Tensor) -> tuple[Tensor, ...]:
        return bodies["then_branch" if bool(condition) else "else_branch"]()

    return run


def _loop(node: ir.Node) -> Kernel:
    body = node.attributes["body"].as_graph()
    counter, flag = ((1,) * len(value.shape or ()) for value in body.inputs[:2])

    def run(bodies: Bodies, count: Input = None, condition: Input = None, *carried: Tensor) -> tuple[Tensor, ...]:
        limit = None if count is None else int(count)
        going, turn, collected = condition is None or bool(condition), 0, list[tuple[Tensor, ...]]()
        while going and (limit is None or turn < limit):
            made = bodies["body"](torch.full(counter, turn), torch.full(flag, going), *carried)
            going, turn = bool(made[0]), turn + 1
            carried, scanned = made[1 : 1 + len(carried)], made[1 + len(carried) :]
            collected.append(scanned)
        return (*carried, *_stack(collected, body.outputs[1 + len(carried) :]))

    return run


def _scan(node: ir.Node) -> Kernel:
    inputs = integer(node, "num_scan_inputs")
    body = node.attributes["body"].as_graph()
    states = len(body.inputs) - inputs
    outputs = len(body.outputs) - states
    axes, backwards = (integers(node, f"scan_input_{kind}") or (0,) * inputs for kind in ("axes", "directions"))
    output_axes, output_backwards = (
        integers(node, f"scan_output_{kind}") or (0,) * outputs for kind in ("axes", "directions")
    )

    def run(bodies: Bodies, *given: Tensor) -> tuple[Tensor, ...]:
        carried, collected = given[:states], list[tuple[Tensor, ...]]()
        rows = [x.flip(axis) if back else x for x, axis, back in zip(given[states:], axes, backwards, strict=True)]
        for turn in range(rows[0].shape[axes[0]]):
            made = bodies["body"](*carried, *(x.select(axis, turn) for x, axis in zip(rows, axes, strict=True)))
            carried = made[:states]
            collected.append(made[states:])
        stacked = _stack(collected, body.outputs[states:], output_axes)
        turned = zip(stacked, output_axes, output_backwards, strict=True)
        return (*carried, *(x.flip(axis) if back else x for x, axis, back in turned))

    return run


def _stack(
    collected: Sequence[tuple[Tensor, ...]], declared: Sequence[ir.Value], axes: Sequence[int] = ()
) -> tuple[Tensor, ...]:
    """Stack what each turn gave, one tensor for each output of the body, along a new axis."""
    axes = axes or (0,) * len(declared)
    if collected:
        return tuple(torch.stack(parts, axis) for parts, axis in zip(zip(*collected, strict=True), axes, strict=True))
    return tuple(_empty(value, axis) for value, axis in zip(declared, axes, strict=True))


def _empty(value: ir.Value, axis: int) -> Tensor:
    """Make what no turn at all stacks; sizes that the body does not declare are 0."""
    sizes = [size if isinstance(size, int) else 0 for size in value.shape or ()]
    sizes.insert(axis % (len(sizes) + 1), 0)
    return torch.zeros(sizes, dtype=TORCH_TYPES.get(value.dtype or ir.DataType.FLOAT, torch.float32))


_VERSIONS = (11, 13, 16, 19, 21, 23, 24, 25)

ROWS: tuple[Row, ...] = (
    ("If", (1, *_VERSIONS), _if),
    ("Loop", (1, *_VERSIONS), _loop),
    ("Scan", (9, *(version for version in _VERSIONS if version != 13)), _scan),
)
