"""A few real inputs for calibration: alone, among synthetic ones, and none at all.

Each network is quantized in closed form (ranges, gptq, biases) on so many real inputs alone, on as many with variants
of them and synthetic samples beside (``zsq_compile.synthesis.filters.examples``), and on synthetic samples alone, and
is judged on other real inputs in ONNX Runtime with all optimizations off, which computes the quantized graph as it is
defined. The preprocessing is given. This is where SHARE and ENOUGH come from.

    PYTHONPATH=. python benchmarks/few_samples.py [--shared ../shared] [--networks resnet20_bn ...]
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from harness import table, write_result
from numpy.typing import NDArray
from zoo import IMAGENET_MEAN, IMAGENET_STD

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
from zsq_compile.stages.quantize import fold_network, run_steps, steps_for
from zsq_compile.synthesis.filters import examples as mixing
from zsq_compile.synthesis.filters.examples import vary_examples
from zsq_compile.synthesis.make_generator import make_generator

Arrays = Mapping[str, NDArray[np.generic]]
Judge = Callable[[list[Arrays], list[Arrays]], float]

_COUNTS = (1, 4, 16, 32, 64)
_DRAWS = {1: 3, 4: 2}
_FACES = (0.6, 0.9)  # least score, and least overlap of a box that is found again


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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One network, loaded, and its real inputs."""

    loaded: LoadedModel
    preprocessing: Preprocessing
    pool: Dataset
    tested: list[Arrays]
    wanted: list[Arrays]
    judge: Judge
    synthetic: int


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
        judge=boxes_found if network.order == "bgr" else same_classes,
        synthetic=network.synthetic,
    )


def same_classes(wanted: list[Arrays], got: list[Arrays]) -> float:
    """Share of samples whose largest score is that of the same class."""
    pairs = [(next(iter(one.values())), next(iter(other.values()))) for one, other in zip(wanted, got, strict=True)]
    return float(np.mean(np.concatenate([one.argmax(1) == other.argmax(1) for one, other in pairs])))


def boxes_found(wanted: list[Arrays], got: list[Arrays]) -> float:
    """Share of the float network's faces that the quantized one finds again."""
    least, overlap = _FACES
    count = found = 0
    for one, other in zip(wanted, got, strict=True):
        boxes, others = faces(one, least), faces(other, 0.8 * least)
        count += len(boxes)
        found += sum(bool(len(others)) and bool((overlaps(box, others) > overlap).any()) for box in boxes)
    return found / count


