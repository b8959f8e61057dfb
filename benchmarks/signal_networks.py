"""Train small networks whose inputs are no pictures, on inputs of many scales, so that their truth is known.

Data are made here and by other means than the compiler's own signals: tones, ridges as in spectrograms, sequences of
vectors, rows of a table. Every network takes a second or two.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SCALES = {  # deviation and mean of the whole input
    "quiet": (0.05, 0.0),
    "standard": (1.0, 0.0),
    "wide": (16.0, 0.0),
    "hundreds": (100.0, 0.0),
    "decibels": (15.0, -40.0),
    "positive": (1.0, 1.5),
    "raw": (3000.0, 0.0),
    "percent": (25.0, 50.0),
}
TASKS = ("tones", "ridges", "vectors", "rows", "levels")
BODIES = {"tones": ("conv",), "ridges": ("conv", "dense", "gru", "lstm"), "vectors": ("dense", "conv", "gru", "lstm")}
STYLES = ("torch", "keras", "decay")
_STEPS, _BATCH, _RATE = 400, 64, 2e-3
_LEAST = 0.7  # accuracy above chance, or share of the variance that a regression explains


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A network to train: its task, its body, how it is initialised and trained, and the scale of its input."""

    task: str
    body: str
    style: str
    scale: str
    normalised: bool

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return "_".join((self.task, self.body, self.style, self.scale, *(("bn",) if self.normalised else ())))


def recipes() -> Iterator[Recipe]:
    """Yield every network, about seventy: each task and body with each scale, in one of the styles."""
    styles = itertools.cycle(STYLES)
    for task in TASKS:
        for body in BODIES.get(task, ("dense",)):
            for number, (scale, (_, mean)) in enumerate(SCALES.items()):
                style = next(styles)
                # sounds have no mean; recurrent networks take long, so that two kinds of them share the scales
                if (task == "tones" and mean != 0.0) or number % 2 == {"gru": 1, "lstm": 0}.get(body, 2):
                    continue
                yield Recipe(task=task, body=body, style=style, scale=scale, normalised=False)
            if body in ("conv", "dense"):
                yield Recipe(task=task, body=body, style=next(styles), scale="wide", normalised=True)


