from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from backends.catalog import load_target
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from tests import models
from tests.quantizing import execute
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.stages.provisional_student import make_provisional_student

CPU = torch.device("cpu")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    return load_model(path, input_shapes={})


def made(loaded: LoadedModel, bits: int, *, equalize: bool = False) -> TorchGraph:
    config = QuantizationConfig(bits=bits, edge_bits=bits, rounding="lsq", equalize=equalize)
    statistics = harvest_batchnorm(loaded.model)
    return make_provisional_student(loaded, statistics, load_target("ort_cpu"), config, 0, CPU, preprocessing=None)


def inputs(loaded: LoadedModel, count: int = 4) -> torch.Tensor:
    return torch.randn(loaded.inputs[0].batched(count), generator=torch.Generator().manual_seed(0))


def test_it_is_the_network_that_the_runtime_would_run(loaded: LoadedModel) -> None:
    student, x = made(loaded, 4), inputs(loaded)
    with torch.no_grad():
        mine = student.run({"x": x})["logits"]
    wanted = torch.from_numpy(execute(student.model, {"x": x.numpy()})["logits"])
    # an activation on the border between two codes may fall to either side
    torch.testing.assert_close(mine, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


@pytest.mark.parametrize("equalize", [False, True])
def test_fewer_bits_are_further_from_the_float_network(loaded: LoadedModel, equalize: bool) -> None:
    x, errors = inputs(loaded, 16), []
    with torch.no_grad():
        wanted = TorchGraph(loaded.model).run({"x": x})["logits"]
        for bits in (8, 2):
            got = made(loaded, bits, equalize=equalize).run({"x": x})["logits"]
            errors.append(float((got - wanted).square().mean() / wanted.var()))
    assert errors[0] < 0.05 < errors[1]


def test_biases_are_corrected_in_an_equalized_network_too(loaded: LoadedModel) -> None:
    config = QuantizationConfig(bits=2, edge_bits=2, equalize=True)
    statistics, target = harvest_batchnorm(loaded.model), load_target("ort_cpu")
    shifts = []
    x = inputs(loaded, 64)
    for correction in ("none", "auto"):
        settings = replace(config, bias_correction=correction)
        student = make_provisional_student(loaded, statistics, target, settings, 0, CPU, preprocessing=None)
        with torch.no_grad():
            off = student.run({"x": x})["logits"] - TorchGraph(loaded.model).run({"x": x})["logits"]
        shifts.append(off.mean(0))
    assert float(shifts[1].abs().mean()) < 0.8 * float(shifts[0].abs().mean())


def test_it_tells_a_generator_where_to_go(loaded: LoadedModel) -> None:
    student, x = made(loaded, 3), inputs(loaded).requires_grad_()
    student.run({"x": x})["logits"].square().sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0
    assert not any(tensor.requires_grad for tensor in student.initializers.values())


def test_same_seed_same_numbers(loaded: LoadedModel) -> None:
    first, again = (made(loaded, 3) for _ in range(2))
    for name, tensor in first.initializers.items():
        assert np.array_equal(tensor.numpy(), again.initializers[name].numpy()), name
