"""What OpenVINO makes of files for the target openvino, in its own runtime."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.session import open_session
from passes.emit.emit import emit
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, prepare, random_feeds, sqnr, with_scales

openvino = pytest.importorskip("openvino", reason="needs the extra openvino: pip install zsq-compile[openvino]")
_LAYERS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")


def precisions(compiled):
    """How often each precision of each weighted operator stands in the graph that is executed."""
    counts = Counter()
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in _LAYERS:
            counts[facts["runtimePrecision"].astype(str)] += 1
    return counts


def large():
    """Weights large enough for words of digits."""
    return models.parse(
        """
        large (float[N,16,6,6] x) => (float[N,4,6,6] y)
        <float[64,16,3,3] w0, float[64] b0, float[64,64,3,3] w1, float[64] b1, float[4,64,1,1] w2, float[4] b2>
        {
            [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
            [relu0] r0 = Relu(c0)
            [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
            [relu1] r1 = Relu(c1)
            [conv2] y = Conv(r1, w2, b2)
        }
        """
    )


def compiled(path):
    core = openvino.Core()
    return core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, large])
def test_all_layers_run_in_integers_and_give_what_onnxruntime_gives(tmp_path, make, bits):
    target = load_target("openvino")
    model = prepare(make())
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, target, bits=bits, edge_bits=bits, quantize_outputs=True), model, feeds)
    made = inserted(model, plan)
    emit(made, plan, target)
    path = tmp_path / "net.onnx"
    ir.save(made, path)
    network = compiled(path)
    counts = precisions(network)
    assert counts.total() == len(plan.weights)
    assert set(counts) <= {"u8", "i8"}, counts
    outputs = {key.get_any_name(): value for key, value in network(feeds).items()}
    for name, wanted in open_session(path, threads=1).run(feeds).items():
        # a residual sum is taken in float there, and rounded once more here
        assert sqnr(wanted, outputs[name]) > 25.0


def test_the_float_model_shows_that_precisions_are_read(tmp_path):
    path = tmp_path / "float.onnx"
    onnx.save(models.residual(), path)
    assert set(precisions(compiled(path))) == {"f32"}
    assert np.isfinite(next(iter(compiled(path)(random_feeds(models.residual())).values()))).all()
