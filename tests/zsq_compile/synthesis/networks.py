"""A tiny convolutional network whose BatchNormalization statistics are those of chosen images."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from backends.session import open_session
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics, harvest_batchnorm
from tests import models
from zsq_compile.data.input_spec import PICTURE_CHANNELS, InputSpec, Layout
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Silent
from zsq_compile.synthesis.task import SynthesisTask

NO_STATISTICS = BatchNormStatistics(entries=(), refusals=(), layers_total=0, layers_covered=0, degenerate=())


def trained_on(pictures: NDArray[np.float32], depth: int = 2) -> onnx.ModelProto:
    """Conv-BN-Relu ``depth`` times, a classifier of 4; every BN remembers what ONNX Runtime makes of ``pictures``."""
    channels, height, width = pictures.shape[1:]
    inits = [
        f"float[8,{8 if layer else channels},3,3] w{layer}, float[8] scale{layer}, float[8] shift{layer}, "
        f"float[8] mean{layer}, float[8] variance{layer}"
        for layer in range(depth)
    ]
    layers = [
        f"""
        [conv{layer}] c{layer} = Conv<pads=[1,1,1,1]{", strides=[2,2]" if layer == 1 else ""}>({value}, w{layer})
        [bn{layer}] n{layer} = BatchNormalization(c{layer}, scale{layer}, shift{layer}, mean{layer}, variance{layer})
        [relu{layer}] r{layer} = Relu(n{layer})"""
        for layer, value in enumerate(["x", *(f"r{layer}" for layer in range(depth - 1))])
    ]
    text = f"""
        tiny (float[N,{channels},{height},{width}] x) => (float[N,4] logits)
        <{", ".join(inits)}, float[4,8] w{depth}, float[4] b{depth}>
        {{
            {"".join(layers)}
            [pool] p = GlobalAveragePool(r{depth - 1})
            [flatten] f = Flatten(p)
            [gemm] logits = Gemm<transB=1>(f, w{depth}, b{depth})
        }}
        """
    known: dict[str, NDArray[np.generic]] = {}
    for layer in range(depth):
        model = models.parse(text, weights=known)
        model.graph.output.append(onnx.helper.make_tensor_value_info(f"c{layer}", onnx.TensorProto.FLOAT, None))
        values = open_session(model, threads=1).run({"x": pictures}, [f"c{layer}"])[f"c{layer}"]
        known[f"mean{layer}"] = values.mean((0, 2, 3), dtype=np.float64)
        known[f"variance{layer}"] = values.var((0, 2, 3), dtype=np.float64)
    return models.parse(text, weights=known)


def teacher_of(model: onnx.ModelProto) -> tuple[TorchGraph, BatchNormStatistics]:
    """The network in torch, and what its BatchNormalizations remember."""
    graph = ir.from_proto(model)
    return TorchGraph(graph), harvest_batchnorm(graph)


def spec(*shape: int | None, name: str = "x", dtype: str = "float32") -> InputSpec:
    layout: Layout | None = "NCHW" if len(shape) == 4 and shape[1] in PICTURE_CHANNELS else None
    return InputSpec(name=name, shape=shape, dtype=np.dtype(dtype), layout=layout)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task_of(
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    inputs: Sequence[InputSpec],
    preprocessing: Mapping[str, Preprocessing] | None = None,
    name: str = "test",
) -> SynthesisTask:
    return SynthesisTask(
        name=name,
        teacher=teacher,
        inputs=inputs,
        preprocessing=preprocessing or {},
        layers=statistics.usable,
        effort="balanced",
        progress=Silent(),
    )


class Listener:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.details: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[tuple[int | None, int]] = []

    def stage(self, name: str, total: int | None = None) -> "_Stage":
        return _Stage(lambda done: self.steps.append((total, done)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class _Stage:
    def __init__(self, closed: Callable[[int], None]) -> None:
        self._done: list[int] = []
        self._closed = closed

    def __enter__(self) -> Callable[[int], None]:
        return self._done.append

    def __exit__(self, *_: object) -> None:
        self._closed(sum(self._done))


def correlation(rows: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    return np.corrcoef(np.stack([row.ravel() for row in rows]))
