"""Operators of detectors."""

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Input, Kernel, Numbers, Row, integer


def _corners(boxes: Tensor, *, centred: bool) -> Tensor:
    """Low and high corners of boxes (count, 4), given by any diagonal, or by centre and size."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), -1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box with many, all as corners."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    common = sides.prod(-1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - common
    return torch.where(union > 0, common / union, torch.zeros_like(common))


def _suppress(boxes: Tensor, scores: Tensor, limit: int, overlap: float, thresholds: Sequence[float]) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    for threshold in thresholds:
        order = order[scores[order] > threshold]
    chosen: list[int] = []
    while len(order) and len(chosen) < limit:
        best, order = order[0], order[1:]
        chosen.append(int(best))
        order = order[_overlap(boxes[best], boxes[order]) <= overlap]
    return chosen


def _non_max_suppression(node: ir.Node) -> Kernel:
    centred = bool(integer(node, "center_point_box"))
    most, widest, least = Numbers((0,)), Numbers((0.0,)), Numbers()

    def run(
        boxes: Tensor,
        scores: Tensor,
        count: Input = None,
        overlap: Input = None,
        threshold: Input = None,
    ) -> Tensor:
        limit, bound, floor = most.ints(count)[0], widest.floats(overlap)[0], least.floats(threshold)
        rows: list[tuple[int, int, int]] = []
        for image in range(scores.shape[0]):
            corners = _corners(boxes[image].detach(), centred=centred)
            for category in range(scores.shape[1]):
                chosen = _suppress(corners, scores[image, category].detach(), limit, bound, floor)
                rows.extend((image, category, box) for box in chosen)
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    return run


ROWS: tuple[Row, ...] = (("NonMaxSuppression", (10, 11), _non_max_suppression, (2, 3, 4)),)
