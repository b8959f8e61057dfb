import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.analysis.find_dead_channels import filter_lengths, find_dead_channels
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from tests import models
from tests.quantizing import every_value, prepare, random_feeds


def conv(weight: np.ndarray, bias: np.ndarray, ending: str = "y = Relu(c)") -> ir.Model:
    text = f"""
    net (float[N,3,6,6] x) => (float[N,8,6,6] y)
    <float[8,3,3,3] w, float[8] b, float low = {{0.0}}, float high = {{6.0}}>
    {{
        [conv] c = Conv<pads=[1,1,1,1]>(x, w, b)
        [end] {ending}
    }}
    """
    return models.graph(text, weights={"w": weight, "b": bias})


@pytest.fixture
def weight() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    made[1] = 0.0
    made[4] *= 1e-5
    made[6] *= 1e-2  # weak, and alive
    return made


def test_zero_and_tiny_filters_are_dead_and_weak_ones_are_not(weight: np.ndarray) -> None:
    bias = np.array([0, -1, 0, 0, 2, 0, 0, 0], np.float32)
    (found,) = find_dead_channels(conv(weight, bias))
    assert (found.node, found.op_type, found.total) == ("conv", "Conv", 8)
    assert found.constant == (1, 4)
    assert found.silent == (1,), "what is above 0 passes the Relu"


@pytest.mark.parametrize(
    ("ending", "silent"),
    [("y = Relu(c)", True), ("y = Clip(c, low, high)", True), ("y = Tanh(c)", False), ("y = Clip(c)", False)],
)
def test_only_a_rectifier_silences(ending: str, silent: bool, weight: np.ndarray) -> None:
    model = conv(weight, np.full(8, -1.0, np.float32), ending)
    (found,) = find_dead_channels(model)
    assert found.constant == (1, 4)
    assert bool(found.silent) is silent


def test_the_runtime_says_so_too(weight: np.ndarray) -> None:
    model = conv(weight, np.array([0, -1, 0, 0, 2, 0, 0, 0], np.float32))
    (found,) = find_dead_channels(model)
    feeds = random_feeds(model)
    values = every_value(model, feeds)
    spread = np.ptp(values["c"], axis=(0, 2, 3))
    assert set(np.flatnonzero(spread < 1e-3 * np.median(spread))) == set(found.constant)
    assert set(np.flatnonzero(values["y"].max((0, 2, 3)) == 0.0)) == set(found.silent)


def test_a_gamma_of_zero_kills_once_it_is_folded() -> None:
    original = models.conv_bn_relu()
    for tensor in original.graph.initializer:
        if tensor.name == "scale":
            gamma = np.array([1, 1, 0, 1, 1e-6, 1, 1, 1], np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(gamma, "scale"))
    model = ir.from_proto(original)
    FoldBatchNorm()(model)
    (found,) = find_dead_channels(model)
    assert found.constant == (2, 4)


def test_a_network_without_dead_channels_and_one_with_nothing_else() -> None:
    assert find_dead_channels(prepare(models.residual())) == ()
    (found,) = find_dead_channels(conv(np.zeros((8, 3, 3, 3), np.float32), np.zeros(8, np.float32)))
    assert found.constant == found.silent == tuple(range(8))


@pytest.mark.parametrize(
    ("text", "shape", "lengths"),
    [
        ("y = Gemm(x, w)", (4, 3), lambda w: np.linalg.norm(w, axis=0)),
        ("y = Gemm<transB=1>(x, w)", (3, 4), lambda w: np.linalg.norm(w, axis=1)),
        ("y = MatMul(x, w)", (4, 3), lambda w: np.linalg.norm(w, axis=0)),
    ],
)
def test_lengths_follow_the_layout(text: str, shape: tuple[int, int], lengths: object) -> None:
    rows, columns = shape
    model = models.graph(f"net (float[N,4] x) => (float[N,3] y) <float[{rows},{columns}] w> {{ [layer] {text} }}")
    node = model.graph.node(0)
    weight = node.inputs[1].const_value.numpy()
    np.testing.assert_allclose(filter_lengths(node, weight), lengths(weight), rtol=1e-6)  # type: ignore[operator]


def test_lengths_of_a_grouped_transposed_convolution() -> None:
    model = models.graph(
        "net (float[1,4,5,5] x) => (float[1,6,7,7] y) <float[4,3,3,3] w> { [up] y = ConvTranspose<group=2>(x, w) }"
    )
    node = model.graph.node(0)
    weight = node.inputs[1].const_value.numpy()
    wanted = [np.linalg.norm(weight[2 * group : 2 * group + 2, out]) for group in range(2) for out in range(3)]
    np.testing.assert_allclose(filter_lengths(node, weight), wanted, rtol=1e-6)