def draw_data(task: str, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw inputs (count, ...) of mean 0 and deviation 1 over all, and classes, or numbers for "levels"."""
    rng = np.random.default_rng(seed)
    if task == "tones":
        labels = rng.integers(0, 5, count)
        pitch = 90.0 * 1.7 ** (labels + rng.uniform(-0.3, 0.3, count))
        times = np.arange(1024) / 16000.0
        phase = 2 * np.pi * pitch[:, None] * times + rng.uniform(0, 6.3, (count, 1))
        made = sum(np.sin(k * phase) * rng.uniform(0, 1, (count, 1)) / k for k in range(1, 7))
        made = made + 0.1 * rng.standard_normal((count, 1024))
        made = (made * 10 ** rng.uniform(-1.3, 0, (count, 1)))[:, None]
    elif task == "ridges":
        labels = rng.integers(0, 4, count)
        frame, band = np.linspace(0, 1, 40)[None, :, None], np.linspace(0, 1, 20)[None, None]
        slope = np.array([-0.6, -0.1, 0.3, 0.8])[labels][:, None, None] + rng.uniform(-0.1, 0.1, (count, 1, 1))
        centre = rng.uniform(0.3, 0.7, (count, 1, 1)) + slope * (frame - 0.5)
        energy = np.exp(-(((band - centre) / 0.08) ** 2)) * 10 ** rng.uniform(-1, 0, (count, 1, 1))
        made = np.log(energy + 10 ** rng.uniform(-4, -3, (count, 1, 1)) * rng.random((count, 40, 20)))
    elif task == "vectors":
        labels = (rng.random(count) < 0.3).astype(np.int64)
        tie = np.random.default_rng(7)
        mix, common = tie.standard_normal((5, 32)), tie.standard_normal(32) * 0.4
        way = tie.standard_normal((16, 5))
        walk = rng.standard_normal((count, 16, 5)).cumsum(1) / 3
        made = (walk + labels[:, None, None] * 1.6 * way) @ mix + common + 0.5 * rng.standard_normal((count, 16, 32))
    else:
        tie = np.random.default_rng(5)
        shared = rng.standard_normal((count, 4))
        made = shared @ tie.standard_normal((4, 12)) + 0.6 * rng.standard_normal((count, 12))
        made[:, 3::4] = np.sign(made[:, 3::4])
        made[:, 2::4] = np.exp(0.5 * made[:, 2::4])
        score = np.tanh(shared @ tie.standard_normal((4, 3))) + 0.4 * shared[:, :3]
        labels = score.argmax(1) if task == "rows" else 3.0 + 2.0 * score[:, 0]
    made = (made - made.mean()) / made.std()
    return made.astype(np.float32), labels


class Network(nn.Module):
    """A body with a head, for inputs (N, steps, features), (N, 1, samples) or (N, features)."""

    def __init__(self, recipe: Recipe, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.recipe = recipe
        norm = nn.BatchNorm1d if recipe.normalised else lambda _: nn.Identity()
        width = 48
        if recipe.body == "dense":
            sizes = (math.prod(shape), width, width)
            layers = [nn.Sequential(nn.Linear(a, b), norm(b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
            self.body: nn.Module = nn.Sequential(nn.Flatten(), *layers)
        elif recipe.body == "conv":
            long = recipe.task == "tones"
            sizes = (shape[0] if long else shape[1], 16, 32, width)
            kernels = (64, 9, 9) if long else (5, 3, 3)
            strides = (8, 4, 2) if long else (1, 2, 2)
            triples = zip(itertools.pairwise(sizes), kernels, strides, strict=True)
            layers = [
                nn.Sequential(nn.Conv1d(a, b, kernel, stride, kernel // 2), norm(b), nn.ReLU())
                for (a, b), kernel, stride in triples
            ]
            self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())
        else:
            self.body = (nn.GRU if recipe.body == "gru" else nn.LSTM)(shape[1], width, batch_first=True)
        self.head = nn.Linear(width, outputs)
        if recipe.style == "keras":
            self.apply(_as_keras)

    def forward(self, values: Tensor) -> Tensor:
        """(N, ...) -> (N, outputs): probabilities of a classifier, a number of a regression."""
        scores = self.logits(values)
        if self.recipe.task == "levels":
            return scores
        return scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)

    def logits(self, values: Tensor) -> Tensor:
        """(N, ...) -> (N, outputs)."""
        if self.recipe.body in ("gru", "lstm"):
            return self.head(self.body(values)[0][:, -1])
        return self.head(self.body(values.transpose(1, 2) if self._turns else values))

    @property
    def _turns(self) -> bool:
        return self.recipe.body == "conv" and self.recipe.task != "tones"


def _as_keras(module: nn.Module) -> None:
    """Initialise as Keras does: Glorot and Bengio's uniform weights, orthogonal recurrent ones, no biases."""
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            (nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_)(parameter)


def train(recipe: Recipe, path: Path) -> float:
    """Train and export one network; returns its accuracy above chance, or the share of variance explained."""
    seed = sum(map(ord, recipe.name))
    torch.manual_seed(seed)
    deviation, mean = SCALES[recipe.scale]
    values, labels = draw_data(recipe.task, 3000, seed)
    inputs = torch.from_numpy(values) * deviation + mean
    classes = int(labels.max()) + 1
    targets = torch.from_numpy(labels.astype(np.float32 if recipe.task == "levels" else np.int64))
    outputs = 1 if recipe.task in ("levels", "vectors") else classes
    network = Network(recipe, tuple(inputs.shape[1:]), outputs)
    kind = torch.optim.AdamW if recipe.style == "decay" else torch.optim.Adam
    optimizer = kind(network.parameters(), _RATE, **({"weight_decay": 0.05} if recipe.style == "decay" else {}))
    for step in range(_STEPS):
        chosen = torch.randint(2500, (_BATCH,))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, 2.0 * (1.0 - step / _STEPS))
        loss = _loss(recipe, network.logits(inputs[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        made, wanted = network.logits(inputs[2500:]), targets[2500:]
    torch.onnx.export(
        network, (inputs[:2],), str(path), input_names=["input"], output_names=["output"], opset_version=17,
        dynamic_axes={"input": {0: "N"}, "output": {0: "N"}}, dynamo=False,
    )  # fmt: skip
    if recipe.task == "levels":
        return 1.0 - float((made[:, 0] - wanted).square().mean() / wanted.var())
    found = (made[:, 0] > 0).long() if outputs == 1 else made.argmax(1)
    chance = float(torch.bincount(wanted).max() / len(wanted))
    return (float((found == wanted).float().mean()) - chance) / (1.0 - chance)


def _loss(recipe: Recipe, scores: Tensor, targets: Tensor) -> Tensor:
    if recipe.task == "levels":
        return nn.functional.mse_loss(scores[:, 0], targets)
    if scores.shape[1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(scores[:, 0], targets.float())
    return nn.functional.cross_entropy(scores, targets)


def trained(folder: Path) -> Iterator[tuple[Recipe, Path]]:
    """Yield the networks that learnt their task, trained now where their file is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in recipes():
        path, note = folder / f"{recipe.name}.onnx", folder / f"{recipe.name}.txt"
        if not note.is_file():
            note.write_text(f"{train(recipe, path):.4f}\n")
        if float(note.read_text()) >= _LEAST:
            yield recipe, path
