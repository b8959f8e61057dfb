"""Outputs whose size depends on the data are counted, compared run by run, and refused where they are others."""

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests.models import HEADER
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ValidationError
from zsq_compile.metrics import sqnr_db
from zsq_compile.verification.running import run_batched
from zsq_compile.verification.uneven import Rows, alike_elements, compare_rows, differs_from_simulation
from zsq_compile.verification.validate import validate

LOGITS = "float[N,4] logits"
# keeps the elements above a limit: how many depends on the data
KEPT = "flat = Reshape(scaled, last) big = Greater(flat, limit) y = Compress(flat, big)"


def model(scale, outputs, limit=0.0):
    text = (
        f"g (float[N,4] x) => ({LOGITS}, {outputs}) <float[1] scale = {{{scale}}}, float[1] limit = {{{limit}}}, "
        f"int64[1] last = {{-1}}> {{ scaled = Mul(x, scale) logits = Identity(scaled) {KEPT} at = NonZero(big) }}"
    )
    return onnx.parser.parse_model(HEADER + text)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)


def pair(tmp_path, scale, limit=0.0):
    emitted = tmp_path / "emitted.onnx"
    onnx.save(model(scale, "float[n] y, int64[1,n] at", limit), emitted)
    return model(1.0, "float[n] y, int64[1,n] at"), emitted


def test_a_network_that_keeps_other_rows_is_compared_where_it_keeps_as_many(tmp_path, x):
    original, emitted = pair(tmp_path, 1.01, limit=0.1)
    wanted, got = ([open_session(one).run({"x": row[None]})["y"] for row in x] for one in (original, emitted))
    alike = [(one, other) for one, other in zip(wanted, got, strict=True) if one.shape == other.shape]
    result = validate(original, emitted, {"x": x}, uneven={"y", "at"}, latency_seconds=0)
    logits, kept, at = result.outputs
    assert result.failures == ()
    assert (logits.rows, result.sqnr_db) == (None, logits.sqnr_db)
    assert kept.rows == Rows(
        runs=40,
        alike=len(alike),
        wanted=pytest.approx(np.mean([len(one) for one in wanted])),
        got=pytest.approx(np.mean([len(one) for one in got])),
    )
    assert 0 < len(alike) < 40
    assert kept.sqnr_db == pytest.approx(sqnr_db(*(np.concatenate(side) for side in zip(*alike, strict=True))))
    assert at.rows is not None
    assert at.rows.alike == kept.rows.alike
    assert result.decision_output == "logits"


def test_no_row_on_any_sample_is_no_failure(tmp_path, x):
    original, emitted = pair(tmp_path, 1.0, limit=1e9)
    result = validate(original, emitted, {"x": x}, uneven={"y", "at"}, latency_seconds=0)
    assert [(one.sqnr_db, one.rows.got) for one in result.outputs[1:] if one.rows] == [(None, 0.0), (None, 0.0)]


def test_labelled_data_are_judged_by_the_other_outputs(tmp_path, x):
    original, emitted = pair(tmp_path, 1.0, limit=0.1)
    data = Dataset(samples={"x": x}, labels=x.argmax(1), preparation=None)
    labelled = validate(original, emitted, {"x": x[:4]}, labelled=data, uneven={"y", "at"}, latency_seconds=0).labelled
    assert labelled is not None
    assert (labelled.samples, labelled.top1_float, labelled.top1_quantized) == (40, 1.0, 1.0)


def test_another_type_or_rank_is_refused():
    rows = [np.zeros((2, 3), np.float32)]
    for other in (np.zeros((2, 3), np.float64), np.zeros(2, np.float32)):
        with pytest.raises(ValidationError, match="'y'"):
            compare_rows("y", rows, [other])


def test_without_alike_runs_there_is_nothing_to_compare():
    one, other = alike_elements([np.zeros((2, 3))], [np.zeros((1, 3))])
    assert (one.size, other.size) == (0, 0)


@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize("dropped", [0, 3])
def test_the_runtime_must_do_what_the_simulation_does(shift, dropped):
    rng = np.random.default_rng(1)
    wanted = [rng.standard_normal((6, 4)) for _ in range(10)]
    simulated = [one + 0.02 * rng.standard_normal(one.shape) for one in wanted]
    got = [one[: len(one) - dropped] + shift + 1e-4 * rng.standard_normal(one.shape)[dropped:] for one in simulated]
    assert (differs_from_simulation(simulated, got, wanted) is None) == (not shift and not dropped)


def test_rows_that_trade_places_near_a_tie_are_no_failure():
    rng = np.random.default_rng(2)
    wanted = [rng.standard_normal((6, 4)) for _ in range(10)]
    simulated = [one + 0.02 * rng.standard_normal(one.shape) for one in wanted]
    got = [one[::-1] if number < 3 else one for number, one in enumerate(simulated)]
    kept = [one.argsort(0) for one in wanted]
    assert differs_from_simulation(simulated, got, wanted) is None
    assert differs_from_simulation(kept, [one[::-1] if n < 3 else one for n, one in enumerate(kept)], kept) is None
    assert differs_from_simulation(kept, [one[::-1] for one in kept], kept) is not None


def test_outputs_whose_batch_is_not_in_front_are_run_one_by_one(x):
    text = "g (float[N,4] x) => (float[4,N] y, float z) { y = Transpose(x) z = ReduceSum<keepdims=0>(x) }"
    session = open_session(onnx.parser.parse_model(HEADER + text))
    made = run_batched(session, {"x": x})
    np.testing.assert_array_equal(made["y"], x.reshape(-1, 1))
    np.testing.assert_allclose(made["z"], x.sum(1), rtol=1e-5)
