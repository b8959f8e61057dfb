from backends.catalog import load_target
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales


def test_a_plan_without_a_value_has_no_scale_of_it_and_can_be_inserted() -> None:
    model = prepare(models.residual())
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, load_target("ort_cpu")), model, feeds)
    groups = {site.group for site in plan.activations}
    left = next(site for site in plan.activations if site.value not in feeds)
    values = {site.value for site in plan.activations if site.group == left.group}
    without = plan.without(values, "it is left out")
    assert set(without.activation_scales) == groups - {left.group} == {site.group for site in without.activations}
    execute(inserted(model, without), feeds)
