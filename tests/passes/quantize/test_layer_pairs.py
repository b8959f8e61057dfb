import onnx_ir as ir
import pytest

from passes.quantize.layer_pairs import find_pairs
from tests import models

HEAD = "float[N,4,6,6] x"
WEIGHTS = """float[4,4,1,1] w, float[4] b, float[4,4,1,1] w2, float[4,1,3,3] dw, float[4] slope, float[6,5] m,
    float low = {0.0}, float six = {6.0}"""


def build(body: str, outputs: str = "float[N,4,A,B] z", inputs: str = HEAD) -> ir.Model:
    return models.graph(f"g ({inputs}) => ({outputs}) <{WEIGHTS}> {{ {body} }}")


@pytest.mark.parametrize(
    ("between", "operator", "values"),
    [
        ("[f] r = Relu(c)", "Relu", ("c", "r")),
        ("[f] r = LeakyRelu(c)", "LeakyRelu", ("c", "r")),
        ("[f] r = PRelu(c, slope)", "PRelu", ("c", "r")),
        ("[f] r = Identity(c)", "Identity", ("c", "r")),
        ("", None, ("c",)),
    ],
)
def test_layers_with_something_that_scales_between_them_are_a_pair(between, operator, values):
    body = f"[a] c = Conv(x, w, b) {between} [b] z = Conv({values[-1]}, w2, b)"
    pairs, refusals = find_pairs(build(body).graph)
    (pair,) = pairs
    assert (pair.first.name, pair.second.name) == ("a", "b") and pair.values == values
    assert (pair.activation.op_type if pair.activation else None) == operator
    (refusal,) = refusals
    assert (refusal.where, refusal.op_type) == ("b", "Conv") and "'z' is an output of the graph" in refusal.reason


def test_a_depthwise_layer_in_the_middle_is_in_two_pairs():
    body = "[a] c = Conv(x, w) r = Relu(c) [b] d = Conv<group=4>(r, dw) s = Relu(d) [c] z = Conv(s, w2)"
    pairs, _ = find_pairs(build(body).graph)
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("r = Clip(c, low, six) z = Conv(r, w2)", "z", "(Clip) behind it does not scale"),
        ("r = Sigmoid(c) z = Conv(r, w2)", "z", "(Sigmoid) behind it does not scale"),
        ("r = Relu(c) s = Clip(r, low, six) z = Conv(s, w2)", "z", "(Clip) behind it does not scale"),
        ("z = Conv(c, w2) y = Relu(c)", "z, y", "'c' is read 2 times"),
        ("r = Relu(c) z = Conv(r, w2) y = Relu(r)", "z, y", "'r' is read 2 times"),
        ("z = PRelu(c, c)", "z", "'c' is read 2 times"),
        ("y = Relu(c) z = Conv(y, w2)", "z, y", "'y' is an output of the graph"),
        ("r = Relu(c) z = Add(r, x)", "z", "(Add), which has no weight"),
        ("z = PRelu(x, c)", "z", "(PRelu), which has no weight"),
        ("r = Relu(c) z = Conv(r, v)", "z", "the weight of 'node_2' is not constant"),
        ("r = Relu(c) z = Conv(x, r)", "z", "it is not the data of 'node_2'"),
        ("z = MatMul(c, m)", "z", "lie along another axis"),
    ],
)
def test_other_layers_are_named_with_the_reason(body, outputs, reason):
    typed = ", ".join(f"float[A{i},B{i},C{i},D{i}] {name}" for i, name in enumerate(outputs.split(", ")))
    model = build(f"[a] c = Conv(x, w, b) {body}", typed, f"{HEAD}, float[4,4,1,1] v")
    for position, node in enumerate(model.graph):
        node.name = node.name or f"node_{position}"
    pairs, refusals = find_pairs(model.graph)
    assert not pairs
    assert next(refusal.reason for refusal in refusals if refusal.where == "a").find(reason) >= 0, refusals


@pytest.mark.parametrize(
    ("first", "inputs", "weights", "reason"),
    [
        ("Conv(x, v)", "float[N,4,6,6] x, float[4,4,1,1] v", "float[4,4,1,1] w", "the weight of 'a' is not constant"),
        ("Conv(x, w, v)", "float[N,4,6,6] x, float[4] v", "float[4,4,1,1] w", "the bias of 'a' is not constant"),
        ("Conv(x, w)", "float16[N,4,6,6] x", "float16[4,4,1,1] w", "the weight of 'a' is float16"),
        ("Gemm<transA=1>(x, w)", "float[4,N] x", "float[4,4] w", "not (rows, channels)"),
        ("MatMul(x, w)", "float[N,4] x", "float[2,4,4] w", "not (rows, channels)"),
        ("Conv(x, u)", "float[N,4,6,6] x", "float[4,4,1,1] w", "the weight of 'a' is read 2 times"),
    ],
)
def test_first_layers_that_cannot_be_scaled_say_why(first, inputs, weights, reason):
    kind = "float16" if "float16" in inputs else "float"
    second = "MatMul(r, u)" if "Conv" not in first else "Conv(r, u)"
    rank = "A,B,C" if "[2," in weights else "A,B,C,D" if "Conv" in first else "A,B"
    body = f"[a] c = {first} [f] r = Relu(c) [b] z = {second}"
    text = f"g ({inputs}) => ({kind}[{rank}] z) <{weights}, {weights[:-1]}u> {{ {body} }}"
    pairs, refusals = find_pairs(models.graph(text).graph)
    assert not pairs
    assert reason in refusals[0].reason
