"""What detectors do with boxes."""

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Kernel, Numbers, Row, integer


def _corners(boxes: Tensor, *, centred: bool) -> Tensor:
    """Bring boxes (count, 4) to low and high corners, whichever diagonal they were given by."""
    if centred:
        x, y, width, height = boxes.unbind(-1)
        first, second = (
            torch.stack((x - width / 2, y - height / 2), -1),
            torch.stack((x + width / 2, y + height / 2), -1),
        )
    else:
        first, second = boxes[:, :2], boxes[:, 2:]
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), -1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box with many, all as corners."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    common = sides.prod(-1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - common
    return torch.where(union > 0, common / union, torch.zeros_like(common))


def _suppress(boxes: Tensor, scores: Tensor, limit: int, overlap: float, threshold: float | None) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    if threshold is not None:
        order = order[scores[order] > threshold]
    chosen: list[int] = []
    while len(order) and len(chosen) < limit:
        best, order = order[0], order[1:]
        chosen.append(int(best))
        order = order[_overlap(boxes[best], boxes[order]) <= overlap]
    return chosen


def _non_max_suppression(node: ir.Node) -> Kernel:
    centred = bool(integer(node, "center_point_box"))
    most, widest, least = Numbers(), Numbers(), Numbers()

    def run(
        boxes: Tensor,
        scores: Tensor,
        count: Tensor | None = None,
        overlap: Tensor | None = None,
        threshold: Tensor | None = None,
    ) -> Tensor:
        limit = 0 if count is None else most.ints(count)[0]
        bound = 0.0 if overlap is None else widest.floats(overlap)[0]
        floor = None if threshold is None else least.floats(threshold)[0]
        rows: list[tuple[int, int, int]] = []
        for image in range(scores.shape[0]):
            corners = _corners(boxes[image].detach(), centred=centred)
            for category in range(scores.shape[1]):
                chosen = _suppress(corners, scores[image, category].detach(), limit, bound, floor)
                rows.extend((image, category, box) for box in chosen)
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    return run


ROWS: tuple[Row, ...] = (("NonMaxSuppression", (10, 11), _non_max_suppression, (2, 3, 4)),)
