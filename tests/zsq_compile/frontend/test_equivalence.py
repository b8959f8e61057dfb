import numpy as np
import onnx
import pytest

from backends.session import RuntimeModelError, open_session
from tests import models
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.equivalence import TOLERANCE, Reference, difference

IMAGE = (InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32)),)


def test_a_network_agrees_with_itself_and_not_with_another():
    reference = Reference(models.residual(), IMAGE)
    assert reference.difference(models.residual()) == 0.0
    assert reference.difference(models.residual(seed=1)) > 100 * TOLERANCE


def test_a_small_change_of_one_weight_is_seen():
    changed = models.residual()
    weight = onnx.numpy_helper.to_array(changed.graph.initializer[0]).copy()
    weight[0] *= 1.2
    name = changed.graph.initializer[0].name
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, name))
    assert Reference(models.residual(), IMAGE).difference(changed) > TOLERANCE


def test_what_the_last_bits_of_the_inputs_decide_does_not_count():
    spec = (InputSpec(name="x", shape=(None, 64), dtype=np.dtype(np.float32)),)

    def waves(*factors):
        constants = ", ".join(f"float k{place} = {{{factor}}}" for place, factor in enumerate(factors))
        steps = " ".join(f"a{place + 1} = Mul(a{place}, k{place})" for place in range(len(factors)))
        body = f"a0 = Identity(x) {steps} y = Cos(a{len(factors)})"
        return models.parse(f"g (float[N,64] x) => (float[N,64] y) <{constants}> {{ {body} }}")

    reference = Reference(waves(200.0), spec)
    feed = {"x": np.random.default_rng(0).uniform(0.0, 255.0, (3, 64)).astype(np.float32)}
    outputs = [open_session(model).run(feed)["y"] for model in (waves(200.0), waves(10.3, 200.0 / 10.3))]
    assert difference(*outputs) > TOLERANCE
    assert reference.difference(waves(10.3, 200.0 / 10.3)) == 0.0
    assert reference.difference(waves(200.01)) > TOLERANCE


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("y = Log(x)", "y = Log(x)", 0.0),  # NaN of negative numbers at the same places
        ("y = Log(x)", "y = Relu(x)", np.inf),
        ("y = Relu(x)", "a = Relu(x) b = Sub(a, a) y = Div(a, b)", np.inf),
        ("y = Relu(x)", "y = Concat<axis=1>(x, x)", np.inf),
    ],
)
def test_numbers_that_are_not_finite_and_shapes_count(one, other, expected):
    spec = (InputSpec(name="x", shape=(None, 6), dtype=np.dtype(np.float32)),)
    made = [models.parse(f"g (float[N,6] x) => (float[N,M] y) {{ {body} }}") for body in (one, other)]
    assert Reference(made[0], spec).difference(made[1]) == expected


def test_whole_numbers_must_be_equal():
    spec = (InputSpec(name="x", shape=(None, 6), dtype=np.dtype(np.float32)),)
    most, least = (
        models.parse(f"g (float[N,6] x) => (int64[N,1] y) {{ y = {operator}<axis=1>(x) }}")
        for operator in ("ArgMax", "ArgMin")
    )
    assert Reference(most, spec).difference(most) == 0.0
    assert Reference(most, spec).difference(least) == np.inf


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool", "float"])
def test_inputs_of_any_type_are_fed(dtype):
    spec = (InputSpec(name="x", shape=(None, 3), dtype=np.dtype("float32" if dtype == "float" else dtype)),)
    model = models.parse(f"g ({dtype}[N,3] x) => (float[N,3] y) {{ y = Cast<to=1>(x) }}")
    assert Reference(model, spec).difference(model) == 0.0


def test_what_the_runtime_cannot_run_is_an_error():
    model = models.parse("g (float[N,3] x) => (float[1,2] y) <int64[2] s = {1, 2}> { y = Reshape(x, s) }")
    spec = (InputSpec(name="x", shape=(None, 3), dtype=np.dtype(np.float32)),)
    with pytest.raises(RuntimeModelError):
        Reference(model, spec)
