from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests import models
from zsq_compile.differentiable import precision
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision, reduced_type
from zsq_compile.metrics import are_probabilities


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    precision._multiplies_bfloat16.cache_clear()
    yield
    precision._multiplies_bfloat16.cache_clear()


def processor(monkeypatch: pytest.MonkeyPatch, flags: str | None) -> None:
    def read(path: Path, **_: str) -> str:
        assert path == Path("/proc/cpuinfo")
        if flags is None:
            raise FileNotFoundError
        return f"processor : 0\nflags : fpu {flags} sse\n"

    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.parametrize("flags", ["avx512_bf16", "amx_bf16", "avx512f avx512_bf16 amx_bf16"])
def test_bfloat16_where_the_processor_multiplies_it(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, flags)
    assert reduced_type(torch.device("cpu")) == torch.bfloat16
    x = torch.ones(2, 2)
    with reduced_precision(torch.device("cpu")):
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("flags", ["avx2 avx512f avx512_vnni", None])
def test_float32_elsewhere(flags: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, flags)
    assert reduced_type(torch.device("cpu")) == torch.float32
    x = torch.ones(2, 2)
    with reduced_precision(torch.device("cpu")):
        assert (x @ x).dtype == torch.float32


def test_other_devices_are_not_asked_for_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "sse2")
    assert reduced_type(torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_probabilities_sum_to_one_in_half_precision_as_well(kind: str) -> None:
    """Ten classes of much the same chance: bfloat16 would round each by up to 0.4 %."""
    proto = models.parse(f"ends (float[N,6] x) => (float[N,10] y) <float[6,10] w> {{ s = MatMul(x, w) y = {kind}(s) }}")
    graph, x = TorchGraph(ir.from_proto(proto)), torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        values = graph.run({"x": x}, ["s", "y"])
    found = values["y"] if kind == "Softmax" else values["y"].exp()
    assert values["s"].dtype == torch.bfloat16 and found.max() < 0.99
    assert are_probabilities(found)
    exact = np.exp(values["s"].double().numpy())
    np.testing.assert_allclose(found.double().numpy(), exact / exact.sum(1, keepdims=True), rtol=1e-5)
