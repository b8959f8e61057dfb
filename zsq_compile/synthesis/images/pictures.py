"""Families of pictures, and mixtures of them: what a network that takes pictures may have been trained on."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.drawings import drawings, strokes
from zsq_compile.synthesis.images.faces import faces
from zsq_compile.synthesis.images.objects import objects
from zsq_compile.synthesis.images.pages import pages
from zsq_compile.synthesis.images.text_lines import text_lines

PictureFamily = Literal["photographs", "objects", "faces", "pages", "text lines", "drawings", "strokes"]
Shares: TypeAlias = Mapping[PictureFamily, float]
"""Parts of a mixture by family; they add up to 1."""

FAMILIES: tuple[PictureFamily, ...] = get_args(PictureFamily)
PHOTOGRAPHS: Shares = {"photographs": 1.0}

_DRAW: Mapping[PictureFamily, Callable[[int, int, int, int, torch.Generator], Tensor]] = {
    "photographs": prior_images,
    "objects": objects,
    "faces": faces,
    "pages": pages,
    "text lines": text_lines,
    "drawings": drawings,
    "strokes": strokes,
}


def draw_family(
    family: PictureFamily, count: int, channels: int, height: int, width: int, rng: torch.Generator
) -> Tensor:
    """Make (count, channels, height, width) pictures of a family in [0, 1], RGB order, on the device of ``rng``.

    Raises:
        ValueError: channels is not 1, 3 or 4.

    """
    return _DRAW[family](count, channels, height, width, rng)


def draw_pictures(spec: InputSpec, count: int, rng: torch.Generator, shares: Shares = PHOTOGRAPHS) -> Tensor:
    """Make ``count`` pictures (N, C, H, W) in [0, 1] for an input, of a mixture of families.

    Families come in random order, so that every part of the set has about the shares of the whole, and what else takes
    turns is not always that of one family. Photographs alone are what ``prior_images`` makes.
    """
    turns = _take_turns(count, shares)
    if len(set(turns)) > 1:
        turns = [turns[place] for place in torch.randperm(count, generator=rng, device=rng.device).tolist()]
    pictures = torch.empty(spec.pictures(count), device=rng.device)
    for family in FAMILIES:
        places = [place for place, one in enumerate(turns) if one == family]
        if places:
            pictures[places] = draw_family(family, *spec.pictures(len(places)), rng)
    return pictures


def _take_turns(count: int, shares: Shares) -> list[PictureFamily]:
    """Families of so many pictures: always the one that is most behind its share."""
    behind = {family: shares.get(family, 0.0) for family in FAMILIES}
    turns: list[PictureFamily] = []
    for _ in range(count):
        family = max(FAMILIES, key=lambda one: behind[one])
        turns.append(family)
        behind = {one: behind[one] + shares.get(one, 0.0) for one in FAMILIES}
        behind[family] -= 1.0
    return turns
