import pytest

from backends.catalog import load_target
from passes.quantize.integer_kernels import IntegerKernels
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import prepare
from zsq_compile.quantization.placement.layer_costs import NodeTimes, TimeModel

TARGET = load_target("ort_cpu")


def test_measured_times_of_kernels_add_up_and_conversions_follow_the_choice() -> None:
    model = prepare(models.residual())
    plan = place_quantizers(model, TARGET)
    kernels = IntegerKernels(model, plan, TARGET)
    nodes = [kernel.node for kernel in kernels.kernels]
    times = NodeTimes(
        floats={name: 300.0 for name in nodes}, integers={name: 100.0 for name in nodes}, to_codes=0.0, to_floats=0.0
    )
    price = TimeModel(model, plan, kernels, times)
    assert price.total(kernels.groups) == pytest.approx(300.0 * len(nodes))
    call = 2.0
    for group in kernels.groups:
        closed = kernels.close({group})
        running = len(kernels.running(closed))
        kernels_alone = 100.0 * running + 300.0 * (len(nodes) - running)
        extra = price.total(closed) - kernels_alone
        assert 0.0 <= extra <= 2 * call * len(plan.activations)


def test_without_a_clock_integers_are_modelled_as_faster() -> None:
    model = prepare(models.residual())
    plan = place_quantizers(model, TARGET)
    kernels = IntegerKernels(model, plan, TARGET)
    price = TimeModel(model, plan, kernels)
    assert price.total(frozenset()) > 0.0
    assert price.total(kernels.groups) > 0.0
