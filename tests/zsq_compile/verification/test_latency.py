import numpy as np
import pytest

from backends.session import RuntimeModelError
from tests.models import conv_bn_relu
from zsq_compile.verification.latency import measure_latency


def test_every_model_is_timed_equally_often_in_the_order_given():
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    result = measure_latency({"b": conv_bn_relu(), "a": conv_bn_relu(seed=1)}, feeds, threads=1, seconds=0.01)
    assert list(result) == ["b", "a"]
    assert result["a"].runs == result["b"].runs >= 5
    for latency in result.values():
        assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms


def test_inputs_that_do_not_fit_are_an_error():
    with pytest.raises(RuntimeModelError, match="no input 'y'"):
        measure_latency({"a": conv_bn_relu()}, {"y": np.zeros(1, np.float32)})
