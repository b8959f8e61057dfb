"""What the detectors of ``detector_networks.py`` learn from: losses of the networks that they are like.

A batch is (N, 3, side, side) pictures with a list of boxes (things, 4), corners in pixels, and one of labels.
"""

import math
from typing import Any

import torch
from detector_networks import (
    ANCHORS,
    BINS,
    STRIDES,
    VARIANCES,
    AnchorDetector,
    CentreDetector,
    DistanceDetector,
    PriorDetector,
    priors_of,
)
from torch import Tensor
from torch.nn import functional

Truth = tuple[list[Tensor], list[Tensor]]

_ALIGNED = 10  # places that learn a thing, in the task-aligned assignment
_HARD = 3  # places without a thing that count, for each with one (SSD)
_MATCHED = 0.4  # overlap from which on a prior learns a thing
_ANCHOR_RATIO = 4.0  # farthest factor between the sides of an anchor and of the thing it learns


def complete_overlap(one: Tensor, other: Tensor) -> Tensor:
    """CIoU (Zheng et al. 2020) of (..., 4) corners, at most 1."""
    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(0)
    sizes = [(part[..., 2:] - part[..., :2]).clamp(1e-4) for part in (one, other)]
    inside = shared.prod(-1)
    overlap = inside / (sizes[0].prod(-1) + sizes[1].prod(-1) - inside + 1e-7)
    hull = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    apart = (one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]).square().sum(-1) / 4
    angles = [torch.atan(size[..., 0] / size[..., 1]) for size in sizes]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    with torch.no_grad():
        weight = shape / (shape - overlap + 1.0 + 1e-7)
    return overlap - apart / (hull.square().sum(-1) + 1e-7) - weight * shape


def distance_loss(network: DistanceDetector, pictures: Tensor, truth: Truth) -> Tensor:
    """Loss of YOLOv8: BCE on aligned scores, CIoU, and cross-entropy of the two nearest bins (Li et al. 2020)."""
    bins, logits, centres, strides = network(pictures)
    places = centres.T
    distances = network.distances(bins).transpose(1, 2)
    corners = torch.cat([places - distances[..., :2], places + distances[..., 2:]], 2) * strides[:, None]
    scores = logits.transpose(1, 2)
    rows = bins.reshape(len(pictures), 4, BINS, -1).permute(0, 3, 1, 2)
    wanted, overlaps, finer, weights = torch.zeros_like(scores), [], [], []
    for number, (boxes, labels) in enumerate(zip(*truth, strict=True)):
        if not len(boxes):
            continue
        found = (corners[number].detach(), scores[number].detach().sigmoid())
        owner, worth = _align(*found, places * strides[:, None], boxes, labels)
        chosen = (owner >= 0).nonzero()[:, 0]
        own = boxes[owner[chosen]]
        wanted[number, chosen, labels[owner[chosen]]] = worth[chosen]
        weights.append(worth[chosen])
        overlaps.append(complete_overlap(corners[number, chosen], own))
        scaled = own / strides[chosen, None]
        reach = torch.cat([places[chosen] - scaled[:, :2], scaled[:, 2:] - places[chosen]], 1).clamp(0, BINS - 1.01)
        below, share = reach.long(), reach - reach.long()
        logs = rows[number, chosen].log_softmax(-1)
        lower, upper = (logs.gather(-1, (below + step)[..., None])[..., 0] for step in (0, 1))
        finer.append(-((1 - share) * lower + share * upper).mean(-1))
    total = wanted.sum().clamp(1.0)
    loss = 0.5 * functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum") / total
    if overlaps:
        weight = torch.cat(weights)
        loss = loss + ((7.5 * (1 - torch.cat(overlaps)) + 1.5 * torch.cat(finer)) * weight).sum() / total
    return loss


