"""What a gallery of a synthetic set shows: its images as pixels, and what the network takes each of them for."""

from collections.abc import Sequence
from pathlib import Path

import torch

from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.class_scores import class_probabilities, find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.quantization.samples import Samples
from zsq_compile.reporting.gallery import MOST_PICTURES, draw_gallery, write_gallery
from zsq_compile.stages.calibration_data import first_image
from zsq_compile.synthesis.generator import SyntheticSet

_LEGEND = "Captions: the class that the network sees, and its confidence"
_ASKED_LEGEND = "Captions: the class asked for, the class that the network sees, and its confidence"


def require_image(inputs: Sequence[InputSpec]) -> InputSpec:
    """Return the first image input.

    Raises:
        ConfigError: there is none.

    """
    if image := first_image(inputs):
        return image
    shapes = ", ".join(f"{spec.name!r} {spec.shape}" for spec in inputs)
    raise ConfigError(
        f"a gallery shows images, which are floats or bytes of 1, 3 or 4 channels, and this network takes "
        f"{shapes}: leave --gallery out"
    )


def show_synthetic(
    path: Path, title: str, teacher: TorchGraph, inputs: Sequence[InputSpec], made: SyntheticSet
) -> None:
    """Write the first images of a set as a PNG, with the network's class and its confidence where it has classes.

    Raises:
        ConfigError: the network takes no image, or the file cannot be written.

    """
    name = require_image(inputs).name
    values = made.inputs[name]
    count = min(len(values), MOST_PICTURES)
    pixels = made.decode(name, count)
    words = captions(teacher, inputs, made, count)
    number = str(count) if count == len(values) else f"{count} of {len(values)}"
    said = f"{title}: {number} synthetic images ({made.algorithm}, seed {made.seed})"
    legend = _LEGEND if made.labels is None else _ASKED_LEGEND
    remark = "Made from the network alone, without data" if words is None else legend
    write_gallery(path, draw_gallery(pixels.numpy(), words, said, remark))


def captions(teacher: TorchGraph, inputs: Sequence[InputSpec], made: SyntheticSet, count: int) -> list[str] | None:
    """Class and confidence of the first ``count`` samples; None where no output looks like class scores.

    The class that was asked for stands in front, where there is one: "3 as 5, 90%".
    """
    seen = classify(teacher, inputs, made, count)
    if seen is None or made.labels is None:
        return None if seen is None else [f"class {label}, {confidence:.0%}" for label, confidence in seen]
    asked = made.labels[:count].tolist()
    return [f"{wanted} as {label}, {sure:.0%}" for wanted, (label, sure) in zip(asked, seen, strict=True)]


def classify(
    teacher: TorchGraph, inputs: Sequence[InputSpec], made: SyntheticSet, count: int
) -> list[tuple[int, float]] | None:
    """Class and its probability of the first ``count`` samples; None where no output looks like class scores."""
    fixed = fixed_batch(inputs)
    whole = -(-count // (fixed or 1)) * (fixed or 1)
    rows = []
    for batch in Samples(inputs={name: value[:whole] for name, value in made.inputs.items()}, fixed=fixed).batches():
        with torch.inference_mode():
            feeds = {name: value.to(teacher.device) for name, value in batch.items()}
            outputs = teacher.run(feeds, teacher.even_outputs)
        found = find_scores(outputs)
        if found is None:
            return None
        rows.append(class_probabilities(outputs[found[0]]).cpu())
    best = torch.cat(rows)[:count].max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
