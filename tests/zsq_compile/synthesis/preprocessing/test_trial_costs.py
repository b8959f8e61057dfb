import onnx
import onnx_ir as ir

from tests import models
from zsq_compile.synthesis.preprocessing.trial_costs import count_trial

DENSE = """
dense (float[N,16] x) => (float[N,4] y) <float[32,16] w0, float[4,32] w1>
{ [first] h = Gemm<transB=1>(x, w0) [relu] r = Relu(h) [last] y = Gemm<transB=1>(r, w1) }
"""


def counted(text: str, *values: str) -> tuple[int, int, int]:
    cost = count_trial(ir.from_proto(onnx.shape_inference.infer_shapes(models.parse(text))), values)
    return cost.work, cost.elements, cost.watched


def test_only_what_computes_the_values_counts() -> None:
    assert counted(DENSE, "h") == (16 * 32 + 10 * 32, 32, 32)
    assert counted(DENSE, "h", "y") == (16 * 32 + 32 * 4 + 10 * (32 + 32 + 4), 68, 36)


def test_a_fixed_batch_is_shared_by_its_samples() -> None:
    assert counted(DENSE.replace("N,", "8,"), "y")[0] == counted(DENSE, "y")[0]


def test_a_recurrent_layer_works_for_every_frame() -> None:
    text = """
    listener (float[1,16] first, float[FRAMES,1,16] x) => (float[FRAMES,1,1,8] y) <float[1,32,16] w, float[1,32,8] r>
    { [lstm] y = LSTM<hidden_size=8>(x, w, r) }
    """
    few, many = (counted(text.replace("FRAMES", str(frames)), "y")[0] for frames in (5, 50))
    assert many == 10 * few
    assert few > 5 * (16 + 8) * 32
