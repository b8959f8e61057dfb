"""Networks with control flow between their layers: what the branches and loops hold stays float."""

from pathlib import Path

import numpy as np
import onnx

from backends.session import open_session
from tests.models import parse

HEAD = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,8,1,1] inner, float[8] bi,
     float[5,8] w3, float[5] b3, float limit = {0.0}, int64 turns = {3}, int64[1] first = {0}, int64[1] third = {2},
     float half = {0.5}>
    { c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(c1) """
TAIL = """ c2 = Conv<pads=[1,1,1,1]>(m, w2, b2) r2 = Relu(c2) p = GlobalAveragePool(r2) f = Flatten(p)
      y = Gemm<transB=1>(f, w3, b3) }"""

BRANCH = """ s = ReduceMean<keepdims=0>(x) cond = Greater(s, limit)
    m = If(cond) <then_branch = then_graph () => (float[N,8,8,8] t) { i = Conv(r1, inner, bi) t = Relu(i) },
                  else_branch = else_graph () => (float[N,8,8,8] e) { e = Mul(r1, half) }> """
LOOP = """ c0 = Greater(turns, turns) true = Not(c0)
    m, collected = Loop(turns, true, r1) <body = turn (int64 i, bool go, float[N,8,8,8] at) =>
        (bool on, float[N,8,8,8] next, float[N,8] seen)
        { on = Identity(go) k = Conv(at, inner, bi) h = Tanh(k) sum = Add(h, r1) next = Mul(sum, half)
          axes = Constant<value_ints=[2,3]>() seen = ReduceMean<keepdims=0>(next, axes) }> """
SCAN = """ rows = Transpose<perm=[2,0,1,3]>(r1) start = ReduceMean<keepdims=0>(rows, first)
    mean = ReduceMean<keepdims=0>(r1, third)
    last, out = Scan<num_scan_inputs=1, body = turn (float[N,8,8] state, float[N,8,8] row) =>
        (float[N,8,8] next, float[N,8,8] kept) { a = Add(state, row) next = Mul(a, half) kept = Sub(next, mean) }>
        (start, rows)
    m = Transpose<perm=[1,2,0,3]>(out) """


def branching() -> onnx.ModelProto:
    """An If between two convolutions, whose branches read an activation, and a weight that nothing else reads.

    It takes one picture at a time, as the mean of a whole batch decides.
    """
    return parse((HEAD + BRANCH + TAIL).replace("[N,", "[1,"))


def looping() -> onnx.ModelProto:
    """A Loop of three turns that reads what it starts with from outside, too."""
    return parse(HEAD + LOOP + TAIL)


def scanning() -> onnx.ModelProto:
    """A Scan over the rows of a feature map, which reads another value from outside."""
    return parse(HEAD + SCAN + TAIL)


def outputs(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    """Run a model in ONNX Runtime, picture by picture."""
    session = open_session(model, threads=1)
    return np.concatenate([session.run({"x": one[None]})["y"] for one in x])


def pictures(count: int = 8) -> np.ndarray:
    """(count, 3, 8, 8), each with a mean of its own sign."""
    drawn = np.random.default_rng(0).standard_normal((count, 3, 8, 8))
    return (drawn + np.where(np.arange(count) % 2, 1.0, -1.0)[:, None, None, None]).astype(np.float32)