def _align(corners: Tensor, scores: Tensor, centres: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Assign places to things by score and overlap (Feng et al. 2021): number of the thing or -1, and its worth."""
    inside = torch.cat([centres[None] - boxes[:, None, :2], boxes[:, None, 2:] - centres[None]], 2).amin(2) > 1e-6
    overlap = complete_overlap(corners[None], boxes[:, None]).clamp(0) * inside
    metric = scores[:, labels].T.sqrt() * overlap.pow(6) * inside
    best = metric.topk(min(_ALIGNED, metric.shape[1]), 1).indices
    taken = torch.zeros_like(inside).scatter_(1, best, True) & inside
    owner = torch.where(taken, overlap, -1.0).argmax(0)
    owner = torch.where(taken.any(0), owner, -1)
    own = taken & (owner[None] == torch.arange(len(boxes))[:, None])
    metric, overlap = metric * own, overlap * own
    worth = metric / (metric.amax(1, keepdim=True) + 1e-9) * overlap.amax(1, keepdim=True)
    return owner, worth.amax(0)


def anchor_loss(network: AnchorDetector, pictures: Tensor, truth: Truth) -> Tensor:
    """Loss of YOLOv5: anchors of a thing's shape at its place and the two nearest; CIoU, BCE."""
    owners = torch.cat([torch.full((len(one),), number) for number, one in enumerate(truth[0])])
    boxes, labels = torch.cat(truth[0]), torch.cat(truth[1])
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    loss = torch.zeros(())
    for raw, stride, numbers, balance in zip(network(pictures), STRIDES, ANCHORS, (4.0, 1.0, 0.4), strict=True):
        anchors = torch.tensor(numbers, dtype=torch.float32).reshape(3, 2)
        ratio = size[:, None] / anchors
        fits = torch.maximum(ratio, 1 / ratio).amax(2) < _ANCHOR_RATIO
        thing, anchor = fits.nonzero(as_tuple=True)
        cell = centre[thing] / stride
        steps = torch.where(cell % 1.0 < 0.5, -1, 1)
        shifts = torch.stack([torch.zeros_like(steps), steps * torch.tensor([1, 0]), steps * torch.tensor([0, 1])])
        place = cell.floor().long()[None] + shifts
        limits = torch.tensor([raw.shape[3], raw.shape[2]])
        valid = ((place >= 0) & (place < limits)).all(2)
        thing, anchor = (one.expand(3, -1)[valid] for one in (thing, anchor))
        place = place[valid]
        target = torch.zeros_like(raw[..., 4])
        if len(thing):
            own = raw[owners[thing], anchor, place[:, 1], place[:, 0]]
            middle = (own[:, :2].sigmoid() * 2 - 0.5 + place) * stride
            sides = (own[:, 2:4].sigmoid() * 2) ** 2 * anchors[anchor]
            overlap = complete_overlap(torch.cat([middle - sides / 2, middle + sides / 2], 1), boxes[thing])
            target[owners[thing], anchor, place[:, 1], place[:, 0]] = overlap.detach().clamp(0)
            named = functional.one_hot(labels[thing], own.shape[1] - 5).float()
            loss = loss + 0.1 * (1 - overlap).mean()
            loss = loss + 0.3 * functional.binary_cross_entropy_with_logits(own[:, 5:], named)
        loss = loss + balance * functional.binary_cross_entropy_with_logits(raw[..., 4], target)
    return loss


def prior_loss(network: PriorDetector, pictures: Tensor, truth: Truth) -> Tensor:
    """Loss of SSD (Liu et al. 2016): cross-entropy with the hardest places without a thing, smooth L1 of offsets."""
    offsets, logits = network(pictures)
    priors = priors_of(pictures.shape[-1])
    around = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    wanted, near, count = torch.zeros(logits.shape[:2], dtype=torch.long), torch.zeros(()), 0
    for number, (boxes, labels) in enumerate(zip(*truth, strict=True)):
        if not len(boxes):
            continue
        overlap = _overlap(around, boxes)
        share, owner = overlap.max(1)
        best = overlap.argmax(0)  # every thing has one prior
        share[best], owner[best] = 1.0, torch.arange(len(boxes))
        chosen = (share > _MATCHED).nonzero()[:, 0]
        own, prior = boxes[owner[chosen]], priors[chosen]
        wanted[number, chosen] = labels[owner[chosen]] + 1
        middle = ((own[:, :2] + own[:, 2:]) / 2 - prior[:, :2]) / (VARIANCES[0] * prior[:, 2:])
        sides = ((own[:, 2:] - own[:, :2]) / prior[:, 2:]).log() / VARIANCES[1]
        near = near + functional.smooth_l1_loss(offsets[number, chosen], torch.cat([middle, sides], 1), reduction="sum")
        count += len(chosen)
    each = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
    hard = torch.where(wanted > 0, 0.0, each.detach()).argsort(1, descending=True).argsort(1)
    learned = (wanted > 0) | (hard < _HARD * (wanted > 0).sum(1, keepdim=True).clamp(4))
    return ((each * learned).sum() + 0.7 * near) / max(count, 1)


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    low, high = torch.maximum(one[:, None, :2], other[None, :, :2]), torch.minimum(one[:, None, 2:], other[None, :, 2:])
    inside = (high - low).clamp(0).prod(2)
    areas = [(part[:, 2:] - part[:, :2]).prod(1) for part in (one, other)]
    return inside / (areas[0][:, None] + areas[1] - inside + 1e-7)


def centre_loss(network: CentreDetector, pictures: Tensor, truth: Truth) -> Tensor:
    """Loss of CenterNet (Zhou et al. 2019): focal loss of a map with bells at the centres, L1 of size and offset."""
    heat, size, offset = network(pictures)
    wanted, losses = torch.zeros_like(heat), []
    rows, columns = (torch.arange(one, dtype=torch.float32) for one in heat.shape[2:])
    for number, (boxes, labels) in enumerate(zip(*truth, strict=True)):
        for box, label in zip(boxes / 4, labels.tolist(), strict=True):
            centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            x, y = (int(one) for one in centre)
            wide, tall = ((0.12 * one).clamp(0.6) for one in sides)
            down, across = (-((rows - y) ** 2) / (2 * tall**2)).exp(), (-((columns - x) ** 2) / (2 * wide**2)).exp()
            wanted[number, label] = torch.maximum(wanted[number, label], down[:, None] * across)
            losses.append((size[number, :, y, x] - sides.log()).abs().sum())
            losses.append((offset[number, :, y, x] - (centre - torch.tensor([x, y]))).abs().sum())
    sure, unsure = functional.logsigmoid(heat), functional.logsigmoid(-heat)
    share, peaks = heat.sigmoid(), wanted >= 1.0
    focal = torch.where(peaks, (1 - share) ** 2 * sure, (1 - wanted) ** 4 * share**2 * unsure).sum()
    return (torch.stack(losses).sum() - focal) / peaks.sum().clamp(1)


def loss_of(network: Any, pictures: Tensor, truth: Truth) -> Tensor:
    """Loss of any of the detectors, a scalar."""
    match network:
        case DistanceDetector():
            return distance_loss(network, pictures, truth)
        case AnchorDetector():
            return anchor_loss(network, pictures, truth)
        case PriorDetector():
            return prior_loss(network, pictures, truth)
        case CentreDetector():
            return centre_loss(network, pictures, truth)
    raise TypeError(f"no loss for {type(network).__name__}")
