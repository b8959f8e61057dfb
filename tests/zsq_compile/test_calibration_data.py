import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.models import parse
from zsq_compile.calibration_data import CalibrationData
from zsq_compile.signature import InputSpec

MEGABYTE = 1_000_000


def data(held_out: int) -> CalibrationData:
    samples = torch.arange(held_out, dtype=torch.float32)[:, None]
    return CalibrationData(
        calibration={"x": samples}, held_out={"x": samples}, description="", contract=None, synthetic=None
    )


@pytest.mark.parametrize(
    ("batch", "held_out", "sample_bytes", "sizes"),
    [
        (None, 64, 4, [32]),
        (None, 10, 4, [10]),
        (None, 64, 64 * MEGABYTE, [4]),  # as many as fit into 256 MB
        (None, 64, 1000 * MEGABYTE, [1]),
        (1, 64, 4, [1] * 32),
        (1, 64, 100 * MEGABYTE, [1, 1]),
        (50, 64, 1000 * MEGABYTE, [50]),
        (12, 64, 4, [12, 12]),
        (50, 64, 4, [50]),
        (50, 49, 4, []),
    ],
)
def test_layers_are_measured_on_few_samples_that_were_held_out(
    batch: int | None, held_out: int, sample_bytes: int, sizes: list[int]
) -> None:
    inputs = [InputSpec(name="x", shape=(batch, 1), dtype=np.dtype(np.float32))]
    model = parse(f"agraph (float[N, {sample_bytes // 4}] x) => (float[N, {sample_bytes // 4}] y) {{ y = Relu(x) }}")
    feeds = data(held_out).judging(inputs, ir.from_proto(model))
    assert [len(feed["x"]) for feed in feeds] == sizes
    if feeds:
        assert torch.cat([feed["x"] for feed in feeds]).flatten().tolist() == list(range(sum(sizes)))
