"""A few real inputs for calibration: alone, among synthetic ones, and none at all.

Each network is quantized in closed form (ranges, gptq, biases) on so many real inputs alone, on as many with variants
of them and synthetic samples beside (``zsq_compile.synthesis.filters.examples``), and on synthetic samples alone, and
is judged on other real inputs in ONNX Runtime with all optimizations off, which computes the quantized graph as it is
defined. The preprocessing is given. This is where ADDED and ENOUGH come from.

    PYTHONPATH=. python benchmarks/few_samples.py [--networks resnet20_bn ...] [--bits 8 4] [--counts 1 16] [--draws 2]

Finished rows are kept under ``--work``, so that a run of all of them may be stopped and go on.
"""

import argparse
import functools
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from harness import Rows, open_rows, runtime_key, source_key, table, write_result
from numpy.typing import NDArray
from zoo import IMAGENET_MEAN, IMAGENET_STD, add_common_options

from backends.catalog import load_target
from backends.session import open_session
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.config.generators import PixelsConfig, PriorConfig
from zsq_compile.data.dataset import Dataset, load_data
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Clock, Silent
from zsq_compile.quantization.even_channels import even_channels
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.stages.calibration_data import answering_share
from zsq_compile.stages.quantize import fold_network, run_steps, steps_for
from zsq_compile.synthesis.filters.examples import choose_evenly, vary_examples
from zsq_compile.synthesis.make_generator import make_generator

Arrays = Mapping[str, NDArray[np.generic]]
Judge = Callable[[Sequence[Arrays], Sequence[Arrays]], float]

