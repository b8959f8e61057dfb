"""Batches that are put on axis 0 and back again."""

import numpy as np
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.normalize.batch_first import put_batch_back, put_batch_first
from tests import models

STATE = (
    "g (float[1,4,6] x, float[2,N,5] h, float s) => (float[N,2,5] y, float[2,N,5] z, float[2,N,5] echo) "
    "{ k = Mul(h, s) y = Transpose<perm=[1,0,2]>(k) z = Relu(k) echo = Identity(h) }"
)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return open_session(ir.to_proto(model)).run({"x": np.zeros((1, 4, 6), np.float32), **feeds})


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"h": rng.standard_normal((2, 3, 5)).astype(np.float32), "s": np.array(1.5, np.float32)}


def test_inside_all_samples_are_on_axis_0(feeds: dict[str, np.ndarray]) -> None:
    given = ir.from_proto(models.parse(STATE))
    wanted = run(given, feeds)
    put_batch_first(given, {"h": 1, "s": None}, {"z": 1, "echo": 1})
    inner = {"h": np.moveaxis(feeds["h"], 1, 0).copy(), "s": np.full(3, feeds["s"])}
    got = run(given, inner)
    np.testing.assert_array_equal(got["y"], wanted["y"])
    np.testing.assert_array_equal(np.moveaxis(got["z"], 0, 1), wanted["z"])
    np.testing.assert_array_equal(np.moveaxis(got["echo"], 0, 1), wanted["echo"])
    assert [list(value.shape)[1:] for value in given.graph.inputs[1:]] == [[2, 5], []]


def test_what_was_put_first_goes_back(feeds: dict[str, np.ndarray]) -> None:
    given = ir.from_proto(models.parse(STATE))
    wanted = run(given, feeds)
    before = models.operators(given)
    added = put_batch_first(given, {"h": 1, "s": None}, {"z": 1, "echo": 1})
    put_batch_back(given, added)
    assert models.operators(given) == before
    assert not set(given.graph.initializers)
    got = run(given, feeds)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)


def test_an_input_that_is_an_output_goes_back() -> None:
    given = ir.from_proto(models.parse("g (float[2,N,5] h) => (float[2,N,5] z) { z = Identity(h) }"))
    added = put_batch_first(given, {"h": 1}, {"z": 1})
    identity = next(node for node in given.graph if node.op_type == "Identity")
    identity.outputs[0].replace_all_uses_with(identity.inputs[0])
    given.graph.remove(identity, safe=True)
    put_batch_back(given, added)
    feed = {"h": np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)}
    np.testing.assert_array_equal(open_session(ir.to_proto(given)).run(feed)["z"], feed["h"])
