"""The form that everything inside works on: an open batch, on axis 0, where that is proven right."""

import numpy as np
import onnx
import onnx_ir as ir

from backends.session import open_session
from passes.normalize.normalize import normalize
from tests import models
from tests.zsq_compile.frontend.quick import declared_inputs
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.open_batch import InnerForm, as_inner_form

GRU = (
    "g (float[1,4,6] x, float[1,1,5] h) => (float[4,1,1,5] y, float[1,1,5] z) <float[1,15,6] w0, float[1,15,5] r0> "
    "{ t = Transpose<perm=[1,0,2]>(x) y, z = GRU<hidden_size=5>(t, w0, r0, , , h) }"
)
FLOAT = np.dtype(np.float32)


def inner_form(text: str) -> tuple[onnx.ModelProto, InnerForm]:
    proto = models.parse(text)
    return proto, as_inner_form(normalize(ir.from_proto(proto), simplify=False), proto, declared_inputs(proto))


def require_equal(proto: onnx.ModelProto, inner: InnerForm, count: int = 3) -> None:
    """Run samples at once inside, and one after the other in the file."""
    rng, session = np.random.default_rng(0), open_session(proto)
    samples = {spec.name: rng.standard_normal(spec.batched(count)).astype(np.float32) for spec in inner.inputs}
    got = open_session(ir.to_proto(inner.model)).run(samples)
    for sample in range(count):
        one = {name: array[sample : sample + 1] for name, array in samples.items()}
        wanted = inner.axes.from_file(session.run(inner.axes.to_file(one)))
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name][sample : sample + 1], array, atol=1e-5)


def test_a_fixed_batch_is_opened() -> None:
    proto, inner = inner_form(
        "g (float[1,3,8,8] x) => (float[1,2] y) <float[4,3,3,3] w0, float[144,2] m0, int64[2] s = {1, 144}> "
        "{ c = Conv(x, w0) f = Reshape(c, s) y = MatMul(f, m0) }"
    )
    assert inner.reason is None and [spec.shape for spec in inner.inputs] == [(None, 3, 8, 8)]
    require_equal(proto, inner)


def test_states_have_their_batch_on_axis_0_inside() -> None:
    proto, inner = inner_form(GRU)
    assert {spec.name: (spec.shape, spec.batch_axis) for spec in inner.inputs} == {
        "x": ((None, 4, 6), 0),
        "h": ((None, 1, 5), 1),
    }
    assert inner.axes.outputs == {"y": 2, "z": 1}
    require_equal(proto, inner)


def test_an_open_state_too() -> None:
    proto, inner = inner_form(GRU.replace("[1,4,6] x", "[N,4,6] x").replace("[1,1,5] h", "[1,N,5] h"))
    assert [spec.shape for spec in inner.inputs] == [(None, 4, 6), (None, 1, 5)]
    require_equal(proto, inner)


def test_samples_that_depend_on_each_other_stay_together() -> None:
    """The mean over the batch is none of one sample."""
    _, inner = inner_form(
        "g (float[2,4] x) => (float[2,4] y) <int64[1] zero = {0}> { m = ReduceMean(x, zero) y = Sub(x, m) }"
    )
    assert inner.reason is not None and inner.inputs[0].shape == (2, 4)


def test_one_sample_minus_its_own_mean_over_the_batch_is_not_believed() -> None:
    """With a batch of 1 it is all zeros, which no shape shows."""
    _, inner = inner_form(
        "g (float[1,4] x) => (float[1,4] y) <int64[1] zero = {0}> { m = ReduceMean(x, zero) y = Sub(x, m) }"
    )
    assert inner.reason is not None and inner.inputs[0].shape == (1, 4)


def test_a_state_without_a_batch_is_fed_whole() -> None:
    proto, inner = inner_form(
        "g (float[N,6] x, float[2,3] gain) => (float[N,6] y) <int64[1] six = {6}> "
        "{ f = Reshape(gain, six) y = Mul(x, f) }"
    )
    assert [(spec.shape, spec.batch_axis) for spec in inner.inputs] == [((None, 6), 0), ((None, 2, 3), None)]
    rng = np.random.default_rng(0)
    x, gain = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (2, 3)))
    wanted = open_session(proto).run({"x": x, "gain": gain})["y"]
    got = open_session(ir.to_proto(inner.model)).run({"x": x, "gain": np.stack([gain] * 4)})["y"]
    np.testing.assert_array_equal(got, wanted)


def test_an_open_batch_on_axis_0_stays_as_it_is() -> None:
    proto = models.residual()
    model = normalize(ir.from_proto(proto), simplify=False)
    inner = as_inner_form(model, proto, [InputSpec(name="x", shape=(None, 3, 8, 8), dtype=FLOAT)])
    assert inner.model is model and inner.added == () and inner.reason is None
