"""From which distances on is a preprocessing another one than the usual ones? Fitted by leaving one network out.

Networks with batch normalisation whose preprocessing is known are tried as they are, and as if they had been trained on
pixels in ranges that nobody uses: the usual preprocessing is right for the former, a fitted one for the latter.
"""

import argparse
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from harness import table, write_result
from zoo import ROOT

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.frontend.load import load_model
from zsq_compile.stages.calibration_data import CONTRAST
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.preprocessing.fit import Fit
from zsq_compile.synthesis.preprocessing.infer import EXPLAINED, LAYERS, MUCH_NEARER, NEAR
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

# Model beneath the assets or the cases, and what it was trained with.
KNOWN = {
    "models/cifar10/resnet20_bn.onnx": "imagenet",
    "models/cifar10/resnet56_bn.onnx": "imagenet",
    "models/cifar10/resnet8_cifar10_bn.onnx": "byte",
    "models/imagenet/mobilenetv1_075_bn.onnx": "symmetric",
    "models/wild/ultraface_rfb320.onnx": "symmetric",
    "models/wild/pfld_landmark.onnx": "unit",
    "models/wild/deeplab_mnv2_dm05_513.onnx": "symmetric",
    "models/wild2/ppocr_cls.onnx": "symmetric",
    "models/wild2/ppocrv4_det.onnx": "imagenet",
    "mean-in-bytes/model.onnx": "imagenet",
    "nhwc-0-255-bn/model.onnx": "byte",
    "bn-on-the-input/model.onnx": "unit",
}
# Of black and white.
ODD_RANGES = ((0.0, 10.0), (0.0, 65535.0), (-70.0, 0.0), (0.0, 100.0), (-8.0, 8.0), (5.0, 6.0), (0.0, 0.1))

