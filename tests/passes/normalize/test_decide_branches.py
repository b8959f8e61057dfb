"""An If whose condition is constant, or becomes so with the shapes, is decided at any depth. Oracle: ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize.normalize import normalize
from passes.operators import BODY_DOMAIN
from tests.models import largest_difference, operators, parse

CONSTANT = "cond = Greater(one, zero)"
OF_A_SHAPE = "s = Shape(x) last = Gather(s, three) cond = Greater(last, two)"
OF_DATA = "m = ReduceMean<keepdims=0>(x) cond = Greater(m, zero)"
TEXT = """net (float[N,3,8,8] x) => (float[N,8,8,8] y)
    <float[8,3,3,3] w, float[8,8,1,1] inner, float one = {1.0}, float zero = {0.0}, int64 three = {3}, int64 two = {2}>
    { %s
      r = Conv<pads=[1,1,1,1]>(x, w)
      y = If(cond) <then_branch = outer () => (float[N,8,8,8] t)
            { q = Tanh(r) n = Not(cond) t = If(n) <then_branch = a () => (float[N,8,8,8] u) { u = Add(q, r) },
                                       else_branch = b () => (float[N,8,8,8] v) { v = Conv(q, inner) }> },
          else_branch = other () => (float[N,8,8,8] e)
            { f = Constant<value_float=0.5>() e = Mul(r, f) }> }"""


@pytest.mark.parametrize("condition", [CONSTANT, OF_A_SHAPE])
def test_what_is_constant_is_decided_at_any_depth(condition: str) -> None:
    given = parse(TEXT % condition)
    model = normalize(ir.from_proto(given), simplify=False)
    assert operators(model) == ["Conv", "Tanh", "Conv"] and not model.functions
    assert largest_difference(given, model) < 1e-5


def test_the_branch_not_taken_is_left_out_with_its_constants() -> None:
    given = parse((TEXT % CONSTANT).replace("Greater(one, zero)", "Greater(zero, one)"))
    model = normalize(ir.from_proto(given), simplify=False)
    assert operators(model) == ["Conv", "Mul"]
    assert largest_difference(given, model) < 1e-5


def test_what_depends_on_data_stays() -> None:
    given = parse(TEXT % OF_DATA)
    model = normalize(ir.from_proto(given), simplify=False)
    assert [node.op_type for node in model.graph if node.domain == BODY_DOMAIN] == ["If"]
    assert largest_difference(given, model) < 1e-5


def test_constants_of_a_body_come_along() -> None:
    given = parse((TEXT % CONSTANT).replace("Greater(one, zero)", "Greater(zero, one)"))
    branch = next(attribute.g for attribute in given.graph.node[-1].attribute if attribute.name == "else_branch")
    tensor = branch.node[0].attribute[0]
    value = np.array(tensor.f, np.float32)
    del branch.node[0]
    branch.initializer.append(ir.serde.serialize_tensor(ir.tensor(value, name="f")))
    model = normalize(ir.from_proto(given), simplify=False)
    assert operators(model) == ["Conv", "Mul"]
    assert largest_difference(given, model) < 1e-5
