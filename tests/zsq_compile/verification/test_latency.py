import itertools

import numpy as np
import pytest

from backends.session import RuntimeModelError
from tests.models import conv_bn_relu
from zsq_compile.verification import latency
from zsq_compile.verification.latency import Latency, Turns, measure_latency


def test_every_model_is_timed_equally_often_in_the_order_given():
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    result = measure_latency({"b": conv_bn_relu(), "a": conv_bn_relu(seed=1)}, feeds, threads=1, seconds=0.01)
    assert list(result) == ["b", "a"]
    assert result["a"].runs == result["b"].runs >= 5


def test_percentiles_are_those_of_all_runs_and_medians_those_of_the_turns():
    turns = Turns(milliseconds=np.arange(1.0, 101.0).reshape(20, 5))
    assert turns.latency == Latency(median_ms=50.5, p10_ms=pytest.approx(10.9), p90_ms=pytest.approx(90.1), runs=100)
    np.testing.assert_array_equal(turns.medians, np.arange(3.0, 100.0, 5.0))


def test_times_are_milliseconds_of_wall_clock(monkeypatch):
    moments = itertools.count(0.0, 0.002)  # every look at the clock is two milliseconds later
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(moments))
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    (found,) = measure_latency({"a": conv_bn_relu()}, feeds, threads=1, seconds=0.01).values()
    assert (found.p10_ms, found.median_ms, found.p90_ms) == pytest.approx((2.0, 2.0, 2.0))


def test_inputs_that_do_not_fit_are_an_error():
    with pytest.raises(RuntimeModelError, match="no input 'y'"):
        measure_latency({"a": conv_bn_relu()}, {"y": np.zeros(1, np.float32)})
