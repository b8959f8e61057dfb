from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.models import parse
from tests.zsq_compile.quantization.networks import NO_STATISTICS
from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.config.generators import NoiseConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.quantization.samples import Samples
from zsq_compile.stages.calibration_data import (
    CONTRAST,
    default_count,
    sample_arrays,
    synthesize_data,
    take_data,
)
from zsq_compile.synthesis.make_generator import make_generator

KNOWN = KnownStatistics(statistics=NO_STATISTICS, from_nodes=0)
MEGABYTE = 1_000_000


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
    samples = Samples(inputs={"x": torch.arange(held_out, dtype=torch.float32)[:, None]}, fixed=batch)
    model = parse(f"agraph (float[N, {sample_bytes // 4}] x) => (float[N, {sample_bytes // 4}] y) {{ y = Relu(x) }}")
    batches = samples.take_few(ir.from_proto(model))
    assert [len(batch["x"]) for batch in batches] == sizes
    if batches:
        assert torch.cat([batch["x"] for batch in batches]).flatten().tolist() == list(range(sum(sizes)))


@pytest.mark.parametrize("batch", [1, 16, 128, 256])
@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_a_model_that_insists_on_large_batches_gets_some_to_learn_from_and_some_to_be_judged_on(
    batch: int, effort: Effort
) -> None:
    model = ir.from_proto(parse(f"agraph (float[{batch},3] x) => (float[{batch},3] y) {{ y = Relu(x) }}"))
    inputs = [InputSpec(name="x", shape=(batch, 3), dtype=np.dtype(np.float32))]
    generator, count = make_generator(NoiseConfig(), inputs), default_count(inputs, effort, learned=True)
    made = synthesize_data(generator, TorchGraph(model), KNOWN, inputs, count, 0)
    kept, apart = (part.inputs["x"] for part in (made.calibration, made.held_out))
    for part in (kept, apart):
        assert len(part) >= batch and len(part) % batch == 0
    assert made.calibration.batches() and made.held_out.take_few(model)
    assert len(apart) <= max(len(kept) // 3, batch)


def test_too_few_samples_of_the_users_own_are_refused_before_the_work() -> None:
    model = ir.from_proto(parse("agraph (float[16,3] x) => (float[16,3] y) { y = Relu(x) }"))
    inputs = [InputSpec(name="x", shape=(16, 3), dtype=np.dtype(np.float32))]
    arrays = {"x": np.zeros((40, 3), np.float32)}
    given = take_data(arrays, TorchGraph(model), KNOWN, inputs, None, 0)
    assert (given.calibration.count, given.held_out.count) == (16, 16)
    with pytest.raises(ConfigError, match="at least 32, half of them to judge the result, got 31"):
        take_data({"x": arrays["x"][:31]}, TorchGraph(model), KNOWN, inputs, None, 0)


@pytest.mark.parametrize(("name", "reach"), [("fitted", CONTRAST), ("symmetric", 1.0)])
def test_ranges_reach_beyond_our_pictures_where_a_scale_was_fitted_to_them(name: str, reach: float) -> None:
    model = ir.from_proto(parse("agraph (float[N,8,8,3] x) => (float[N,8,8,3] y) { y = Relu(x) }"))
    inputs = [InputSpec(name="x", shape=(None, 8, 8, 3), dtype=np.dtype(np.float32), layout="NHWC")]
    one = replace(given_preprocessing(3, (0.5,), (0.25,)), name=name, layout="NHWC")
    generator = make_generator(NoiseConfig(distribution="uniform"), inputs, one)
    made = synthesize_data(generator, TorchGraph(model), KNOWN, inputs, 64, 0)
    assert made.calibration.inputs["x"].abs().max() == pytest.approx(2.0 * reach, rel=0.02)
    assert made.held_out.inputs["x"].abs().max() <= 2.0


def test_labels_stand_beside_the_samples_and_not_in_the_place_of_an_input() -> None:
    values, labels = torch.ones(3, 2), torch.tensor([2, 0, 1])
    assert set(sample_arrays({"x": values}, None)) == {"x"}
    arrays = sample_arrays({"x": values}, labels)
    assert list(arrays) == ["x", "labels"] and arrays["labels"].tolist() == [2, 0, 1]
    assert set(sample_arrays({"labels": values}, None)) == {"labels"}
    with pytest.raises(ConfigError, match="under the name 'labels', which is that of an input of the network"):
        sample_arrays({"labels": values}, labels)
