"""Train small detectors on drawn scenes, and export them as the toolkits of their kinds do, for ``detectors.py``.

Each takes some minutes on one processor. Nothing of it belongs into the repository: files go to WORK/detectors, with
``detectors.json`` that says how pictures are prepared and what each float file finds on scenes it has not seen.

    python benchmarks/train_detectors.py                         # those that are not there yet
    python benchmarks/train_detectors.py --networks distance     # those whose names begin so
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detector_losses import loss_of
from detector_networks import AnchorDetector, CentreDetector, Detector, DistanceDetector, PriorDetector
from drawn_scenes import CLASSES, Scene, draw_scene, mean_precision, suppress
from torch import Tensor, nn
from zoo import IMAGENET_MEAN, IMAGENET_STD, RAW_STD, add_common_options, chosen

from backends.session import open_session

LISTED = "detectors.json"
JUDGED_SEED = 7_000_001  # of the scenes that files are judged on; training draws others
LEAST_SCORE = 0.05  # of the boxes that the mean precision is taken over

_BATCH, _JUDGED = 12, 100
_TRAINED_SIDE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one detector is made.

    Attributes:
        name: of the network, and the beginning of its files' names.
        make: classes -> the network.
        mean: in units of [0, 1], by channel of RGB.
        std: likewise.
        side: pixels of the exported input.
        steps: of training.
        rate: largest learning rate of AdamW.
        exports: "folded" is what toolkits write, "kept" keeps batch normalisation.

    """

    name: str
    make: Callable[[int], Detector]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    side: int = 256
    steps: int = 2000
    rate: float = 3e-3
    exports: tuple[str, ...] = ("folded",)


_HALF = (127 / 255, 127 / 255, 127 / 255)

RECIPES: tuple[Recipe, ...] = (
    Recipe(name="distance", make=DistanceDetector, exports=("folded", "kept")),
    Recipe(name="prior", make=PriorDetector, mean=_HALF, std=(128 / 255,) * 3),
    Recipe(name="centre", make=CentreDetector, mean=IMAGENET_MEAN, std=IMAGENET_STD, steps=1600),
    Recipe(name="anchor", make=AnchorDetector, std=(RAW_STD,) * 3),
)


def train(recipe: Recipe, folder: Path, *, seed: int = 0) -> Detector:
    """Train a network on scenes that are drawn as they are needed; returned in inference mode."""
    torch.manual_seed(seed)
    gen = np.random.default_rng(seed + 1)
    network = recipe.make(len(CLASSES))
    decayed = [one for one in network.parameters() if one.ndim > 1]
    others = [one for one in network.parameters() if one.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1, final_div_factor=100
    )
    mean, std = (torch.tensor(one).reshape(1, 3, 1, 1) for one in (recipe.mean, recipe.std))
    network.train()
    for step in range(recipe.steps):
        scenes = [draw_scene(gen, _TRAINED_SIDE) for _ in range(_BATCH)]
        pixels = torch.from_numpy(np.stack([one.pixels for one in scenes])).permute(0, 3, 1, 2).float() / 255
        truth = ([torch.from_numpy(one.boxes) for one in scenes], [torch.from_numpy(one.labels) for one in scenes])
        loss = loss_of(network, (pixels - mean) / std, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{recipe.name}: step {step + 1} of {recipe.steps}, loss {loss.item():.3f}", flush=True)
        if step % 800 == 799:
            torch.save(network.state_dict(), folder / f"{recipe.name}.part.pt")
    return network.eval()


class _Answers(nn.Module):
    """A detector as its file has it."""

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.network.answer(x)


def export(recipe: Recipe, network: Detector, form: str, path: Path) -> None:
    """Write a file with an open batch."""
    names = list(network.output_names)
    torch.onnx.export(
        _Answers(network).train(mode=False),
        (torch.zeros(1, 3, recipe.side, recipe.side),),
        str(path),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE if form == "kept" else torch.onnx.TrainingMode.EVAL,
        do_constant_folding=form == "folded",
        opset_version=17,
        input_names=["images"],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
    )


def judged_scenes(side: int, count: int = _JUDGED) -> list[Scene]:
    """Scenes that no training has seen."""
    gen = np.random.default_rng(JUDGED_SEED)
    return [draw_scene(gen, side) for _ in range(count)]


def precision(path: Path, recipe: Recipe) -> float:
    """Mean average precision at an overlap of 0.5 of a file, 0 to 1."""
    session, scenes, found = open_session(path), judged_scenes(recipe.side), []
    for scene in scenes:
        values = (scene.pixels.astype(np.float32) / 255 - recipe.mean) / recipe.std
        feeds = {"images": values.transpose(2, 0, 1)[None].astype(np.float32)}
        outputs = session.run(feeds)
        boxes, scores = recipe.make(len(CLASSES)).read_boxes(outputs, recipe.side)
        found.append(suppress(boxes[0], scores[0], least=LEAST_SCORE))
    return mean_precision(found, scenes)


def make(recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
    """Train one detector, or take its weights from WORK, and write its files; return what is true of each."""
    weights, start = folder / f"{recipe.name}.pt", time.perf_counter()
    if weights.is_file():
        network = recipe.make(len(CLASSES))
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.eval()
    else:
        network = train(recipe, folder)
        torch.save(network.state_dict(), weights)
    seconds, rows = time.perf_counter() - start, []
    for form in recipe.exports:
        path = folder / f"{recipe.name}_{form}.onnx"
        export(recipe, network, form, path)
        rows.append(
            {
                "name": path.stem,
                "group": recipe.name,
                "path": path.name,
                "mean": recipe.mean,
                "std": recipe.std,
                "side": recipe.side,
                "parameters": sum(one.numel() for one in network.parameters()),
                "precision": precision(path, recipe),
                "seconds": round(seconds, 1),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--networks", nargs="*", help="detectors, or the beginnings of their names (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)  # sums in another order give other weights
    folder = options.work / "detectors"
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / LISTED
    recipes = {one.name: one for one in RECIPES}
    for name in chosen(options.networks, tuple(recipes)):
        rows = json.loads(listed.read_text()) if listed.is_file() else []
        if not options.fresh and any(row["group"] == name for row in rows):
            continue
        made = make(recipes[name], folder)
        rows = json.loads(listed.read_text()) if listed.is_file() else []  # another process may have written since
        scratch = listed.with_suffix(".part")
        scratch.write_text(json.dumps([*(row for row in rows if row["group"] != name), *made], indent=1))
        scratch.replace(listed)
        for row in made:
            print(
                f"{row['name']}: {row['parameters'] / 1e6:.2f} M parameters, mAP@0.5 {row['precision']:.1%}, "
                f"trained in {row['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
