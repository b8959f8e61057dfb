"""Ranges of values of which calibration sees few numbers, with and without the widening of ``few_numbers``.

Networks with squeeze-and-excite blocks are calibrated on a few pictures, drawn several times, and their activations are
quantized; the ratio of signal to quantization noise is that on other pictures, weights in float.

    PYTHONPATH=. python benchmarks/few_numbers.py [--shared ../shared]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import table
from torch import Tensor

from backends.catalog import load_target
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.quantize.place_quantizers import place_quantizers
from tests.breadth.exports import export, pictures
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import load_model
from zsq_compile.metrics import sqnr_db
from zsq_compile.quantization.calibration import few_numbers
from zsq_compile.quantization.calibration.calibrate import calibrate
from zsq_compile.quantization.calibration.scales import choose_weight_scales
from zsq_compile.quantization.state import make_state
from zsq_compile.stages.quantize import fold_network

_COUNTS = (8, 16, 32, 64)
_DRAWS = 6
_TESTED = 40
_MOST = few_numbers.MOST


def made_up(name: str) -> tuple[Path, Tensor]:
    """Write a network of the tests, and make pictures for it."""
    folder = Path(tempfile.mkdtemp())
    return export(name, "folded", "NCHW", folder), pictures(160, torch.Generator().manual_seed(7))


def real(shared: Path, name: str) -> tuple[Path, Tensor]:
    """Find a network that people use, and real pictures for it."""
    folder = shared / "assets" / "models" / "wild2"
    arrays = np.load(folder / f"{name}.inputs.npz")
    pixels = np.concatenate([arrays["eval/x"], arrays["calib/x"]])[:, 0]
    return folder / f"{name}.onnx", torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1.0)


def prepare(path: Path) -> TorchGraph:
    """Load a float network as the compiler quantizes it."""
    model = load_model(path, verify=False).model
    return TorchGraph(fold_network(model, harvest_batchnorm(model), equalize=False)[0])


def measure(teacher: TorchGraph, samples: Tensor, count: int, draw: int, *, widened: bool) -> float:
    """Decibels on pictures that calibration has not seen."""
    few_numbers.MOST = _MOST if widened else 0
    tested, pool = samples[:_TESTED], samples[_TESTED:]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(draw))[:count]
    (name,) = teacher.input_names
    plan = place_quantizers(teacher.model, load_target("ort_cpu"))
    plan = plan.with_scales(activations=calibrate(plan, teacher, [{name: pool[order]}], "mse"))
    plan = plan.with_scales(weights=choose_weight_scales(plan, teacher.initializers, "mse"))
    quantized = TorchGraph(make_state(teacher.model, plan).qdq)
    with torch.inference_mode():
        wanted, got = (graph.run({name: tested}) for graph in (teacher, quantized))
    return min(sqnr_db(wanted[output].numpy(), got[output].numpy()) for output in wanted)


def main() -> None:
    """Print the least and the median ratio over the draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared
    networks = {name: made_up(name) for name in ("mobilenet_v3", "efficientnet")}
    networks |= {name: real(shared, name) for name in ("ppocr_cls",)}
    rows = []
    for name, (path, samples) in networks.items():
        teacher = prepare(path)
        for count in (count for count in _COUNTS if count <= len(samples) - _TESTED):
            found = [
                [measure(teacher, samples, count, draw, widened=widened) for draw in range(_DRAWS)]
                for widened in (False, True)
            ]
            cells = (f"{min(ratios):.1f}, {np.median(ratios):.1f}" for ratios in found)
            rows.append([name, str(count), *cells])
            print(rows[-1], flush=True)
    print(table(["network", "samples", "as seen: least, median dB", "widened: least, median dB"], rows))


if __name__ == "__main__":
    main()
