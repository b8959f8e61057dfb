"""Every kind of network, from every exporter, at 8 and 4 bits: a valid file in integers that computes what it must.

Pictures go through the file as they go through the float model; how near the outputs come has a floor for each kind of
network, some dB below what it reached when the floor was set. Random weights are noisier than trained ones.
"""

import concurrent.futures
import functools
import importlib.util
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from backends.session import open_session
from tests.breadth.architectures import ARCHITECTURES
from tests.breadth.exports import export, pictures
from zsq_compile.compiler import compile_model
from zsq_compile.config.compile import CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.metrics import sqnr_db
from zsq_compile.reporting.report import Report
from zsq_compile.synthesis.images import families
from zsq_compile.verification.validate import validate

Exported = Callable[[str, str, str], Path]
Compiled = Callable[[str, str, str, int], tuple[Path, Path, Report]]

_SAMPLES, _PICTURES = 16, 16
_MEAN, _STD = (0.45,), (0.225,)

# Least dB at 8 and at 4 bits.
FLOORS = {
    "resnet": (38, 25),
    "mobilenet_v2": (26, 18),
    "mobilenet_v3": (22, 12),
    "efficientnet": (24, 15),
    "shufflenet": (34, 19),
    "ghostnet": (32, 21),
    "repvgg": (33, 21),
    "convnext": (30, 25),
    "vit": (22, 21),
    "unet": (25, 16),
    "ssd": (33, 19),
    "yolo": (39, 31),
    "crnn": (35, 23),
}

# Layers that stand in front of an output with nothing but moves and sums between, or that make box coordinates: of yolo
# the four heads, and the convolution that takes the mean of a distribution over distances (target row "decode_tail").
IN_FLOAT = {"unet": 1, "ssd": 4, "yolo": 5}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Write each network once. torch.export takes seconds for one, so a second process does that beside the tests."""
    there = importlib.util.find_spec("onnxscript") is not None
    folder = tmp_path_factory.mktemp("exports")
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        slow = {name: pool.submit(export, name, "dynamo", "NCHW", folder) for name in ARCHITECTURES if there}

        @functools.cache
        def written(name: str, exporter: str, layout: str) -> Path:
            if exporter != "dynamo":
                return export(name, exporter, layout, folder)
            if not there:
                pytest.skip("torch.onnx.export(dynamo=True) needs onnxscript, of the extra 'test'")
            return slow[name].result()

        yield written
        pool.shutdown(cancel_futures=True)  # what no test asked for


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads cost more than they bring on networks of this size, and the other process has the other core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compiled(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiled]:
    """Compile each file once, without the clock and most of the estimate, which take longer than all the rest."""
    folder = tmp_path_factory.mktemp("compiled")

    @functools.cache
    def made(name: str, exporter: str, layout: str, bits: int) -> tuple[Path, Path, Report]:
        model, output = exported(name, exporter, layout), folder / f"{name}_{exporter}_{layout}_{bits}.onnx"
        quantization = QuantizationConfig(bits=bits)
        # As `pictures` makes them: nothing proves that in networks that were never trained
        given = InputConfig(mean=_MEAN, std=_STD)
        config = CompileConfig(
            samples=_SAMPLES,
            effort="fast",
            speed_trials=False,
            quantization=quantization,
            input=given,
            keep_quality="off",  # what can run in integers shall: noise of random weights is of no interest
        )
        return model, output, compile_model(model, output, config).report

    with pytest.MonkeyPatch.context() as patch:
        assert validate.__kwdefaults__["latency_seconds"] > 0
        patch.setitem(validate.__kwdefaults__, "latency_seconds", 0.0)
        patch.setattr(families, "_MOST", 2)
        yield made


# Each exporter, layout and width with each of the others at least once, and no pair for its own sake: tracing with
# BatchNormalization folded makes nearly the graph of torch.export.
WAYS = (
    ("kept", "NCHW", 8),
    ("dynamo", "NCHW", 4),
    ("folded", "NCHW", 8),
    ("kept", "NHWC", 8),
    ("folded", "NHWC", 4),
)


def _parameters() -> Iterator[object]:
    for name, (exporter, layout, bits) in itertools.product(ARCHITECTURES, WAYS):
        yield pytest.param(name, exporter, layout, bits, id=f"{name}-{exporter}-{layout}-w{bits}a8")


@pytest.mark.parametrize(("name", "exporter", "layout", "bits"), list(_parameters()))
def test_network_in_integers(name: str, exporter: str, layout: str, bits: int, compiled: Compiled) -> None:
    model, output, report = compiled(name, exporter, layout, bits)

    onnx.checker.check_model(output, full_check=True)
    assert _face(output) == _face(model)
    validation = report.validation
    assert not validation.failures
    assert validation.simulation is not None and validation.simulation.close
    assert validation.fusion.fused == validation.fusion.layers - IN_FLOAT.get(name, 0)
    assert _noise(model, output, layout) >= FLOORS[name][bits == 4]


@pytest.mark.parametrize("name", ["ssd", "yolo", "unet"])
def test_every_layer_in_float_has_a_reason(name: str, compiled: Compiled) -> None:
    report = compiled(name, "folded", "NCHW", 8)[2]

    fusion = report.validation.fusion
    assert {*fusion.unfused, *fusion.left_float} <= {one.where for one in report.refusals if one.reason}


def test_picture_with_channels_last_is_a_picture(compiled: Compiled) -> None:
    assert compiled("resnet", "kept", "NHWC", 8)[2].contract is not None


def test_normalisation_of_its_own_is_no_float_operator(compiled: Compiled) -> None:
    assert "BatchNormalization" not in {one.op_type for one in compiled("repvgg", "kept", "NCHW", 8)[2].refusals}


def _face(path: Path) -> list[tuple[str, int, list[int]]]:
    graph = onnx.load(path).graph
    return [
        (value.name, value.type.tensor_type.elem_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in graph.input
    ] + [(value.name, value.type.tensor_type.elem_type, []) for value in graph.output]


def _noise(model: Path, output: Path, layout: str) -> float:
    """Signal to noise ratio of the worst output, on the picture in the middle; one may lie beyond all ranges."""
    x = pictures(_PICTURES, torch.Generator().manual_seed(3)).numpy()
    feeds = {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if layout == "NHWC" else x}
    wanted, got = (open_session(path, threads=1).run(feeds) for path in (model, output))
    return min(
        float(np.median([sqnr_db(*pair) for pair in zip(wanted[name], got[name], strict=True)])) for name in wanted
    )
