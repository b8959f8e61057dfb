import onnx_ir as ir
import pytest

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.fold_forward import ConvolveBatchNorm, FoldForward
from passes.normalize.infer_shapes import InferShapes
from tests import models

TOLERANCE = 5e-6  # of the output's magnitude: float32 rounding of one folded layer
MAP = "float[N,4,6,6] x"
BN = "BatchNormalization(r, scale, shift, mean, variance)"


def text(body: str, output: str = "float[N,6,H,W] y", inputs: str = MAP) -> str:
    weights = "float[6,4,3,3] w, float[6] b, float[6,2,1,1] wg, float[16,4] v, float[4,6] u, float[6,4,1,1] one"
    params = "float[4] scale, float[4] shift, float[4] mean, float[4] variance, float[4] none = {0,0,0,0}"
    places = "float[144,5] places, int64[2] flat = {0, 144}, float[4,6,3,3] up"
    return f"g ({inputs}) => ({output}) <{weights}, {params}, {places}> {{ r = Relu(x) {body} }}"


def inferred(given: str) -> ir.Model:
    model = models.graph(given)
    InferShapes()(model)
    return model


@pytest.mark.parametrize(
    ("body", "output", "inputs", "after"),
    [
        (f"n = {BN} y = Conv(n, w, b)", "float[N,6,4,4] y", MAP, ["Relu", "Conv"]),
        (f"n = {BN} y = Conv<strides=[2,2], dilations=[2,1]>(n, w)", "float[N,6,A,B] y", MAP, ["Relu", "Conv"]),
        (f"n = {BN} y = Conv<group=2>(n, wg, b)", "float[N,6,6,6] y", MAP, ["Relu", "Conv"]),
        (f"n = {BN} a = Conv(n, w, b) c = Conv(n, w) y = Add(a, c)", "float[N,6,4,4] y", MAP,
         ["Relu", "Conv", "Conv", "Add"]),
        (f"n = {BN} y = Gemm<transB=1>(n, v)", "float[N,16] y", "float[N,4] x", ["Relu", "Gemm"]),
        (f"n = {BN} y = Gemm<beta=2.0>(n, u, b)", "float[N,6] y", "float[N,4] x", ["Relu", "Gemm"]),
        (f"n = {BN} f = Flatten(n) y = Gemm(f, places)", "float[N,5] y", MAP, ["Relu", "Flatten", "Gemm"]),
        (f"n = {BN} f = Reshape(n, flat) y = Gemm(f, places)", "float[N,5] y", MAP, ["Relu", "Reshape", "Gemm"]),
        # padding is exact where nothing is added
        ("v0 = Mul(x, x) n = BatchNormalization(r, scale, none, none, variance) y = Conv<pads=[1,1,1,1]>(n, w, b)",
         "float[N,6,6,6] y", MAP, ["Relu", "Mul", "Conv"]),
    ],
)  # fmt: skip
def test_layers_behind_take_the_normalisation(body, output, inputs, after):
    model = inferred(text(body, output, inputs))
    assert FoldForward().call(model).modified
    assert models.operators(model) == after
    assert models.largest_difference(models.parse(text(body, output, inputs)), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "output", "inputs"),
    [
        (f"n = {BN} y = Conv<pads=[1,1,1,1]>(n, w, b)", "float[N,6,6,6] y", MAP),
        (f"n = {BN} y = Relu(n)", "float[N,4,6,6] y", MAP),
        (f"n = {BN} c = Conv(n, one) s = Relu(n) d = Conv(s, one) y = Add(c, d)", "float[N,6,6,6] y", MAP),
        (f"y = {BN}", "float[N,4,6,6] y", MAP),
        (f"n = {BN} y = ConvTranspose(n, up)", "float[N,6,8,8] y", MAP),
        (f"n = {BN.replace('(r', '(x')} y = Conv(n, w, b)", "float[N,6,4,4] y", MAP),  # raw features
        (f"n = {BN} y = Conv(n, z)", "float[N,6,4,4] y", "float[N,4,6,6] x, float[6,4,3,3] z"),
    ],
)  # fmt: skip
def test_what_would_not_be_exact_or_not_good_stays(body, output, inputs):
    model = inferred(text(body, output, inputs))
    outcome = FoldForward().call(model)
    assert not outcome.modified and outcome.refusals


@pytest.mark.parametrize("inputs", [MAP, "float[N,4,7] x", "float[N,4,3,4,5] x"])
def test_a_normalisation_of_its_own_becomes_a_convolution(inputs):
    output = inputs.replace(" x", " y")
    given = text(f"n = {BN} y = Relu(n)", output, inputs)
    model = inferred(given)
    assert ConvolveBatchNorm().call(model).modified
    assert models.operators(model) == ["Relu", "Conv", "Relu"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
    assert "n" in {value.name for node in model.graph for value in node.outputs}


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (f"n = {BN.replace('(r', '(x')} y = Relu(n)", MAP),  # of a graph input
        (f"t = Mul(x, none) n = {BN.replace('(r', '(t')} y = Relu(n)", "float[N,4,6,4] x"),  # of one that is scaled
        (f"h = HardSwish(x) n = {BN.replace('(r', '(h')} y = Relu(n)", MAP),  # of float
        (f"n = {BN} y = Relu(n)", "float[N,4] x"),
        (f"y = {BN}", MAP),
    ],
)
def test_other_normalisations_stay_one(body, inputs):
    model = inferred(text(body, inputs.replace(" x", " y"), inputs))
    outcome = ConvolveBatchNorm().call(model)
    assert not outcome.modified and outcome.refusals


def test_a_matmul_of_rows_takes_the_normalisation_behind_it():
    given = """g (float[N,6] x) => (float[N,4] y) <float[6,4] w, float[4] scale, float[4] shift, float[4] mean,
        float[4] variance> { m = MatMul(x, w) y = BatchNormalization(m, scale, shift, mean, variance) }"""
    model = models.graph(given)
    assert FoldBatchNorm().call(model).modified
    assert models.operators(model) == ["Gemm"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


def test_a_matmul_of_stacks_does_not():
    given = """g (float[N,4,6] x) => (float[N,4,5] y) <float[6,5] w, float[4] scale, float[4] shift, float[4] mean,
        float[4] variance> { m = MatMul(x, w) y = BatchNormalization(m, scale, shift, mean, variance) }"""
    assert not FoldBatchNorm().call(models.graph(given)).modified
