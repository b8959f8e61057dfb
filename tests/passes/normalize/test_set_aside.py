import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.normalize import set_aside
from passes.normalize.normalize import normalize
from tests.models import parse

TEXT = """
    g (float[N,32] x) => (float[N,32] y)
    <float[32,32] w, float[32,32] v, float[32] b, int64[2] shape = {-1, 32}>
    { m = MatMul(x, w) r = Reshape(m, shape) i = Identity(r) y = Gemm<transB=1>(i, v, b) }
    """


@pytest.fixture(autouse=True)
def _every_matrix_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "_LARGE", 4096)
    monkeypatch.setattr(set_aside, "_MANY", 8192)


def test_the_tool_never_sees_large_weights_and_the_result_has_them_in_common() -> None:
    model = ir.from_proto(parse(TEXT))
    seen: list[int] = []

    def tool(proto: onnx.ModelProto) -> onnx.ModelProto:
        seen.append(len(proto.SerializeToString()))
        return proto

    made = set_aside.with_weights_aside(model, tool)
    assert seen[0] < 4096
    assert [value.name for value in made.graph.inputs] == ["x"]
    for name in ("w", "v"):
        assert made.graph.initializers[name].const_value is model.graph.initializers[name].const_value
    assert [value.name for value in model.graph.inputs] == ["x"]
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    got, wanted = (open_session(ir.to_proto(one)).run({"x": x})["y"] for one in (made, model))
    np.testing.assert_array_equal(got, wanted)


def test_a_large_model_still_comes_into_normal_form() -> None:
    model = ir.from_proto(parse(TEXT))
    made = normalize(model)
    assert [node.op_type for node in made.graph] == ["MatMul", "Gemm"]
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    got, wanted = (open_session(ir.to_proto(one)).run({"x": x})["y"] for one in (made, model))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