_MISSING = "not measured"
_ARMS: Mapping[str, Mapping[str, float]] = {
    "replaced: 50 %": {"replaced": 0.5},
    "added: 50 %": {"added": 0.5},
    "added: 100 %": {"added": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with real inputs."""

    file: str
    calibration: str
    tested: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str = "rgb"
    synthetic: int = 128
    shapes: Mapping[str, tuple[int | None, ...]] | None = None
    most_tested: int = 1000


NETWORKS = {
    "resnet20_bn": Network(
        file="cifar10/resnet20_bn.onnx",
        calibration="cifar10/train4k_lossless.npz",
        tested="cifar10/test1k_lossless.npz",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "resnet20_folded": Network(
        file="cifar10/resnet20_folded.onnx",
        calibration="cifar10/train4k_lossless.npz",
        tested="cifar10/test1k_lossless.npz",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "mobilenetv1_075_folded": Network(
        file="imagenet/mobilenetv1_075_folded.onnx",
        calibration="imagenet-calib128",
        tested="imagenet-val400",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        synthetic=32,
        most_tested=200,
    ),
    "tinydarknet_folded": Network(
        file="imagenet/tinydarknet_folded.onnx",
        calibration="imagenet-calib128",
        tested="imagenet-val400",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        synthetic=32,
        most_tested=200,
    ),
    "yunet_n": Network(
        file="wild2/yunet_n.onnx",
        calibration="wild2/yunet_n.inputs.npz",
        tested="wild2/yunet_n.inputs.npz",
        mean=(0.0,) * 3,
        std=(1.0 / 255.0,) * 3,
        order="bgr",
        synthetic=32,
        shapes={"input": (None, 3, 320, 320)},
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """One network, loaded, and its real inputs."""

    loaded: LoadedModel
    preprocessing: Preprocessing
    pool: Dataset
    tested: Sequence[Arrays]
    wanted: Sequence[Arrays]
    judge: Judge
    synthetic: int


@functools.cache
def prepare(name: str, assets: Path, most: int) -> Bench:
    """Load a network, and compute what it makes of the inputs that it is judged on."""
    network = NETWORKS[name]
    loaded = load_model(assets / "models" / network.file, verify=False, input_shapes=dict(network.shapes or {}))
    preprocessing = given_preprocessing(3, network.mean, network.std)
    places = {key: getattr(network, key) for key in ("calibration", "tested")}
    read = {}
    for key, place in places.items():
        if network.order == "bgr":  # stored as the network takes them
            stored = np.load(assets / "models" / place)[f"{'calib' if key == 'calibration' else 'eval'}/input"][:, 0]
            rows = list(stored[:, ::-1].transpose(0, 2, 3, 1))
            made = load_data(assets / "imagenet-calib128", loaded.inputs, preprocessing, limit=1)
            read[key] = Dataset(samples={loaded.inputs[0].name: rows}, labels=None, preparation=made.preparation)
        else:
            read[key] = load_data(assets / place, loaded.inputs, preprocessing)
    if network.order == "bgr":
        preprocessing = Preprocessing(
            name="given", mean=network.mean, std=network.std, channel_order="bgr", source="given"
        )
    tested = read["tested"].first(min(network.most_tested, most)).prepared(preprocessing)
    feeds = [inputs for inputs, _ in tested.batches(1 if network.order == "bgr" else 50)]
    session = open_session(loaded.path, optimize="none")
    return Bench(
        loaded=loaded,
        preprocessing=preprocessing,
        pool=read["calibration"].prepared(preprocessing),
        tested=feeds,
        wanted=[session.run(dict(one)) for one in feeds],
        judge=judge_of(assets) if network.order == "bgr" else same_classes,
        synthetic=network.synthetic,
    )


def same_classes(wanted: Sequence[Arrays], got: Sequence[Arrays]) -> float:
    """Share of samples whose largest score is that of the same class."""
    pairs = [(next(iter(one.values())), next(iter(other.values()))) for one, other in zip(wanted, got, strict=True)]
    return float(np.mean(np.concatenate([one.argmax(1) == other.argmax(1) for one, other in pairs])))


def judge_of(assets: Path) -> Judge:
    """Share of YuNet's boxes that are found again, by the judge that lies beside the network."""
    path = assets / "models" / "wild2" / "judge.py"
    spec = importlib.util.spec_from_file_location("wild2_judge", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    judge = module.JUDGES["yunet_n"][1]
    return lambda wanted, got: float(judge(wanted, got)[0])


@functools.cache
def synthesize(bench: Bench) -> Samples:
    """Make the synthetic samples as the compiler does, some of them moved until silent heads answer."""
    loaded, statistics = bench.loaded, harvest_batchnorm(bench.loaded.model)
    config = PixelsConfig() if statistics.usable else PriorConfig()
    share = answering_share(None)
    generator = make_generator(config, loaded.inputs, bench.preprocessing, effort="fast", answering_share=share)
    made = generator.synthesize(TorchGraph(loaded.model), statistics, bench.synthetic, torch.Generator().manual_seed(0))
    return Samples(inputs=made.inputs)


def mix(bench: Bench, synthetic: Samples, real: Dataset, *, replaced: float = 0.0, added: float = 0.0) -> Samples:
    """Put real inputs and variants of them in the place of a share of the synthetic ones, or beside all of them."""
    name, count = bench.loaded.inputs[0].name, synthetic.count
    total = round(count * (1.0 + added))
    chosen = choose_evenly(total, replaced or 1.0 - count / total, 1)
    rng = torch.Generator().manual_seed(1)
    varied = vary_examples(real, bench.loaded.inputs, {name: bench.preprocessing}, int(chosen.sum()), rng)
    values = synthetic.inputs[name].new_empty(total, *synthetic.inputs[name].shape[1:])
    values[~chosen] = synthetic.inputs[name][: int((~chosen).sum())] if added else synthetic.inputs[name][~chosen]
    values[chosen] = varied[name]
    return Samples(inputs={name: values})


def measure(bench: Bench, samples: Samples, bits: int) -> dict[str, Any]:
    """Quantize on samples, and judge: ``found`` is a share, ``sqnr_db`` that of all outputs together."""
    config = CompileConfig(effort="fast", quantization=QuantizationConfig(bits=bits))
    target, loaded = load_target("ort_cpu"), bench.loaded
    statistics = harvest_batchnorm(loaded.model)
    folded, statistics = fold_network(loaded.model, statistics, equalize=False, merge=bits == 8, target=target)
    plan = plan_quantization(folded, target, config.quantization)
    folded, statistics = even_channels(folded, statistics, plan, samples, Silent())
    network = FloatNetwork(
        teacher=TorchGraph(folded), target=target, statistics=statistics, calibration=samples, held_out=samples
    )
    states, _ = run_steps(network, plan, steps_for(config), Clock(Silent()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        ir.save(list(states.values())[-1].qdq, path)
        session = open_session(path, optimize="none")
        got = [session.run(dict(feeds)) for feeds in bench.tested]
    return {"found": bench.judge(bench.wanted, got), "sqnr_db": noise(bench.wanted, got)}


def noise(wanted: Sequence[Arrays], got: Sequence[Arrays]) -> float:
    """Return the least signal-to-noise ratio of an output, dB."""
    found = []
    for name in wanted[0]:
        one, other = (np.concatenate([np.ravel(each[name]) for each in part]) for part in (wanted, got))
        found.append(10.0 * np.log10(np.square(one).sum() / np.square(one - other).sum()))
    return float(min(found))


def drawn(pool: Dataset, count: int, draw: int) -> Dataset:
    """Draw real inputs."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(100 * count + draw))[:count].tolist()
    return Dataset(
        samples={name: [rows[index] for index in order] for name, rows in pool.samples.items()},
        labels=None,
        preparation=pool.preparation,
    )


def row_of(name: str, bits: int, count: int, options: argparse.Namespace, rows: Rows) -> list[str]:
    """Measure one network at one width with so many real inputs; what is there is taken from ``rows``."""
    cells = []
    for arm in ("alone", *_ARMS, "synthetic alone"):
        found = []
        for draw in range(1 if arm == "synthetic alone" else options.draws):
            real = 0 if arm == "synthetic alone" else count
            key = ["few_samples", source_key(), runtime_key(), name, *map(str, (bits, real, draw, options.tested)), arm]
            make = None if options.finished else partial(_measure_arm, name, options, bits, real, draw, arm)
            row = rows.get(key, make)
            if row is not None:
                print(name, bits, real, draw, arm, row["found"], flush=True)
                found.append((100 * row["found"], row["sqnr_db"]))
        shares, ratios = zip(*found, strict=True) if found else ((), ())
        each = " and ".join(f"{share:.1f}" for share in shares)
        cells.append(f"{each} %, {np.mean(ratios):.1f} dB" if found else _MISSING)
    return [name, f"W{bits}A8", str(count), *cells]


def _measure_arm(name: str, options: argparse.Namespace, bits: int, count: int, draw: int, arm: str) -> dict[str, Any]:
    bench = prepare(name, options.assets, options.tested)
    if arm == "synthetic alone":
        return measure(bench, synthesize(bench), bits)
    real = drawn(bench.pool, count, draw)
    if arm == "alone":
        arrays = real.arrays(bench.preprocessing)
        return measure(bench, Samples(inputs={key: torch.from_numpy(one) for key, one in arrays.items()}), bits)
    return measure(bench, mix(bench, synthesize(bench), real, **_ARMS[arm]), bits)


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4])
    parser.add_argument("--counts", nargs="*", type=int, default=[1, 16], help="real inputs")
    parser.add_argument("--draws", type=int, default=2, help="of real inputs")
    parser.add_argument("--tested", type=int, default=1000, help="inputs to judge on, at most")
    parser.add_argument("--finished", action="store_true", help="measure nothing, and write what has been measured")
    options = parser.parse_args()
    rows = open_rows(options)
    measured = [
        row_of(name, bits, count, options, rows)
        for name in options.networks
        for bits in options.bits
        for count in options.counts
    ]
    write([row for row in measured if any(cell != _MISSING for cell in row[3:-1])])


def write(rows: list[list[str]]) -> None:
    """Write the table."""
    head = ["network", "bits", "real inputs", "alone", *_ARMS, "synthetic alone"]
    body = (
        "Decisions that are those of the float network; of yunet_n boxes that are found again, by the judge beside it. "
        "Each figure is one draw; the noise is that of the worst output, the mean over draws. Real inputs are drawn at "
        "random from the calibration data, with seeds that follow from their number, whatever they show. Replaced: in "
        "the place of so many synthetic samples come real inputs and variants of them. Added: all synthetic samples "
        "stay, and as large a share of their number of real inputs and variants comes on top.\n\n"
    )
    write_result("few_samples", "A few real inputs", body + table(head, rows))


if __name__ == "__main__":
    main()
