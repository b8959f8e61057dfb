"""Every opset from the oldest to the newest comes through: loaded, quantized, run.

Oracle: ONNX Runtime on the file as it was given.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from backends.catalog import load_target
from backends.session import open_session
from passes.emit.emit import emit
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, optimized_operators, prepare, sqnr, with_scales
from tests.zsq_compile.frontend.quick import load_quickly
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import LoadError, UnsupportedModelError
from zsq_compile.frontend import run_reference
from zsq_compile.frontend.load import load_model
from zsq_compile.frontend.read_onnx import OLDEST_OPSET

CPU = load_target("ort_cpu")
NEWEST = onnx.defs.onnx_opset_version()
TOLERANCE = 2e-6  # of the output's magnitude: the runtime has other kernels for other versions
LEAST_DB = 25.0  # 8 bits with min-max scales; a wrong graph gives less than 5

PLAIN = """<ir_version: {ir}, opset_import: ["" : {opset}]>
    net (float[N,3,12,12] x) => (float[N,5] y)
    <float[8,3,3,3] w, float[8] b, float[8] g, float[8] s, float[8] m, float[8] v, float[6,8,3,3] w2, float[6] b2,
     float[5,6] w3, float[5] b3>
    {{ c = Conv<pads=[1,1,1,1]>(x, w, b) n = BatchNormalization(c, g, s, m, v) r = Relu(n)
       p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) c2 = Conv(p, w2, b2) r2 = Relu(c2)
       a = GlobalAveragePool(r2) f = Flatten(a) y = Gemm<transB=1>(f, w3, b3) }}"""


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def plain(opset: int) -> onnx.ModelProto:
    variance = np.linspace(0.5, 2.0, 8, dtype=np.float32)
    return models.parse(PLAIN.format(ir=8 if opset < 21 else 10, opset=opset), weights={"v": variance})


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST + 1))
def test_every_opset_is_quantized(opset: int, tmp_path: Path) -> None:
    given = plain(opset)
    loaded = load_model(save(given, tmp_path), newest_opset=CPU.newest_opset)
    written = loaded.model.graph.opset_imports[""]
    assert loaded.opset == opset and written == min(max(opset, CPU.opset), CPU.newest_opset)
    assert any(f"opset {opset} was" in note for note in loaded.notes) is (written != opset)
    feeds = {"x": np.random.default_rng(0).standard_normal((16, 3, 12, 12)).astype(np.float32)}
    wanted = open_session(given, threads=1).run(feeds)["y"]
    np.testing.assert_allclose(open_session(loaded.original, threads=1).run(feeds)["y"], wanted, rtol=0, atol=1e-5)
    network = prepare(ir.to_proto(loaded.model))
    plan = with_scales(place_quantizers(network, CPU), network, feeds)
    made = inserted(network, plan)
    emit(made, plan, CPU)
    assert sqnr(wanted, open_session(ir.to_proto(made), threads=1).run(feeds)["y"]) > LEAST_DB
    found = optimized_operators(made, tmp_path)
    assert found.count("QLinearConv") == 2 and found.count("QGemm") == 1


CHANGED = [
    "y = Conv<pads=[1,1,1,1]>(x, w)",
    "y = HardSwish(x)",
    "y = Round(x)",
    "t = Reshape(x, to_sequence) y, h = GRU<hidden_size=4>(t, gw, gr)",
    "t = Reshape(x, to_sequence) y, h, c = LSTM<hidden_size=4>(t, lw, lr)",
    "y = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(x)",
    "y = ConvTranspose<strides=[2,2]>(x, tw)",
    "y = InstanceNormalization(x, g, g)",
    "y = GlobalMaxPool(x)",
    "y = Mish(x)",
    "y = LpNormalization<axis=1>(x)",
]
CHANGED_MODEL = """<ir_version: 10, opset_import: ["" : {opset}]>
    net (float[N,4,6,6] x) => (float[A,B,C,D] y)
    <float[4,4,3,3] w, float[4,3,2,2] tw, float[4] g, float[6] last, int64[3] to_sequence = {{-1, 1, 36}},
     float[1,12,36] gw, float[1,12,4] gr, float[1,16,36] lw, float[1,16,4] lr> {{ {body} }}"""


def changed(body: str, opset: int) -> onnx.ModelProto:
    return models.parse(CHANGED_MODEL.format(opset=opset, body=body))


@pytest.mark.parametrize("body", CHANGED)
@pytest.mark.parametrize("newest", [0, 21])
def test_operators_with_a_new_version_at_22_keep_what_they_compute(body: str, newest: int, tmp_path: Path) -> None:
    given = changed(body, 22)
    loaded = load_model(save(given, tmp_path), newest_opset=newest)
    assert loaded.model.graph.opset_imports[""] == (newest or 22)
    assert models.largest_difference(given, loaded.original) < TOLERANCE
    feeds = models.random_feeds(given)
    wanted = open_session(given, threads=1).run(feeds)["y"]
    got = TorchGraph(loaded.model).run({"x": torch.from_numpy(feeds["x"])})["y"].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_operator_that_the_earlier_opset_lacks_is_named(tmp_path: Path) -> None:
    path = save(changed("y = RMSNormalization<axis=-1>(x, last)", 23), tmp_path)
    assert load_model(path, newest_opset=27).model.graph.opset_imports[""] == 23
    with pytest.raises(UnsupportedModelError, match=r"lowered from opset 23 to 21.*RMSNormalization"):
        load_model(path, newest_opset=21)


@pytest.mark.parametrize("image", ["float[N,4,6,6] x", "float[N,4,H,W] x"])
def test_what_the_runtime_has_no_kernel_for_is_lowered_until_it_runs(image: str, tmp_path: Path) -> None:
    given = changed("y = Swish(x)", 26)  # ONNX Runtime 1.32 has one at 24 only
    given.graph.input[0].CopyFrom(onnx.parser.parse_graph(f"g ({image}) => (float y) {{ y = Swish(x) }}").input[0])
    loaded = load_model(save(given, tmp_path))
    quick = load_quickly(tmp_path / "net.onnx")
    assert quick.model.graph.opset_imports == loaded.model.graph.opset_imports
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    got = open_session(loaded.original, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, x / (1 + np.exp(-x)), rtol=1e-5, atol=1e-6)
    assert loaded.original.opset_import[0].version <= 26


@pytest.mark.parametrize("baked", [1, 2, 4])
def test_a_batch_that_is_open_in_name_only_is_fixed_to_the_one_that_runs(baked: int, tmp_path: Path) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[N,3,4,4] x) => (float[N,6] y) <float[8,3,3,3] w, float[6,128] v, int64[2] shape = {{{baked},128}}>
        {{ c = Conv<pads=[1,1,1,1]>(x, w) f = Reshape(c, shape) y = Gemm<transB=1>(f, v) }}"""
    given = models.parse(text)
    loaded = load_model(save(given, tmp_path))
    assert loaded.face.inputs["x"] == (baked, 3, 4, 4)
    assert any(f"batch was fixed to {baked}" in note for note in loaded.notes)
    x = np.random.default_rng(0).standard_normal((baked, 3, 4, 4)).astype(np.float32)
    wanted = open_session(given, threads=1).run({"x": x})["y"]
    got = TorchGraph(loaded.model).run({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_batch_that_comes_out_again_is_preferred(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        net (float[N,3,4,4] x) => (float[N,6] y) <int64[2] shape = {4,-1}, int64[2] back = {4, 48}, float[48,6] v>
        { r = Reshape(x, shape) s = Softmax(r) b = Reshape(s, back) y = MatMul(b, v) }"""
    loaded = load_model(save(models.parse(text), tmp_path))
    assert loaded.face.inputs["x"][0] == 4


def test_an_open_batch_stays_open(tmp_path: Path) -> None:
    assert load_model(save(plain(21), tmp_path)).inputs[0].shape[0] is None


def test_a_graph_of_open_sizes_that_no_runtime_loads_is_refused(tmp_path: Path) -> None:
    given = onnx.parser.parse_model(
        models.HEADER + "net (float[N,3,H,W] x) => (float[N,A,B,C] y) <float[2,2] w = {1, 1, 1, 1}> { y = Conv(x, w) }"
    )
    for load_one in (load_model, load_quickly):
        with pytest.raises(LoadError, match="cannot be run"):
            load_one(save(given, tmp_path))


def test_a_file_that_runs_in_no_way_is_refused_with_the_first_reason(tmp_path: Path, monkeypatch) -> None:
    given = onnx.parser.parse_model(
        models.HEADER + "net (float[N,4] x) => (float[N,2] y) <float[3,2] w = {1, 1, 1, 1, 1, 1}> { y = MatMul(x, w) }"
    )
    path, tried = save(given, tmp_path), []
    right = run_reference.Reference
    monkeypatch.setattr(
        run_reference, "Reference", lambda *given, **others: tried.append(given) or right(*given, **others)
    )
    with pytest.raises(LoadError, match="cannot be run"):
        load_model(path)
    assert len(tried) > 2
