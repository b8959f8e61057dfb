import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.catalog import load_target
from backends.target import Alignment
from passes.analysis.count_work import Work, count_work
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.emit.emit import emitted_bytes
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import prepare
from tests.zsq_compile.frontend.quick import load_quickly
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.inspection.estimates import count_samples, estimate_bytes, estimate_seconds
from zsq_compile.stages.calibration_data import default_count
from zsq_compile.stages.quantize import is_learned

ASSETS = Path(os.environ.get("ZSQ_ASSETS", Path(__file__).resolve().parents[3] / "../shared/assets")) / "models"


def inputs(side: int) -> tuple[InputSpec, ...]:
    return (InputSpec(name="x", shape=(None, 3, side, side), dtype=np.dtype(np.float32), layout="NCHW"),)


@pytest.mark.parametrize("make", [models.residual, models.branches, models.padded], ids=lambda make: make.__name__)
def test_bytes_are_those_of_the_file(make: object) -> None:
    model = prepare(make())  # type: ignore[operator]
    target = replace(load_target("ort_cpu"), alignment=Alignment())  # channels of zeros are not counted
    plans = {bits: place_quantizers(model, target, bits=bits, edge_bits=bits) for bits in (8, 4, 3, 2)}
    for bits, size in estimate_bytes(model, plans, target).items():
        # what a Cast or a division of digits takes in the file depends on names, and these weights are tiny
        assert size == pytest.approx(emitted_bytes(model, plans[bits], target), rel=0.12 if bits < 8 else 0.02)


def test_the_model_keeps_its_weights() -> None:
    model, target = prepare(models.residual()), load_target("ort_cpu")
    before = models.to_proto(model).SerializeToString()
    estimate_bytes(model, {8: place_quantizers(model, target)}, target)
    assert models.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("bits", [8, 4])
def test_samples_are_those_that_compiling_makes(side: int, bits: int) -> None:
    config = CompileConfig(quantization=QuantizationConfig(bits=bits))
    count = default_count(inputs(side), config.effort, learned=is_learned(config))
    assert count_samples(inputs(side), learned=bits < 8) == count + count // 4


def test_more_work_and_fewer_bits_take_longer() -> None:
    def seconds(elements: int, bits: int, *, synthesized: bool = True) -> float:
        work = Work(multiplications=0, elements=elements, parameters=0)
        return estimate_seconds(work, inputs(32), bits=bits, synthesized=synthesized)

    assert seconds(10**5, 8) < seconds(10**6, 8) < seconds(10**6, 4)
    assert seconds(10**6, 8, synthesized=False) < seconds(10**6, 8)


# Measured on two cores, from process start to end: benchmarks/results/speed.md, and accuracy.md for the second.
MEASURED = {
    "cifar10/resnet20_bn": (19.7, 98.9),
    "cifar10/resnet56_bn": (72.0, 396.0),
    "cifar10/resnet8_cifar10_bn": (12.0, 44.0),
    "imagenet/mobilenetv1_075_bn": (97.9, 237.4),
}


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the real models of ZSQ_ASSETS are not here")
@pytest.mark.parametrize("name", MEASURED)
def test_times_are_within_a_factor_of_two_of_what_was_measured(name: str) -> None:
    quick = load_quickly(ASSETS / f"{name}.onnx")
    work, statistics = count_work(quick.model), harvest_batchnorm(quick.model)
    for bits, measured in zip((8, 4), MEASURED[name], strict=True):
        told = estimate_seconds(work, quick.inputs, bits=bits, synthesized=bool(statistics.usable))
        assert 0.5 < told / measured < 2.0
