from pathlib import Path

import numpy as np
import pytest

from backends.catalog import load_target
from passes.quantize.integer_kernels import IntegerKernels
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, optimized_operators, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")
NETWORKS = {"residual": models.residual, "depthwise": models.depthwise, "branches": models.branches}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_closed_set_is_closed_and_leaves_only_kernels_that_touch_none_of_it(name: str) -> None:
    model = prepare(NETWORKS[name]())
    kernels = IntegerKernels(model, place_quantizers(model, TARGET), TARGET)
    assert kernels.close(frozenset()) == frozenset()
    assert kernels.close(kernels.groups) == kernels.groups
    assert not kernels.running(kernels.groups)
    for group in kernels.groups:
        closed = kernels.close({group})
        assert group in closed
        assert kernels.close(closed) == closed
        assert all(closed.isdisjoint(kernel.groups) for kernel in kernels.running(closed))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_runtime_runs_as_many_integer_convolutions_as_are_left(name: str, tmp_path: Path) -> None:
    model = prepare(NETWORKS[name]())
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    kernels = IntegerKernels(model, plan, TARGET)
    convolutions = {str(node.name) for node in model.graph if node.op_type == "Conv"}
    for group in sorted(kernels.groups):
        closed = kernels.close({group})
        running = {kernel.node for kernel in kernels.running(closed)}
        written = inserted(model, plan.without(kernels.values(closed), "it stays float"))
        operators = optimized_operators(written, tmp_path)
        assert operators.count("QLinearConv") == len(running & convolutions), group


def test_an_operator_without_weights_is_not_left_alone_in_integers() -> None:
    text = """
        alone (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,3,3] w0, float[4,4,3,3] w1>
        {
            [first] a = Conv<pads=[1,1,1,1]>(x, w0)
            [sigmoid] s = Sigmoid(a)
            [product] p = Mul(a, s)
            [second] b = Conv<pads=[1,1,1,1]>(p, w1)
            [third] y = Tanh(b)
        }
        """
    model = prepare(models.parse(text))
    kernels = IntegerKernels(model, place_quantizers(model, TARGET), TARGET)
    assert {"first", "second", "sigmoid", "product"} == {kernel.node for kernel in kernels.kernels} | {"second"}
    closed = kernels.close({"x", "p"} & kernels.groups)
    assert not any(kernel.node in ("sigmoid", "product") for kernel in kernels.running(closed))


def test_values_of_a_group_are_those_of_the_plan() -> None:
    model = prepare(models.branches())
    plan = place_quantizers(model, TARGET)
    kernels = IntegerKernels(model, plan, TARGET)
    assert kernels.values(kernels.groups) == {site.value for site in plan.activations}
    assert np.all([kernels.values({site.group}) >= {site.value} for site in plan.activations])
