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
from tests.breadth.exports import EXPORTERS, export, pictures
from zsq_compile import compiler
from zsq_compile.compiler import compile_model
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.metrics import sqnr_db
from zsq_compile.reporting.report import Report
from zsq_compile.stages import export as writing
from zsq_compile.stages.estimate_agreement import Expectation

Exported = Callable[[str, str, str], Path]

_SAMPLES, _PICTURES = 16, 16

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

# Layers that stand in front of an output with nothing but moves and sums between; ConvTranspose has no integer kernel.
IN_FLOAT = {"unet": 3, "ssd": 4, "yolo": 4}

_NO_PICTURE = "a picture with its channels last is taken for a signal, and noise of deviation 1 is made for it"
FAILING = dict.fromkeys(itertools.product(("convnext", "vit"), ("NHWC",)), _NO_PICTURE)
"""What fails today by network and layout, and why."""


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


@pytest.fixture(autouse=True)
def only_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the clock and the estimate, which take longer than all the rest of these compilations."""
    monkeypatch.setattr(writing, "validate", functools.partial(writing.validate, latency_seconds=0.0))
    monkeypatch.setattr(compiler, "expectation", _nothing_expected)


def _nothing_expected(inputs: object, contracts: object, *, seed: int = 0) -> Expectation:
    return Expectation(inputs=(), contracts={}, families=None)


def _parameters() -> Iterator[object]:
    ways = [(exporter, "NCHW", bits) for exporter in EXPORTERS for bits in (8, 4)]
    for name in ARCHITECTURES:
        for exporter, layout, bits in (*ways, ("kept", "NHWC", 8), ("folded", "NHWC", 4)):
            reason = FAILING.get((name, layout))
            marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
            yield pytest.param(name, exporter, layout, bits, marks=marks, id=f"{name}-{exporter}-{layout}-w{bits}a8")


@pytest.mark.parametrize(("name", "exporter", "layout", "bits"), list(_parameters()))
def test_network_in_integers(
    name: str, exporter: str, layout: str, bits: int, exported: Exported, tmp_path: Path
) -> None:
    model, output = exported(name, exporter, layout), tmp_path / "out.onnx"

    validation = _compiled(model, output, bits).validation

    onnx.checker.check_model(output, full_check=True)
    assert _face(output) == _face(model)
    assert not validation.failures
    assert validation.simulation is not None and validation.simulation.close
    assert validation.fusion.fused == validation.fusion.layers - IN_FLOAT.get(name, 0)
    assert _noise(model, output, layout) >= FLOORS[name][bits == 4]


@pytest.mark.parametrize(
    "name",
    [
        "ssd",
        "yolo",
        pytest.param(
            "unet",
            marks=pytest.mark.xfail(strict=True, reason="nothing tells that ConvTranspose has no integer kernel"),
        ),
    ],
)
def test_every_layer_in_float_has_a_reason(name: str, exported: Exported, tmp_path: Path) -> None:
    report = _compiled(exported(name, "folded", "NCHW"), tmp_path / "out.onnx", 8)

    fusion = report.validation.fusion
    assert {*fusion.unfused, *fusion.left_float} <= {one.where for one in report.refusals if one.reason}


@pytest.mark.xfail(strict=True, reason=_NO_PICTURE)
def test_picture_with_channels_last_is_a_picture(exported: Exported, tmp_path: Path) -> None:
    assert _compiled(exported("resnet", "kept", "NHWC"), tmp_path / "out.onnx", 8).contract is not None


@pytest.mark.xfail(
    strict=True, reason="a BatchNormalization with no layer in front of it is neither folded nor written"
)
def test_normalisation_of_its_own_is_no_float_operator(exported: Exported, tmp_path: Path) -> None:
    report = _compiled(exported("repvgg", "kept", "NCHW"), tmp_path / "out.onnx", 8)

    assert "BatchNormalization" not in {one.op_type for one in report.refusals}


def _compiled(model: Path, output: Path, bits: int) -> Report:
    quantization = QuantizationConfig(bits=bits)
    config = CompileConfig(samples=_SAMPLES, effort="fast", speed_trials=False, quantization=quantization)
    return compile_model(model, output, config).report


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
