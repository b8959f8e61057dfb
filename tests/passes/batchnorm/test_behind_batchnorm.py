from dataclasses import replace

import numpy as np
import onnx_ir as ir

from backends.session import open_session
from passes.batchnorm.behind_batchnorm import entry_behind, measurable_behind, moments_behind
from passes.batchnorm.harvest_batchnorm import BatchNorm, harvest_batchnorm
from tests import models


def entry() -> BatchNorm:
    """The BatchNormalization of conv_bn_relu, which remembers just what it reads of the pictures of ``values``."""
    (found,) = harvest_batchnorm(ir.from_proto(models.conv_bn_relu())).entries
    read = values()["c"].astype(np.float64)
    return replace(
        found,
        mean=read.mean((0, 2, 3)).astype(np.float32),
        variance=read.var((0, 2, 3)).astype(np.float32),
        epsilon=0.05,
    )


def values() -> dict[str, np.ndarray]:
    proto = models.conv_bn_relu()
    model = ir.from_proto(proto)
    model.graph.outputs.append(next(node for node in model.graph if node.name == "conv").outputs[0])
    return open_session(ir.to_proto(model), threads=1).run(models.random_feeds(proto, batch=8))


def test_moments_are_those_of_what_it_makes():
    one, column = entry(), (slice(None), None, None)
    made = (values()["c"].astype(np.float64) - one.mean[column]) / np.sqrt(one.variance[column] + one.epsilon)
    made = one.scale[column] * made + one.shift[column]
    mean, variance = moments_behind(one)
    np.testing.assert_allclose(mean, made.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(variance, made.var((0, 2, 3)), rtol=1e-4)


def test_an_entry_behind_tells_the_same_of_what_it_reads_and_of_what_it_makes():
    one = entry()
    behind = entry_behind(one, "y")
    assert (behind.input, behind.output) == ("y", "y")
    for told, wanted in zip(moments_behind(behind), moments_behind(one), strict=True):
        np.testing.assert_allclose(told, wanted, rtol=1e-6)
    for told, wanted in zip((behind.mean, behind.variance), moments_behind(one), strict=True):
        np.testing.assert_allclose(told, wanted, rtol=1e-6)
    np.testing.assert_allclose(behind.scale / np.sqrt(behind.variance + behind.epsilon), 1.0, rtol=1e-6)


def test_channels_without_variance_are_dead_and_make_no_nan():
    one = entry()
    variance, scale, shift = one.variance.copy(), one.scale.copy(), one.shift.copy()
    variance[1], scale[2], scale[3], shift[3] = 0.0, 0.0, 0.01, 5.0
    one = replace(one, variance=variance, scale=scale, shift=shift)
    behind = entry_behind(one, "y")
    assert measurable_behind(one).tolist() == [True, False, False, False, True, True, True, True]
    assert behind.dead.tolist() == [False, True, True, True, False, False, False, False]
    mean, spread = moments_behind(entry_behind(behind, "y"))
    assert np.isfinite(mean).all() and np.isfinite(spread).all() and spread[1] == spread[2] == 0.0
