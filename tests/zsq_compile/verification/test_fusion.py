import numpy as np
import onnx
import pytest

from backends.session import RuntimeModelError
from tests.models import parse, residual
from tests.zsq_compile.verification.quantized import float_and_quantized
from zsq_compile.verification.fusion import inspect_fusion


def test_a_fused_file_has_integer_nodes_only(tmp_path):
    _, emitted = float_and_quantized(tmp_path)
    fusion = inspect_fusion(emitted)
    assert fusion.fused == 4  # three convolutions and the Gemm
    assert fusion.fused_others == 2  # Add and GlobalAveragePool
    assert (fusion.unfused, fusion.left_float) == ((), ())
    assert (fusion.quantize_nodes, fusion.dequantize_nodes) == (1, 1)
    assert dict(fusion.operators)["QLinearConv"] == 3


def test_a_float_file_has_layers_left_in_float(tmp_path):
    path = tmp_path / "float.onnx"
    onnx.save(residual(), path)
    fusion = inspect_fusion(path)
    assert (fusion.fused, fusion.fused_others, fusion.unfused) == (0, 0, ())
    assert set(fusion.left_float) == {"conv0", "conv1", "conv2", "gemm"}


def test_a_layer_that_does_not_fuse_is_named(tmp_path):
    _, emitted = float_and_quantized(tmp_path)
    model = onnx.load(emitted)
    scale = next(node for node in model.graph.node if node.name == "conv1").input[2]
    producer = next(node for node in model.graph.node if node.output[0] == scale)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == producer.input[1])
    values = 2 * onnx.numpy_helper.to_array(tensor)  # a bias that is not on the scale of the products
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, emitted)
    fusion = inspect_fusion(emitted)
    assert fusion.unfused == ("conv1",)
    assert fusion.fused == 3


def test_a_file_that_does_not_load_is_an_error(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeModelError):
        inspect_fusion(path)


@pytest.mark.parametrize("behind", ["m", "r"])
def test_weights_in_blocks_are_a_kind_of_their_own(tmp_path, behind):
    path = tmp_path / "blocks.onnx"
    text = f"""
    blocks (float[N,64] x) => (float[N,8] y) <int4[64,8] codes, float[4,8] scale, float one, uint8 zero>
    {{ [d] w = DequantizeLinear<axis=0, block_size=16>(codes, scale)
       [fc] m = MatMul(x, w)
       [keeper] r = Elu(m)
       [q] q = QuantizeLinear({behind}, one, zero)
       [dq] y = DequantizeLinear(q, one, zero) }}
    """
    onnx.save(parse(text, weights={"codes": np.arange(512) % 15 - 7, "one": np.ones(()), "zero": np.zeros(())}), path)
    fusion = inspect_fusion(path)
    assert (fusion.blockwise, fusion.unfused) == ((("fc",), ()) if behind == "r" else ((), ("fc",)))
    assert (fusion.layers, fusion.fused, fusion.left_float) == (1, 0, ())
