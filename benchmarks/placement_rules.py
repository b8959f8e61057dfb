"""What each placement rule is worth: networks with real inputs and without, with a rule and without it.

Networks are calibrated on real inputs where there are any, else on drawn pictures, without learning or correction of
biases, so that nothing but placement differs. Noise is that of the worst output on inputs that calibration has not
seen, in ONNX Runtime; those of assets/models/wild2 are judged by judge.py beside them as well. Times are the least of
interleaved runs, one thread.

    PYTHONPATH=. python benchmarks/placement_rules.py [--networks NAME...] [--rules NAME...] [--assets ../shared/assets]
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import torch
from harness import table, write_result
from numpy.typing import NDArray
from zoo import ROOT

from backends.catalog import load_target
from backends.session import Session, open_session
from backends.target import PlacementRule, Structure, Target
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.emit.emit import emit
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from tests.breadth.exports import export, pictures
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import load_model
from zsq_compile.metrics import sqnr_db
from zsq_compile.quantization.calibration.calibrate import calibrate
from zsq_compile.quantization.calibration.scales import choose_weight_scales
from zsq_compile.stages.quantize import fold_network

Feeds = Mapping[str, NDArray[np.generic]]

DRAWN = ("mobilenet_v3", "efficientnet", "ghostnet", "convnext", "vit", "ssd", "yolo", "crnn")
_SAMPLES, _RUNS = 32, 30


@dataclass(frozen=True, slots=True)
class Network:
    """A float network, feeds to calibrate with and to judge with, and who judges."""

    path: Path
    calibration: Sequence[Feeds]
    tested: Sequence[Feeds]
    judge: ModuleType | None = None


def drawn(name: str) -> Network:
    """Write a network of the tests, and make pictures for it."""
    path = export(name, "folded", "NCHW", Path(tempfile.mkdtemp()))
    images = pictures(2 * _SAMPLES, torch.Generator().manual_seed(7)).numpy()
    feeds = [{"x": image[None]} for image in images]
    return Network(path, feeds[:_SAMPLES], feeds[_SAMPLES:])


def with_real_inputs(folder: Path, name: str) -> Network:
    """Find a network with real inputs beside it."""
    spec = importlib.util.spec_from_file_location("judge", folder / "judge.py")
    assert spec is not None and spec.loader is not None
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    calibration, tested = (judge.feeds(name, part) for part in ("calib", "eval"))
    return Network(folder / f"{name}.onnx", calibration[:_SAMPLES], tested, judge)


def build(network: Network, teacher: TorchGraph, target: Target, path: Path) -> int:
    """Quantize a network for a target into a file; return how many values are quantized."""
    plan = place_quantizers(teacher.model, target)
    batches = [{name: torch.from_numpy(array) for name, array in feed.items()} for feed in network.calibration]
    plan = plan.with_scales(activations=calibrate(plan, teacher, batches, "mse"))
    plan = plan.with_scales(weights=choose_weight_scales(plan, teacher.initializers, "mse"))
    model = teacher.model.clone()
    InsertQdq(plan)(model)
    emit(model, plan, target)
    onnx.save(ir.to_proto(model), path)
    return len(plan.activations)


def noise(session: Session, wanted: Sequence[Feeds], feeds: Sequence[Feeds]) -> float:
    """Decibels of the worst output, all samples together."""
    got = [session.run(feed) for feed in feeds]
    floats = [name for name, array in wanted[0].items() if array.dtype == np.float32]
    joined = ([np.concatenate([one[name].ravel() for one in part]) for part in (wanted, got)] for name in floats)
    return min(sqnr_db(reference, other) for reference, other in joined)


def times(sessions: Sequence[Session], feed: Feeds) -> list[float]:
    """Milliseconds of each, the least of interleaved runs."""
    best = [np.inf] * len(sessions)
    for _ in range(_RUNS):
        for number, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(feed)
            best[number] = min(best[number], time.perf_counter() - start)
    return [1e3 * one for one in best]


def verdict(network: Network, path: Path) -> str:
    """Say what a user of the network would see."""
    if network.judge is None:
        return ""
    name = network.path.stem
    results = [network.judge.outputs(one, network.tested) for one in (network.path, path)]
    renamed = [dict(zip(a, b.values(), strict=True)) for a, b in zip(*results, strict=True)]
    return str(network.judge.JUDGES[name][1](results[0], renamed)[1])


def measure(name: str, network: Network, target: Target, structures: Sequence[Structure]) -> list[list[str]]:
    """Rows of one network: every structure switched round, where that changes its plan."""
    feed = network.calibration[0]
    shapes = {key: tuple(array.shape) for key, array in feed.items()}
    model = load_model(network.path, input_shapes=shapes, verify=False).model
    teacher = TorchGraph(fold_network(model, harvest_batchnorm(model), equalize=False, target=target)[0])
    kept = {rule.structure for rule in target.keep_float}
    variants = {"as it is": target}
    for one in structures:
        own = tuple(rule for rule in target.keep_float if rule.structure != one)
        rules = own if one in kept else (*target.keep_float, PlacementRule(structure=one, reason="it is tried"))
        variants[f"{'without' if one in kept else 'with'} {one}"] = replace(target, keep_float=rules)
    plans = {label: place_quantizers(teacher.model, one).activations for label, one in variants.items()}
    changed = [label for label, found in plans.items() if found != plans["as it is"]]
    variants = {label: variants[label] for label in ("as it is", *changed)}
    reference = open_session(network.path, threads=1)
    wanted = [reference.run(one) for one in network.tested]
    rows, sessions, paths = [], [reference], {}
    for label, one in variants.items():
        paths[label] = Path(tempfile.mkdtemp()) / "quantized.onnx"
        rows.append([name, label, str(build(network, teacher, one, paths[label]))])
        sessions.append(open_session(paths[label], threads=1))
    taken = times(sessions, network.tested[0])
    for row, session, ms in zip(rows, sessions[1:], taken[1:], strict=True):
        quality = verdict(network, paths[row[1]])
        row += [f"{noise(session, wanted, network.tested):.1f}", quality, f"{ms:.2f}", f"{taken[0] / ms:.2f}"]
        print(" | ".join(row), flush=True)
    return rows


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, default=ROOT.parent / "shared" / "assets", help="folder with models")
    parser.add_argument("--networks", nargs="*", help="of the tests, or of assets/models/wild2 (default: all)")
    parser.add_argument("--rules", nargs="*", default=get_args(Structure), help="structures (default: all)")
    parser.add_argument("--target", default="auto", help="target (default: this machine's)")
    options = parser.parse_args()
    folder = options.assets / "models" / "wild2"
    real = [path.name.removesuffix(".inputs.npz") for path in sorted(folder.glob("*.inputs.npz"))]
    rows = []
    for name in options.networks or (*DRAWN, *real):
        network = drawn(name) if name in DRAWN else with_real_inputs(folder, name)
        rows += measure(name, network, load_target(options.target), options.rules)
    header = ["network", "rules", "quantized values", "worst output, dB", "on real inputs", "ms", "times float"]
    write_result("placement_rules", "What each placement rule is worth", table(header, rows))


if __name__ == "__main__":
    main()
