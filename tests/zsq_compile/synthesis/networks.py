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


def trained_on(pictures: NDArray[np.float32]) -> onnx.ModelProto:
    """Two Conv-BN-Relu and a classifier of 4; every BN remembers what ONNX Runtime computes from ``pictures``."""
    channels, height, width = pictures.shape[1:]
    text = f"""
        tiny (float[N,{channels},{height},{width}] x) => (float[N,4] logits)
        <float[8,{channels},3,3] w0, float[8] scale0, float[8] shift0, float[8] mean0, float[8] variance0,
         float[8,8,3,3] w1, float[8] scale1, float[8] shift1, float[8] mean1, float[8] variance1,
         float[4,8] w2, float[4] b2>
        {{
            [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0)
            [bn0] n0 = BatchNormalization(c0, scale0, shift0, mean0, variance0)
            [relu0] r0 = Relu(n0)
            [conv1] c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r0, w1)
            [bn1] n1 = BatchNormalization(c1, scale1, shift1, mean1, variance1)
            [relu1] r1 = Relu(n1)
            [pool] p = GlobalAveragePool(r1)
            [flatten] f = Flatten(p)
            [gemm] logits = Gemm<transB=1>(f, w2, b2)
        }}
        """
    known: dict[str, NDArray[np.generic]] = {}
    for layer in ("0", "1"):
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
