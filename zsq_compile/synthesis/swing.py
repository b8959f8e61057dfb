"""A teacher whose strided convolutions start at a random place in every run (see ``swing_convolutions``)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from passes.normalize.infer_shapes import InferShapes
from passes.normalize.swing_convolutions import SwingConvolutions, swing_offsets
from passes.plan import Refusal
from zsq_compile.differentiable.module import TorchGraph

_PLACES = 3  # one pixel before, where it was, and one pixel behind


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Swing:
    """A rewritten teacher that shares its weights with the original.

    Attributes:
        teacher: equivalent to the original with the offsets at the centre; all names of values are kept.
        axes: number of spatial axes by the name of the offset.
        refusals: strided convolutions that do not swing, with the reason.

    """

    teacher: TorchGraph
    axes: Mapping[str, int]
    refusals: tuple[Refusal, ...]

    def draw(self, rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw one offset per layer and axis, for ``TorchGraph.run(replace=...)``."""
        return {
            name: torch.randint(_PLACES, (count,), generator=rng, device=rng.device).cpu()
            for name, count in self.axes.items()
        }


def swing(teacher: TorchGraph) -> Swing:
    """Rewrite a copy of the teacher's model; the teacher and its model stay as they are."""
    model = teacher.model.clone()
    InferShapes().call(model)
    outcome = SwingConvolutions().call(model)
    moving = TorchGraph(model, device=teacher.device)
    moving.initializers.update(teacher.initializers)
    return Swing(teacher=moving, axes=swing_offsets(model), refusals=outcome.refusals)
