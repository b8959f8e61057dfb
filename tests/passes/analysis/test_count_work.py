import pytest

from passes.analysis.count_work import count_work
from tests import models
from tests.quantizing import prepare


def test_a_convolution_and_a_product() -> None:
    work = count_work(prepare(models.residual()))
    # three convolutions of 8 x 8 positions, and the classifier
    assert work.multiplications == 64 * (8 * 3 * 9 + 8 * 8 * 9 + 8 * 8 * 9) + 8 * 5
    assert work.parameters == 8 * 3 * 9 + 2 * 8 * 8 * 9 + 3 * 8 + 8 * 5 + 5


@pytest.mark.parametrize(
    ("text", "multiplications"),
    [
        (
            "(float[N,4,6,6] x) => (float[N,4,6,6] y) <float[4,1,3,3] w> {y = Conv<group=4,pads=[1,1,1,1]>(x, w)}",
            36 * 4 * 9,
        ),
        ("(float[2,4,6,6] x) => (float[2,8,3,3] y) <float[8,4,2,2] w> {y = Conv<strides=[2,2]>(x, w)}", 9 * 8 * 16),
        (
            "(float[N,4,3,3] x) => (float[N,2,6,6] y) <float[4,2,2,2] w> {y = ConvTranspose<strides=[2,2]>(x, w)}",
            9 * 4 * 8,
        ),
        ("(float[N,5,4] x) => (float[N,5,7] y) <float[4,7] w> {y = MatMul(x, w)}", 5 * 4 * 7),
        ("(float[N,5,4] x, float[N,4,5] z) => (float[N,5,5] y) {y = MatMul(x, z)}", 5 * 5 * 4),
        ("(float[N,4] x) => (float[N,7] y) <float[7,4] w> {y = Gemm<transB=1>(x, w)}", 28),
        ("(float[N,4] x) => (float[N,4] y) {y = Relu(x)}", 0),
    ],
)
def test_multiplications_of_one_sample(text: str, multiplications: int) -> None:
    assert count_work(models.graph(f"net {text}")).multiplications == multiplications


def test_elements_are_what_nodes_write_for_one_sample() -> None:
    text = "net (float[3,2,4] x) => (float[3,2,4] y) { r = Relu(x) y = Tanh(r) }"
    assert count_work(prepare(models.parse(text))).elements == 16
