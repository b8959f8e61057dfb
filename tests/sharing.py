"""Networks whose layers share weights: unrolled steps of a recurrent cell, and two branches with the same filters."""

import onnx

from tests import models

STEPS = 8


def unrolled(*, steps: int = STEPS, seed: int = 0) -> onnx.ModelProto:
    """Make ``h = tanh(u h + c)`` several times between two layers, (N, 24) -> (N, 5); ``u`` is 24 x 24."""
    cell = "\n".join(
        f"[step{step}] a{step} = Gemm<transB=1>(h{step - 1}, u, c) [tanh{step}] h{step} = Tanh(a{step})"
        for step in range(1, steps + 1)
    )
    return models.parse(
        f"""
        unrolled (float[N,24] x) => (float[N,5] y)
        <float[24,24] u, float[24] c, float[24,24] w, float[24] b, float[24,5] v, float[5] d>
        {{ [enter] a0 = Gemm(x, w, b) [tanh0] h0 = Tanh(a0) {cell} [leave] y = Gemm(h{steps}, v, d) }}
        """,
        seed=seed,
    )


def siamese(*, seed: int = 0) -> onnx.ModelProto:
    """Two images through the same two convolutions, the first with BatchNormalization, and the maps compared."""
    branches = "\n".join(
        f"""[first_{side}] c_{side} = Conv<pads=[1,1,1,1]>({side}, w, b)
            [norm_{side}] n_{side} = BatchNormalization(c_{side}, scale, shift, mean, variance)
            [relu_{side}] r_{side} = Relu(n_{side})
            [second_{side}] d_{side} = Conv<pads=[1,1,1,1]>(r_{side}, v, a)
            [act_{side}] e_{side} = Relu(d_{side})"""
        for side in ("p", "q")
    )
    return models.parse(
        f"""
        siamese (float[N,3,8,8] p, float[N,3,8,8] q) => (float[N,4,8,8] y)
        <float[16,3,3,3] w, float[16] b, float[16] scale, float[16] shift, float[16] mean, float[16] variance,
         float[8,16,3,3] v, float[8] a, float[4,8,1,1] u, float[4] c>
        {{ {branches} [join] s = Add(e_p, e_q) [last] y = Conv(s, u, c) }}
        """,
        seed=seed,
    )
