"""Networks whose weights are read by operators that compute in float: recurrent layers and tables."""

import numpy as np
import onnx

from tests import models

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(
    kind: str = "LSTM", *, directions: int = 1, bias: bool = True, opset: int = 21, seed: int = 0
) -> onnx.ModelProto:
    """A recurrent layer with a state of 16 numbers, and a classifier of its last state: (7, N, 24) -> (N, 5)."""
    rows = GATES[kind] * 16
    word = "bidirectional" if directions == 2 else "forward"
    return models.parse(
        f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        recurrent (float[7,N,24] x) => (float[N,5] y)
        <float[{directions},{rows},24] w, float[{directions},{rows},16] r, float[{directions},{2 * rows}] b,
         float[{16 * directions},5] v, float[5] d>
        {{ [cell] s, h = {kind}<hidden_size=16, direction="{word}">(x, w, r{", b" if bias else ""})
           [turn] z = Transpose<perm=[1,0,2]>(h) [flat] f = Flatten(z) [leave] y = Gemm(f, v, d) }}
        """,
        seed=seed,
    )


def lookup(*, seed: int = 0) -> onnx.ModelProto:
    """Rows of a table of 60 x 24, and an LSTM of 16 numbers of state over them: (N, 5) ids -> (N, 16)."""
    return models.parse(
        """
        lookup (int64[N,5] ids) => (float[1,N,16] y)
        <float[60,24] t, float[1,64,24] w, float[1,64,16] r, float[1,128] b>
        { [table] e = Gather(t, ids) [turn] x = Transpose<perm=[1,0,2]>(e)
          [cell] s, y = LSTM<hidden_size=16>(x, w, r, b) }
        """,
        seed=seed,
    )


def tied(*, transposed: bool, seed: int = 0) -> onnx.ModelProto:
    """Look up rows of a table of 40 x 32, mix them, and multiply with the same table: (N, 5) ids -> (N, 5, 40)."""
    own = "float[32,40] u," if transposed else ""
    product = "MatMul(f, u)" if transposed else "Gemm<transB=1>(f, t)"
    model = models.parse(
        f"""
        tied (int64[N,5] ids) => (float[A,B] y)
        <float[40,32] t, {own} float[32,32] w, int64[2] sizes>
        {{ [table] e = Gather(t, ids) [mix] m = MatMul(e, w) [relu] r = Relu(m) [add] a = Add(r, e)
           [rows] f = Reshape(a, sizes) [scores] y = {product} }}
        """,
        seed=seed,
        weights={"sizes": np.array([-1, 32])},
    )
    if transposed:
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        table = onnx.numpy_helper.to_array(constants["t"])
        constants["u"].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(table.T), "u"))
    return model
