import numpy as np

from backends.catalog import load_target
from passes.emit.widen_layers import WidenLayers
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")


def test_widened_layers_compute_the_same_and_read_no_dequantizer() -> None:
    model = prepare(models.residual())
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    plan = plan.without({site.value for site in plan.activations}, "it stays float")
    before = inserted(model, plan)
    after = before.clone()
    layers = frozenset(site.node for site in plan.weights)
    assert WidenLayers(layers)(after).modified
    assert not WidenLayers(layers)(after).modified
    wanted, got = execute(before, feeds), execute(after, feeds)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)
    assert "DequantizeLinear" not in models.operators(after)


def test_layers_that_are_not_named_stay() -> None:
    model = prepare(models.residual())
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    written = inserted(model, plan)
    before = models.operators(written)
    assert not WidenLayers(frozenset())(written).modified
    assert models.operators(written) == before
