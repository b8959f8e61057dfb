import numpy as np
import onnx_ir as ir
import pytest

from passes.quantize.add_missing_bias import AddMissingBias
from tests.models import parse
from tests.quantizing import execute, random_feeds

GRAPHS = {
    "conv": (
        "g (float[N,3,6,6] x) => (float[N,4,6,6] y) <float[4,3,3,3] w> { [layer] y = Conv<pads=[1,1,1,1]>(x, w) }",
        4,
    ),
    "grouped conv": (
        "g (float[N,4,6] x) => (float[N,8,6] y) <float[8,2,1] w> { [layer] y = Conv<group=2>(x, w) }",
        8,
    ),
    "transposed conv": (
        "g (float[N,4,3] x) => (float[N,6,4] y) <float[4,3,2] w> { [layer] y = ConvTranspose<group=2>(x, w) }",
        6,
    ),
    "gemm": ("g (float[N,3] x) => (float[N,5] y) <float[3,5] w> { [layer] y = Gemm(x, w) }", 5),
    "gemm transposed": ("g (float[N,3] x) => (float[N,5] y) <float[5,3] w> { [layer] y = Gemm<transB=1>(x, w) }", 5),
    "bias left empty": ('g (float[N,3] x) => (float[N,5] y) <float[3,5] w> { [layer] y = Gemm(x, w, "") }', 5),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_layer_without_a_bias_gets_zeros_and_computes_the_same(name: str) -> None:
    text, channels = GRAPHS[name]
    model = ir.from_proto(parse(text))
    feeds = random_feeds(model)
    before = execute(model, feeds)

    result = AddMissingBias()(model)

    bias = model.graph.initializers["layer_bias"].const_value
    assert result.modified
    assert bias is not None and bias.shape == [channels] and not bias.numpy().any()
    assert model.graph[0].inputs[2] is model.graph.initializers["layer_bias"]
    np.testing.assert_array_equal(execute(model, feeds)["y"], before["y"])
    assert AddMissingBias()(model).modified is False


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,3] x) => (float[N,5] y) <float[3,5] w, float[5] b> { [layer] y = Gemm(x, w, b) }",
        "g (float[N,3] x, float[3,5] w) => (float[N,5] y) { [layer] y = Gemm(x, w) }",
        "g (float[N,3] x) => (float[N,5] y) <float[3,5] w> { [layer] y = MatMul(x, w) }",
    ],
    ids=["has one", "weight is fed", "operator has none"],
)
def test_other_layers_stay_as_they_are(text: str) -> None:
    model = ir.from_proto(parse(text))
    inputs = model.graph[0].inputs
    assert AddMissingBias()(model).modified is False
    assert model.graph[0].inputs == inputs


def test_a_name_that_the_model_uses_is_not_taken_over() -> None:
    model = ir.from_proto(
        parse(
            """
            g (float[N,3] x) => (float[N,3] y) <float[3,3] w, float[3,3] w2, float[3] first_bias>
            {
                [first] t = Gemm(x, w)
                [second] y = Gemm(t, w2, first_bias)
            }
            """
        )
    )
    feeds = random_feeds(model)
    before = execute(model, feeds)["y"]
    AddMissingBias()(model)
    first, second = model.graph
    assert first.inputs[2] is not second.inputs[2]
    np.testing.assert_array_equal(execute(model, feeds)["y"], before)


def test_the_bias_has_the_type_of_the_weight() -> None:
    model = ir.from_proto(parse("g (double[N,3] x) => (double[N,5] y) <double[3,5] w> { [layer] y = Gemm(x, w) }"))
    AddMissingBias()(model)
    assert execute(model, {"x": np.ones((1, 3))})["y"].dtype == np.float64


@pytest.mark.parametrize("shape", ["1", "1,5", "5", "1,1"])
def test_the_bias_of_a_gemm_is_written_out_for_each_channel(shape: str) -> None:
    model = ir.from_proto(
        parse(f"g (float[N,3] x) => (float[N,5] y) <float[3,5] w, float[{shape}] b> {{ [layer] y = Gemm(x, w, b) }}")
    )
    feeds = random_feeds(model)
    before = execute(model, feeds)
    assert AddMissingBias()(model).modified == (shape != "5")
    bias = model.graph[0].inputs[2]
    assert bias is not None and bias.const_value is not None and bias.const_value.shape == [5]
    assert np.array_equal(execute(model, feeds)["y"], before["y"])
    assert not AddMissingBias()(model).modified


def test_a_bias_with_a_row_for_each_sample_stays() -> None:
    text = "g (float[2,3] x) => (float[2,5] y) <float[3,5] w, float[2,5] b> { [layer] y = Gemm(x, w, b) }"
    assert not AddMissingBias()(ir.from_proto(parse(text))).modified
