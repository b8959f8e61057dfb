import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from backends.session import open_session
from tests.models import depthwise, random_feeds, residual
from tests.zsq_compile.verification.quantized import samples
from zsq_compile.comparison import onnxruntime_quantizer
from zsq_compile.comparison.onnxruntime_quantizer import (
    METHODS,
    BaselineSettings,
    prepare_for_onnxruntime,
    quantize_with_onnxruntime,
)
from zsq_compile.metrics import sqnr_db


def quantized_sqnr(tmp_path, settings):
    source, output = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(residual(), source)
    quantize_with_onnxruntime(source, output, [{"x": samples(8)}, {"x": samples(8, 1)}], settings)
    feeds = {"x": samples(16, 2)}
    wanted, got = (open_session(path, threads=1).run(feeds)["logits"] for path in (source, output))
    return sqnr_db(wanted, got), onnx.load(output)


@pytest.mark.parametrize(
    ("settings", "least_db"),
    [
        (BaselineSettings(tuned=False), 15.0),
        *((BaselineSettings(method=method), 20.0) for method in METHODS),
        (BaselineSettings(weight_bits=4), 5.0),
    ],
    ids=str,
)
def test_every_setting_gives_a_working_file(tmp_path, settings, least_db):
    sqnr, model = quantized_sqnr(tmp_path, settings)
    assert least_db < sqnr < 60.0
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert (onnx.TensorProto.INT4 in types) == (settings.weight_bits == 4)


def test_defaults_by_name_are_those_of_calling_with_nothing(tmp_path):
    source = tmp_path / "float.onnx"
    onnx.save(residual(), source)
    quantization.quantize_static(source, tmp_path / "nothing", onnxruntime_quantizer._reader([{"x": samples(8)}]))
    quantize_with_onnxruntime(source, tmp_path / "named", [{"x": samples(8)}], BaselineSettings(tuned=False))
    one, other = (onnx.load(tmp_path / name).SerializeToString(deterministic=True) for name in ("nothing", "named"))
    assert one == other


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (BaselineSettings(tuned=False, method="Percentile"), {onnx.TensorProto.INT8}),
        (BaselineSettings(tuned=False, weight_bits=4), {onnx.TensorProto.INT4, onnx.TensorProto.INT8}),
        (BaselineSettings(), {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}),
    ],
    ids=str,
)
def test_types_are_those_of_the_settings(tmp_path, settings, wanted):
    _, model = quantized_sqnr(tmp_path, settings)
    small = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert {tensor.data_type for tensor in model.graph.initializer} & small == wanted


def test_a_graph_that_was_prepared_before_gives_the_same_file(tmp_path):
    source, prepared = tmp_path / "float.onnx", tmp_path / "prepared.onnx"
    onnx.save(residual(), source)
    prepare_for_onnxruntime(source, prepared)
    operators = {node.op_type for node in onnx.load(prepared).graph.node}
    assert "Conv" in operators and "BatchNormalization" not in operators
    for name, graph in (("here", None), ("before", prepared)):
        quantize_with_onnxruntime(source, tmp_path / name, [{"x": samples(8)}], BaselineSettings(), prepared=graph)
    feeds = {"x": samples(4, 1)}
    here, before = (open_session(tmp_path / name).run(feeds)["logits"] for name in ("here", "before"))
    np.testing.assert_array_equal(here, before)
    (tmp_path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"failed on .*none\.onnx"):
        prepare_for_onnxruntime(tmp_path / "none.onnx", prepared)


def activation_scales(path):
    """Scale of every activation by the name of the value that is quantized."""
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0]: float(constants[node.input[1]]) for node in quantizers if node.input[0] not in constants}


@pytest.mark.parametrize("method", ["MinMax", "Entropy", "Percentile"])
def test_ranges_of_the_graph_as_given_are_those_of_the_prepared_one(tmp_path, method):
    source, kept = tmp_path / "float.onnx", tmp_path / "ranges.json"
    onnx.save(residual(), source)
    tuned, plain = (BaselineSettings(method=method, tuned=tuned) for tuned in (True, False))
    batches = [{"x": samples(8)}, {"x": samples(8, 1)}]
    quantize_with_onnxruntime(source, tmp_path / "alone", batches, tuned)
    quantize_with_onnxruntime(source, tmp_path / "first", batches, plain, ranges=kept)
    quantize_with_onnxruntime(source, tmp_path / "spared", [], tuned, ranges=kept)  # no batch, so it did not calibrate
    alone, spared = (activation_scales(tmp_path / name) for name in ("alone", "spared"))
    assert alone.keys() == spared.keys()
    # a BatchNormalization that is folded rounds otherwise than one that runs
    assert spared == pytest.approx(alone, rel=1e-4)


def test_ranges_that_do_not_tell_of_every_value_are_left_alone(tmp_path):
    kept = tmp_path / "ranges.json"
    for name, model in (("one", depthwise()), ("other", residual())):
        onnx.save(model, tmp_path / f"{name}.onnx")
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    feeds = random_feeds(depthwise(), batch=4)
    quantize_with_onnxruntime(one, tmp_path / "q1", [feeds], BaselineSettings(), ranges=kept)
    before = kept.read_bytes()
    quantize_with_onnxruntime(other, tmp_path / "q2", [{"x": samples(8)}], BaselineSettings(), ranges=kept)
    quantize_with_onnxruntime(other, tmp_path / "q3", [{"x": samples(8)}], BaselineSettings())
    assert activation_scales(tmp_path / "q2") == activation_scales(tmp_path / "q3")
    assert kept.read_bytes() == before


def test_failures_come_in_words(tmp_path):
    path = tmp_path / "float.onnx"
    onnx.save(residual(), path)
    with pytest.raises(ValueError, match=r"onnxruntime's quantizer failed on .* with U8S8 per channel, MinMax"):
        quantize_with_onnxruntime(path, tmp_path / "q.onnx", [{"wrong": samples(1)}], BaselineSettings())


def test_nothing_is_printed(tmp_path, capfd):
    quantized_sqnr(tmp_path, BaselineSettings(method="Percentile"))
    assert capfd.readouterr().out == ""