def faces(outputs: Arrays, least: float) -> NDArray[np.float64]:
    """Decode YuNet's boxes (count, 4), the best score first, without those that overlap a better one."""
    boxes, scores = [], []
    for stride in (8, 16, 32):
        kind, objectness = (np.asarray(outputs[f"{key}_{stride}"], np.float64).reshape(-1) for key in ("cls", "obj"))
        offsets = np.asarray(outputs[f"bbox_{stride}"], np.float64).reshape(-1, 4)
        score = np.sqrt(kind.clip(0, 1) * objectness.clip(0, 1))
        rows, columns = np.divmod(np.arange(len(score)), 320 // stride)
        middle = (np.stack([columns, rows], 1) + offsets[:, :2]) * stride
        half = np.exp(offsets[:, 2:]) * stride / 2
        boxes.append(np.concatenate([middle - half, middle + half], 1)[score > least])
        scores.append(score[score > least])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    kept: list[NDArray[np.float64]] = []
    for box in np.concatenate(boxes)[order]:
        if not kept or (overlaps(box, np.stack(kept)) < 0.45).all():
            kept.append(box)
    return np.stack(kept) if kept else np.zeros((0, 4))


def overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of a box with others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inside = sides.clip(0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return np.asarray(inside / (areas - inside))


def synthesize(bench: Bench) -> Samples:
    """Make the synthetic samples."""
    loaded, statistics = bench.loaded, harvest_batchnorm(bench.loaded.model)
    config = PixelsConfig() if statistics.usable else PriorConfig()
    generator = make_generator(config, loaded.inputs, bench.preprocessing, effort="fast")
    made = generator.synthesize(TorchGraph(loaded.model), statistics, bench.synthetic, torch.Generator().manual_seed(0))
    return Samples(inputs=made.inputs)


def share_of(bench: Bench) -> float:
    """Share of the samples that real inputs make."""
    return mixing.SHARES[bool(harvest_batchnorm(bench.loaded.model).usable)]


def mix(bench: Bench, synthetic: Samples, real: Dataset) -> Samples:
    """Put real inputs and variants of them among synthetic ones, as the compiler does."""
    name = bench.loaded.inputs[0].name
    chosen = mixing.choose_evenly(synthetic.count, share_of(bench), 1)
    rng = torch.Generator().manual_seed(1)
    varied = vary_examples(real, bench.loaded.inputs, {name: bench.preprocessing}, int(chosen.sum()), rng)
    values = synthetic.inputs[name].clone()
    values[chosen] = varied[name]
    return Samples(inputs={name: values})


def measure(bench: Bench, samples: Samples, bits: int) -> float:
    """Quantize on samples, and judge."""
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
        return bench.judge(bench.wanted, [session.run(dict(feeds)) for feeds in bench.tested])


def drawn(pool: Dataset, count: int, draw: int) -> Dataset:
    """Draw real inputs."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(100 * count + draw))[:count].tolist()
    return Dataset(
        samples={name: [rows[index] for index in order] for name, rows in pool.samples.items()},
        labels=None,
        preparation=pool.preparation,
    )


def rows_of(name: str, bench: Bench, bits: int, counts: Sequence[int], draws: int) -> Iterator[list[str]]:
    """Measure one network at one width, and yield each row as soon as it is there."""
    synthetic = synthesize(bench)
    none = f"{100 * measure(bench, synthetic, bits):.1f}"
    for count in (count for count in counts if count <= len(bench.pool)):
        found: dict[str, list[float]] = {"alone": [], "mixed": []}
        for draw in range(min(_DRAWS.get(count, 1), draws)):
            real = drawn(bench.pool, count, draw)
            alone = {key: torch.from_numpy(array) for key, array in real.arrays(bench.preprocessing).items()}
            found["alone"].append(measure(bench, Samples(inputs=alone), bits))
            found["mixed"].append(measure(bench, mix(bench, synthetic, real), bits))
        cells = [f"{100 * np.mean(part):.1f} ({100 * min(part):.1f})" for part in found.values()]
        yield [name, f"W{bits}A8", str(count), *cells, none]


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4])
    parser.add_argument("--counts", nargs="*", type=int, default=list(_COUNTS), help="real inputs")
    parser.add_argument("--draws", type=int, default=max(_DRAWS.values()), help="of few of them, at most")
    parser.add_argument("--tested", type=int, default=1000, help="inputs to judge on, at most")
    parser.add_argument("--share", type=float, help="of the samples that real inputs make, for all networks")
    options = parser.parse_args()
    if options.share is not None:
        mixing.SHARES.update({True: options.share, False: options.share})
    rows = []
    for name in options.networks:
        bench = prepare(name, options.shared / "assets", options.tested)
        for bits in options.bits:
            for row in rows_of(name, bench, bits, options.counts, options.draws):
                rows.append(row)
                write(rows)


def write(rows: list[list[str]]) -> None:
    """Write what there is: with many networks that takes hours."""
    head = ["network", "bits", "real inputs", "alone: mean (least)", "mixed: mean (least)", "synthetic alone"]
    body = (
        "Decisions that are those of the float network, percent; of yunet_n faces that are found again with an overlap "
        f"above {_FACES[1]}. Of the mixed samples {mixing.SHARES[True]:.0%} are real ones and their variants where "
        f"statistics are left, and {mixing.SHARES[False]:.0%} where none are.\n\n"
    )
    write_result("few_samples", "A few real inputs", body + table(head, rows))


if __name__ == "__main__":
    main()
