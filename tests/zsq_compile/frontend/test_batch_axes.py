"""The axis of each input that samples are stacked on."""

import numpy as np
import pytest

from tests import models
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.batch_axes import find_batch_axes

RNN = "<float[1,15,6] w0, float[1,15,5] r0> {{ t = Transpose<perm=[1,0,2]>({x}) y, z = GRU(t, w0, r0, , , h) }}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("g (float[N,3] a, float[N,4] b) => (float[N,3] y) { y = Relu(a) }", [0, 0]),
        # the name of the first one's batch
        ("g (float[N,3] a, float[2,N,4] b) => (float[N,3] y) { y = Relu(a) }", [0, 1]),
        # an open size that is called like a batch
        ("g (float[length,batch,4] a, float[batch,4] b) => (float[length,batch,4] y) { y = Relu(a) }", [1, 0]),
        # a recurrent operator's state, fixed as the first one's batch is; behind a Slice, too
        (f"g (float[1,4,6] x, float[1,1,5] h) => (float[4,1,1,5] y) {RNN.format(x='x')}", [0, 1]),
        # a sequence is no batch: its state has none
        ("g (float[length,3] a, float[1,1,4] b) => (float[length,3] y) { y = Relu(a) }", [0, None]),
        ("g (float[N,3] a, int64 rate) => (float[N,3] y) { y = Relu(a) }", [0, None]),
        ("g (float[4,3] a, float[2,4] b, float[2,2] c) => (float[4,3] y) { y = Relu(a) }", [0, 1, None]),
    ],
)
def test_the_batch_is_found(text: str, wanted: list[int | None]) -> None:
    proto = models.parse(text)
    inputs = [
        InputSpec(
            name=value.name,
            shape=tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim),
            dtype=np.dtype(np.float32),
        )
        for value in proto.graph.input
    ]
    assert [spec.batch_axis for spec in find_batch_axes(proto, inputs)] == wanted
