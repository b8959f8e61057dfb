from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.plan import QuantizationPlan
from passes.qdq_names import QdqNames
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, prepare, random_feeds, with_scales
from zsq_compile.quantization.layer_metrics.layers import find_layers, origin

TARGET = load_target("ort_cpu")


def planned(proto: onnx.ModelProto, **options: Any) -> tuple[ir.Model, QuantizationPlan]:
    model = prepare(proto)
    plan = place_quantizers(model, TARGET, **options)
    return model, with_scales(plan, model, random_feeds(model))


def names(proto: onnx.ModelProto) -> list[tuple[str, str, tuple[str, ...]]]:
    model, plan = planned(proto)
    return [(layer.node, layer.value, layer.inputs) for layer in find_layers(model, plan, TARGET)]


def test_layers_are_measured_behind_what_is_folded_into_them() -> None:
    assert names(models.residual()) == [
        ("conv0", "r0", ("x",)),
        ("conv1", "r1", ("r0",)),
        ("conv2", "n2", ("r1",)),
        ("add", "r2", ("n2", "r0")),
        ("pool", "p", ("r2",)),
        ("gemm", "logits", ("f",)),
    ]


def test_what_only_moves_codes_is_no_layer() -> None:
    assert [node for node, _, _ in names(models.branches())] == ["left", "right", "concat", "conv", "gemm"]


def test_limits_are_those_of_the_folded_activation() -> None:
    model, plan = planned(models.depthwise())
    limits = {layer.node: layer.limits for layer in find_layers(model, plan, TARGET)}
    assert limits["conv1"] == (0.0, 6.0)
    assert limits["pool"] == limits["gemm"] == (None, None)
    model, plan = planned(models.residual())
    assert {layer.node: layer.limits for layer in find_layers(model, plan, TARGET)}["add"] == (0.0, None)


CLIPS = {
    "low only": ("Clip(d, low)", (-0.5, None)),
    "high only": ("Clip(d, , high)", (None, 1.5)),
    "both": ("Clip(d, low, high)", (-0.5, 1.5)),
}


@pytest.mark.parametrize("maker", ["Conv(x, w)", "Sub(x, x2)"])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_clip_behind_an_operator_in_float_is_no_part_of_it(maker: str, clip: str) -> None:
    call, limits = CLIPS[clip]
    model, plan = planned(
        models.parse(
            f"""
            clamp (float[N,2,6,6] x, float[N,2,6,6] x2) => (float[N,2,1,1] y)
            <float low = {{-0.5}}, float high = {{1.5}}, float[2,2,1,1] w, float[2,2,1,1] w1>
            {{
                [maker] d = {maker}
                [clip] r = {call}
                [second] c = Conv(r, w1)
                [sum] s = Add(x, x2)
                [third] t = Conv(s, w)
                [joined] u = Add(c, t)
                [pool] y = GlobalAveragePool(u)
            }}
            """
        )
    )
    layers = {layer.node: layer for layer in find_layers(model, plan, TARGET)}
    folds = maker.startswith("Conv")
    assert plan.folded.get("maker") == ("clip" if folds else None)
    if folds:
        assert (layers["maker"].value, layers["maker"].limits) == ("r", limits)
    else:
        assert "maker" not in layers  # reads the inputs as they are


def test_weights_and_widths_are_those_of_the_plan() -> None:
    model, plan = planned(models.residual(), bits=3, act_bits=4, edge_bits=4)
    layers = {layer.node: layer for layer in find_layers(model, plan, TARGET)}
    assert layers["add"].weight is None
    for site in plan.weights:
        assert layers[site.node].weight is site
    assert {site.number_format.bits for site in layers["conv1"].sites} == {4}


def test_names_lead_in_front_of_a_grid_and_behind_it() -> None:
    model, plan = planned(models.residual())
    found, sites = QdqNames(inserted(model, plan)), {site.value: site for site in plan.activations}
    assert (found.before_grid(sites["r0"]), found.behind_grid(sites["r0"])) == ("r0", "r0_dequantized")
    assert (found.before_grid(sites["x"]), found.behind_grid(sites["x"])) == ("x", "x_dequantized")
    assert found.result("conv0") == "n0"


def test_names_where_a_clip_went_into_the_grid() -> None:
    model, plan = planned(models.depthwise(), act_bits=4, edge_bits=4)
    quantized = inserted(model, plan)
    assert "Clip" not in {node.op_type for node in quantized.graph if node.name in ("clip0", "clip1")}
    site = next(site for site in plan.activations if site.value == "r0")
    assert QdqNames(quantized).before_grid(site) == "n0"


def test_moved_codes_lead_back_to_the_value_that_is_rounded() -> None:
    model, plan = planned(models.padded())
    sites = {site.value: site for site in plan.activations}
    assert sites["p"].moved_from == "r"
    assert origin(sites["p"], plan) is sites["r"]
    assert origin(sites["r"], plan) is sites["r"]
    found = QdqNames(inserted(model, plan))
    assert found.behind_grid(sites["p"]) == "p_dequantized"
    assert found.before_grid(origin(sites["p"], plan)) == "r"


@pytest.mark.parametrize("quantize_outputs", [False, True])
def test_a_quantized_output_has_its_layer_s_name_but_is_not_what_the_layer_makes(quantize_outputs: bool) -> None:
    model, plan = planned(models.conv_bn_relu(), quantize_outputs=quantize_outputs)
    found = QdqNames(inserted(model, plan))
    sites = {site.value: site for site in plan.activations}
    assert found.result("conv") == "n"
    if quantize_outputs:
        assert (found.before_grid(sites["y"]), found.behind_grid(sites["y"])) == ("y_float", "y")
    assert np.isin(["x"], list(sites)).all()
