from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.batchnorm.behind_batchnorm import moments_behind
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.batchnorm.place_statistics import FoldedNorm, folded_norms, place_statistics
from passes.batchnorm.recovered import join_recovered
from tests import models


def norms_of(proto: onnx.ModelProto) -> tuple[FoldedNorm, ...]:
    model = ir.from_proto(proto)
    return folded_norms(model, harvest_batchnorm(model))


def folded(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    FoldBatchNorm().call(model)
    return model


def renamed(model: ir.Model) -> ir.Model:
    """As an exporter names values: nothing is left of the BatchNormalization's."""
    for index, node in enumerate(model.graph):
        if not node.outputs[0].is_graph_output():
            node.outputs[0].name = f"value_{index}"
    return model


def test_harvesting_for_a_file_changes_nothing():
    model = ir.from_proto(models.residual())
    before = ir.to_proto(model).SerializeToString()
    assert len(folded_norms(model, harvest_batchnorm(model))) == 3
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("build", [models.residual, models.depthwise])
def test_by_name_and_by_order_they_come_to_the_same_layers(build):
    proto = build()
    wanted = harvest_batchnorm(ir.from_proto(proto)).entries
    for model, word in ((folded(proto), "its name"), (renamed(folded(proto)), "order and")):
        recovered = place_statistics(model, norms_of(proto))
        assert [one.former.layer for one in recovered.found] == [entry.layer for entry in wanted]
        assert all(word in one.how for one in recovered.found)
        for one, entry in zip(recovered.found, wanted, strict=True):
            np.testing.assert_array_equal(one.former.mean, entry.mean)
            np.testing.assert_array_equal(one.former.variance, entry.variance)
        assert [one.where for one in recovered.refusals] == ["gemm"]


def test_names_that_are_exchanged_mislead_nobody():
    proto = models.residual()
    first, second, third = norms_of(proto)
    crossed = [
        replace(second, entry=replace(second.entry, output=third.entry.output)),
        replace(third, entry=replace(third.entry, output=second.entry.output)),
    ]
    found = place_statistics(folded(proto), [first, *crossed]).found
    assert [one.former.layer for one in found] == ["conv0", "conv1", "conv2"]
    np.testing.assert_array_equal(found[1].former.mean, second.entry.mean)


def test_another_network_gets_nothing_and_is_told_why():
    recovered = place_statistics(folded(models.residual()), norms_of(models.residual(seed=1)))
    assert not recovered.found
    assert "do not agree with the BatchNormalization that the file has for 'n0'" in recovered.refusals[0].reason
    assert "no BatchNormalization of the file has 5 channels" in recovered.refusals[-1].reason


def test_joined_entries_stand_in_the_order_of_the_graph_and_tell_the_same_moments():
    proto = models.residual()
    whole = harvest_batchnorm(ir.from_proto(proto))
    model = ir.from_proto(proto)
    FoldBatchNorm(keep=["bn1"]).call(model)
    statistics = join_recovered(model, harvest_batchnorm(model), place_statistics(model, norms_of(proto)))
    assert [entry.output for entry in statistics.entries] == ["n0", "n1", "n2"]
    assert [entry.input for entry in statistics.entries] == ["n0", "c1", "n2"]
    assert statistics.coverage() == whole.coverage() == "BN found behind 3 of 3 convolutions"
    for one, entry in zip(statistics.entries, whole.entries, strict=True):
        for told, wanted in zip(moments_behind(one), moments_behind(entry), strict=True):
            np.testing.assert_allclose(told, wanted, rtol=1e-6)


def test_figures_that_were_never_taken_from_data_are_not_used():
    proto = models.residual()
    for tensor in proto.graph.initializer:
        if tensor.name in ("mean1", "variance1"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(8, "v" in tensor.name, np.float32), tensor.name))
    model = folded(proto)
    statistics = join_recovered(model, harvest_batchnorm(model), place_statistics(model, norms_of(proto)))
    assert [entry.node for entry in statistics.usable] == ["conv0", "conv2"]
    assert statistics.degenerate == ("conv1",)
    assert any("never taken from data" in refusal.reason for refusal in statistics.refusals)
