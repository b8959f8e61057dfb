"""A fixed batch that is opened: for several batches at once the graph computes what it computes for each alone."""

import numpy as np
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.normalize.normalize import normalize
from passes.normalize.open_batch import BatchError, open_batch
from tests import models

TOLERANCE = 1e-5


def opened(text: str, axes: dict[str, int] | None = None) -> None:
    """Open the batch of a graph, and compare three batches at once with each by itself."""
    proto = models.parse(text)
    model = normalize(ir.from_proto(proto), simplify=False)
    axes = axes or {"x": 0}
    found = open_batch(model, axes)
    rng, alone, feeds = np.random.default_rng(0), open_session(proto), []
    for _ in range(3):
        feeds.append(
            {name: rng.standard_normal(shape).astype(np.float32) for name, shape in alone.input_shapes.items()}
        )
    together = open_session(ir.to_proto(model)).run(
        {name: np.concatenate([feed[name] for feed in feeds], axes[name]) for name in feeds[0]}
    )
    for name, axis in found.items():
        wanted = np.concatenate([alone.run(feed)[name] for feed in feeds], axis)
        np.testing.assert_allclose(together[name], wanted, atol=TOLERANCE * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize(
    "body",
    [
        # the leading 1 of a constant shape, alone, beside what is left, and in the middle of others
        "float[1,4,6] y) <float[6,4] w0, int64[3] s = {1, 4, 6}> { y = Reshape(x, s) }",
        "float[1,24] y) <float[6,4] w0, int64[2] s = {1, -1}> { y = Reshape(x, s) }",
        "float[1,24] y) <float[6,4] w0, int64[2] s = {-1, 24}> { y = Reshape(x, s) }",
        # rows of all samples in one matrix, and back
        "float[1,4,6] y) <float[6,6] w0, int64[2] s = {4, 6}, int64[3] t = {1, 4, 6}> "
        "{ r = Reshape(x, s) m = MatMul(r, w0) y = Reshape(m, t) }",
        # heads beside the batch
        "float[1,4,6] y) <int64[4] s = {1, 4, 2, 3}, int64[3] t = {1, 4, 6}, int64[3] u = {2, 4, 3}> "
        "{ r = Reshape(x, s) h = Transpose<perm=[0,2,1,3]>(r) b = Reshape(h, u) k = Transpose<perm=[0,2,1]>(b) "
        "a = MatMul(b, k) p = Softmax(a) v = MatMul(p, b) i = Reshape(v, s2) j = Transpose<perm=[0,2,1,3]>(i) "
        "y = Reshape(j, t) }",
        # a class token in front, which was expanded to the batch of 1
        "float[1,5,6] y) <float[1,1,6] token> { y = Concat<axis=1>(token, x) }",
        "float[1,5,6] y) <float[1,1,6] token, int64[3] s = {1, 1, 6}> "
        "{ t = Expand(token, s) y = Concat<axis=1>(t, x) }",
        "float[1,4,6] y) <int64[3] s = {1, 4, 6}> { t = Expand(x, s) y = Relu(t) }",
        "float[1,8,6] y) <int64[3] s = {1, 2, 1}> { y = Tile(x, s) }",
        # sizes of a Resize
        "float[1,1,8,12] y) <int64[4] s = {1, 1, 8, 12}, int64[1] one = {1}> "
        '{ u = Unsqueeze(x, one) y = Resize<mode="nearest">(u, , , s) }',
        # an initial state of zeros, and another one
        "float[4,1,1,5] y) <float[1,20,6] w0, float[1,20,5] r0, float[1,1,5] h0, float[1,1,5] c0> "
        "{ t = Transpose<perm=[1,0,2]>(x) y, h, c = LSTM<hidden_size=5>(t, w0, r0, , , h0, c0) }",
    ],
)
def test_three_batches_are_as_each_alone(body: str) -> None:
    if "s2" in body:
        body = body.replace("int64[3] u", "int64[4] s2 = {1, 2, 4, 3}, int64[3] u")
    opened(f"g (float[1,4,6] x) => ({body}")


@pytest.mark.parametrize(
    "body",
    [
        "float[2,24] y) <int64[2] s = {2, 24}> { y = Reshape(x, s) }",
        # a constant that was repeated for both samples
        "float[2,5,6] y) <float[1,1,6] token, int64[3] s = {2, 1, 6}> "
        "{ t = Expand(token, s) y = Concat<axis=1>(t, x) }",
        "float[2,4,6] y) <float[1,4,6] place, int64[3] s = {2, 1, 1}> { t = Tile(place, s) y = Add(x, t) }",
    ],
)
def test_a_batch_of_two_is_opened(body: str) -> None:
    opened(f"g (float[2,4,6] x) => ({body}")


def test_a_state_with_its_batch_on_another_axis() -> None:
    opened(
        "g (float[1,4,6] x, float[1,1,5] h) => (float[4,1,1,5] y, float[1,1,5] z) "
        "<float[1,15,6] w0, float[1,15,5] r0> "
        "{ t = Transpose<perm=[1,0,2]>(x) y, z = GRU<hidden_size=5>(t, w0, r0, , , h) }",
        {"x": 0, "h": 1},
    )


@pytest.mark.parametrize(
    "body",
    [
        "float[4,6] y) <int64[1] zero = {0}> { y = Squeeze(x, zero) }",
        "float[1,1,1] y) { y = ReduceSum(x) }",
        # the batch becomes the last axis, and all of it is mixed
        "float[1,4,6] y) <int64[3] t = {1,4,6}> { a = Transpose<perm=[2,1,0]>(x) y = Reshape(a, t) }",
    ],
)
def test_what_is_no_batch_is_refused(body: str) -> None:
    model = normalize(ir.from_proto(models.parse(f"g (float[1,4,6] x) => ({body}")), simplify=False)
    with pytest.raises(BatchError):
        open_batch(model, {"x": 0})


def test_constants_that_differ_from_sample_to_sample_are_refused() -> None:
    text = "g (float[2,4,6] x) => (float[2,4,6] y) <float[2,4,6] s> { y = Add(x, s) }"
    with pytest.raises(BatchError, match="differs from sample to sample"):
        open_batch(normalize(ir.from_proto(models.parse(text)), simplify=False), {"x": 0})
