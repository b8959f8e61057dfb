import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests.models import conv_bn_relu, depthwise, parse
from tests.zsq_compile.verification.quantized import float_and_quantized, samples
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError
from zsq_compile.metrics import agreement, sqnr_db, top1
from zsq_compile.verification.side_by_side import run_side_by_side

TWO = """
    two (float[N, 4] x) => (float[N, 4] first, float[N, 2] second)
    <int64[1] starts, int64[1] ends, int64[1] axes, float a, float b> {
        part = Slice(x, starts, ends, axes)
        first = Mul(x, a)
        second = Mul(part, b)
    }
"""


def dataset(x, labels=None):
    return Dataset(samples={"x": x}, labels=labels, preparation=None)


def test_figures_are_those_of_all_samples_at_once(tmp_path):
    model, path = float_and_quantized(tmp_path)
    reference, session = open_session(model), open_session(path)
    x = samples(75, 3)  # two whole batches and a part
    labels = np.arange(75) % 5
    seen = []
    results = run_side_by_side(reference, {"other": session}, dataset(x, labels), seen.append)
    assert seen == [32, 32, 11]
    wanted, got = (one.run({"x": x})["logits"] for one in (reference, session))
    other, own = results.qualities["other"], results.qualities["float"]
    assert (other.samples, results.failures) == (75, {})
    assert other.top1 == pytest.approx(top1(got, labels), abs=1e-12)
    assert other.agreement == pytest.approx(agreement(wanted, got), abs=1e-12)
    # batches of another size may round differently
    assert other.sqnr_db == pytest.approx(sqnr_db(wanted, got), abs=0.01)
    assert (own.top1, own.agreement, own.sqnr_db) == (pytest.approx(top1(wanted, labels)), 1.0, float("inf"))


def test_large_samples_are_run_in_small_batches():
    text = "large (float[N,3,500,500] x) => (float[N,3] y) { p = GlobalAveragePool(x) y = Flatten(p) }"
    session = open_session(parse(text))
    x = np.random.default_rng(0).random((3, 3, 500, 500), np.float32)
    seen = []
    results = run_side_by_side(session, {"same": session}, dataset(x), seen.append)
    assert seen == [1, 1, 1]
    assert results.qualities["same"].agreement == 1.0


def test_without_labels_every_place_of_a_dense_output_decides(tmp_path):
    model, coarse = conv_bn_relu(), conv_bn_relu()
    for tensor in coarse.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values * 4) / 4, tensor.name))
    name = model.graph.input[0].name
    shape = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).standard_normal((40, *shape)).astype(np.float32)
    reference, session = open_session(model), open_session(coarse)
    data = Dataset(samples={name: x}, labels=None, preparation=None)
    quality = run_side_by_side(reference, {"coarse": session}, data).qualities["coarse"]
    wanted, got = (next(iter(one.run({name: x}).values())) for one in (reference, session))
    assert quality.agreement == pytest.approx(agreement(wanted, got), abs=1e-9)
    assert 0.0 < quality.agreement < 1.0
    assert quality.top1 is None


def test_the_worst_output_gives_the_ratio():
    cut = {"starts": np.asarray([0]), "ends": np.asarray([2]), "axes": np.asarray([1])}
    exact = parse(TWO, weights={**cut, "a": np.asarray(1.0), "b": np.asarray(1.0)})
    off = parse(TWO, weights={**cut, "a": np.asarray(1.1), "b": np.asarray(1.01)})
    x = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    quality = run_side_by_side(open_session(exact), {"off": open_session(off)}, dataset(x)).qualities["off"]
    assert quality.sqnr_db == pytest.approx(20.0, abs=1e-3)  # a tenth of the amplitude; the second has 40 dB
    assert quality.agreement == 1.0


def test_what_fails_is_told_and_the_others_go_on(tmp_path):
    model, path = float_and_quantized(tmp_path)
    sessions = {"stranger": open_session(depthwise()), "sound": open_session(path)}
    results = run_side_by_side(open_session(model), sessions, dataset(samples(8)))
    assert list(results.qualities) == ["float", "sound"]
    assert list(results.failures) == ["stranger"]
    assert results.failures["stranger"]


def test_data_that_do_not_fit_are_refused(tmp_path):
    model, _ = float_and_quantized(tmp_path)
    with pytest.raises(ConfigError, match="labels run from 0 to 12"):
        run_side_by_side(open_session(model), {}, dataset(samples(3), np.asarray([0, 1, 12])))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(ConfigError, match="takes 4 samples at a time, but the data hold 3"):
        run_side_by_side(open_session(model), {}, dataset(samples(3)))
    part = run_side_by_side(open_session(model), {}, dataset(samples(7)))
    assert part.qualities["float"].samples == 4


def test_labels_need_one_decision_for_each_sample():
    model = parse(
        "boxes (float[N,3,8,8] x) => (float[N,64,3] y) <int64[3] s>"
        "{ t = Transpose<perm=[0,2,3,1]>(x) y = Reshape(t, s) }",
        weights={"s": np.asarray([0, 64, 3])},
    )
    x = samples(3)
    assert run_side_by_side(open_session(model), {}, dataset(x)).qualities["float"].agreement == 1.0
    with pytest.raises(ConfigError, match=r"labels need an output .* got y \(3, 64, 3\)"):
        run_side_by_side(open_session(model), {}, dataset(x, np.zeros(3, np.int64)))
