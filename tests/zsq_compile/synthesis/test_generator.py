"""Samples of an input whose preprocessing is open: each is encoded under one, and everyone knows under which."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models import graph
from tests.zsq_compile.quantization.networks import NO_STATISTICS
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis import generator as module
from zsq_compile.synthesis.filters.low_pass import LowPassGenerator
from zsq_compile.synthesis.filters.widest_first import WidestFirstGenerator
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.make_generator import make_generator

WAYS = {one.name: one for one in usual_preprocessings(3)}
OPEN = Posterior.of([WAYS["unit"], WAYS["byte"]], [0.7, 0.3])
IMAGE = InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW")
NETWORK = """<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w> { y = Conv(x, w) }"""


def made(
    monkeypatch: pytest.MonkeyPatch, posterior: Posterior, spec: InputSpec = IMAGE, count: int = 20
) -> SyntheticSet:
    monkeypatch.setattr(module, "find_preprocessing", lambda *_: {"x": posterior})
    teacher, rng = TorchGraph(graph(NETWORK)), torch.Generator().manual_seed(0)
    return make_generator(PriorConfig(), [spec]).synthesize(teacher, NO_STATISTICS, 20, rng)


def test_every_sample_is_encoded_under_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    both, alone = made(monkeypatch, OPEN), made(monkeypatch, Posterior.certain(WAYS["unit"]))
    assert both.hypotheses is not None
    assert alone.hypotheses is None
    assert torch.bincount(both.hypotheses).tolist() == [13, 7]  # three quarters in proportion, the rest alike
    largest = both.inputs["x"].amax((1, 2, 3))
    assert bool((largest[both.hypotheses == 0] <= 1.0).all())
    assert bool((largest[both.hypotheses == 1] > 50.0).all())
    torch.testing.assert_close(both.decode("x", 20), alone.inputs["x"], atol=1e-6, rtol=1e-6)
    assert alone.decode("x", 3) is not None


def test_feeds_of_a_fixed_batch_are_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    both = made(monkeypatch, OPEN, replace(IMAGE, shape=(4, 3, 8, 8)))
    assert both.hypotheses is not None
    assert all(len(set(feed)) == 1 for feed in both.hypotheses.reshape(-1, 4).tolist())


def test_filters_treat_each_sample_by_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Given:
        def __init__(self, posterior: Posterior) -> None:
            self.set = made(monkeypatch, posterior)

        def synthesize(self, *_: object) -> SyntheticSet:
            return self.set

    rng = torch.Generator().manual_seed(0)
    teacher = TorchGraph(graph(NETWORK))
    both, alone = (
        LowPassGenerator(Given(one), [IMAGE], 0.2).synthesize(teacher, NO_STATISTICS, 20, rng)
        for one in (OPEN, Posterior.certain(WAYS["unit"]))
    )
    torch.testing.assert_close(both.decode("x", 20), alone.inputs["x"], atol=1e-6, rtol=1e-6)
    widest = WidestFirstGenerator(Given(OPEN), 1).synthesize(teacher, NO_STATISTICS, 20, rng)
    assert widest.hypotheses is not None
    assert int(widest.hypotheses[0]) == 1
    assert sorted(widest.hypotheses.tolist()) == sorted(both.hypotheses.tolist())