_NEAR = [0.02 * 1.15**step for step in range(30)]
_MUCH = [1.5 * 1.2**step for step in range(16)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A network on one range: distances of the nearest usual preprocessing and of the fitted one.

    ``reach`` is how many times farther from the middle than our pictures real ones lie under the fitted one.
    """

    network: str
    truth: str
    nearest: str
    usual: float
    fitted: float
    reach: float

    def is_right(self, near: float, much: float) -> bool:
        """Whether the rule of ``infer_from_statistics`` would choose right."""
        fits = self.usual > near and self.fitted * much <= self.usual
        return fits if self.truth == "odd" else not fits and self.nearest == self.truth


def measure(path: Path, truth: str) -> Iterator[Row]:
    """Try one network on dead leaves."""
    loaded = load_model(path, simplify=False, verify=False)
    spec = next(one for one in loaded.inputs if one.is_image)
    rng = torch.Generator().manual_seed(0)
    network = TrialNetwork(
        model=loaded.model,
        spec=spec,
        draw_images=lambda count, height, width: prior_images(count, spec.channels, height, width, rng).numpy(),
        others={},
    )
    trial = network.watch(harvest_batchnorm(loaded.model).usable[:LAYERS])
    assert trial is not None
    candidates = usual_preprocessings(spec.channels, spec.layout or "NCHW")
    fit = Fit(trial.of_first_layer(), lambda mean, std: replace(candidates[0], mean=mean, std=std), spec.channels)
    found = fit.run()
    fitted = trial.distance(found)
    own = next(one for one in candidates if one.name == truth)
    name = path.stem if path.stem != "model" else path.parent.name
    for low, high in (None, None), *ODD_RANGES:
        tried = candidates if low is None else [_on_another_range(one, own, low, high) for one in candidates]
        distances = [trial.distance(one) for one in tried]
        best = min(range(len(candidates)), key=distances.__getitem__)
        yield Row(
            network=name,
            truth=truth if low is None else "odd",
            nearest=candidates[best].name,
            usual=distances[best],
            fitted=fitted,
            reach=_reach(found, own),
        )


def _reach(fitted: Preprocessing, own: Preprocessing) -> float:
    """How far black and white of the training data lie from the middle, as pixels of the fitted one; 1 if right."""
    rows = zip(fitted.mean, fitted.std, own.mean, own.std, strict=True)
    return 2 * max(abs(mean + std * (end - m) / s - 0.5) for mean, std, m, s in rows for end in (0.0, 1.0))


def _on_another_range(one: Preprocessing, own: Preprocessing, low: float, high: float) -> Preprocessing:
    """Preprocessing ``one`` of a network that undoes the range before its ``own`` preprocessing is applied.

    It takes x = low + (high - low) pixel, and sees (x - low) / (high - low) encoded by its own.
    """
    rows = list(zip(one.mean, one.std, own.mean, own.std, strict=True))
    span = high - low
    return replace(
        own,
        mean=tuple(mean + (low + span * other) * std for mean, std, other, _ in rows),
        std=tuple(std * span * scale for _, std, _, scale in rows),
    )


def choose(rows: Sequence[Row]) -> tuple[float, float]:
    """Thresholds in the middle, on a logarithmic scale, of those that are right most often.

    Both kinds of ranges count alike, however many there are.
    """
    counts = {
        pair: sum(row.is_right(*pair) * (1 if row.truth == "odd" else len(ODD_RANGES)) for row in rows)
        for pair in itertools.product(_NEAR, _MUCH)
    }
    best = [pair for pair, count in counts.items() if count == max(counts.values())]
    near, much = (math.exp(sum(math.log(one) for one in column) / len(best)) for column in zip(*best, strict=True))
    return near, much


def explained(rows: Sequence[Row]) -> float:
    """Distance in the middle between the farthest usual preprocessing that is right and the nearest that is not."""
    right = max(row.usual for row in rows if row.truth != "odd" and row.nearest == row.truth)
    return math.sqrt(right * min(row.usual for row in rows if row.truth == "odd" and row.usual > right))


def contrast(rows: Sequence[Row]) -> float:
    """Reach that three quarters of the networks stay within."""
    return float(np.quantile([row.reach for row in rows if row.truth != "odd"], 0.75))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = ROOT.parent / "shared"
    parser.add_argument("--assets", type=Path, default=Path(os.environ.get("ZSQ_ASSETS", shared / "assets")))
    parser.add_argument("--cases", type=Path, default=Path(os.environ.get("ZSQ_CASES", shared / "cases/graphs")))
    options = parser.parse_args()
    rows: list[Row] = []
    for name, truth in KNOWN.items():
        folder = options.assets if name.startswith("models") else options.cases
        rows += measure(folder / name, truth)
        print(rows[-len(ODD_RANGES) - 1], flush=True)
    lines, right = [], 0
    for network in dict.fromkeys(row.network for row in rows):
        own, others = ([row for row in rows if (row.network == network) is same] for same in (True, False))
        near, much = choose(others)
        good = sum(row.is_right(near, much) for row in own)
        right += good
        odd = [row.usual for row in own if row.truth == "odd"]
        lines.append(
            [network, own[0].truth, own[0].nearest]
            + [f"{value:.3g}" for value in (own[0].usual, min(odd), max(odd), own[0].fitted, near, much)]
            + [f"{good} of {len(own)}", f"{explained(others):.2f}", f"{own[0].reach:.2f}", f"{contrast(others):.2f}"]
        )
    near, much = choose(rows)
    header = ["network", "trained with", "nearest", "its distance", "least of odd", "most of odd", "fitted"]
    header += ["near", "much nearer", "right", "explained", "reach", "contrast"]
    body = (
        f"{right} of {len(rows)} are right with thresholds that were fitted to all other networks; on all of them they "
        f"are {near:.2g} and {much:.2g}, and {explained(rows):.2g} for what is explained. In use: {NEAR:g}, "
        f"{MUCH_NEARER:g} and {EXPLAINED:g}. Contrast: {contrast(rows):.2f}, in use {CONTRAST:g}.\n\n"
        f"Odd ranges: {', '.join(f'{low:g} to {high:g}' for low, high in ODD_RANGES)}.\n\n" + table(header, lines)
    )
    write_result("preprocessing", "Usual preprocessings and fitted ones", body)


if __name__ == "__main__":
    main()
