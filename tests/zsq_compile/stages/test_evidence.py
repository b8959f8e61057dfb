import io
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from PIL import Image

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics, harvest_batchnorm
from tests import models
from tests.zsq_compile.quantization.networks import NO_STATISTICS
from tests.zsq_compile.synthesis.colours import colour_classifier, pictures
from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.samples import Samples
from zsq_compile.stages.calibration_data import CalibrationData
from zsq_compile.stages.evidence import draw_pictures, match_moments
from zsq_compile.synthesis.generator import SyntheticSet

INPUT = InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW")


def data(
    values: torch.Tensor, labels: torch.Tensor | None = None, statistics: BatchNormStatistics = NO_STATISTICS
) -> CalibrationData:
    preprocessing = given_preprocessing(3, input_range=(0.0, 1.0))
    made = SyntheticSet(
        inputs={"x": values},
        algorithm="prior",
        seed=0,
        loss_curve=(),
        posteriors={"x": Posterior.certain(preprocessing)},
        labels=labels,
    )
    return CalibrationData(
        calibration=Samples(inputs={"x": values}),
        held_out=Samples(inputs={"x": values[:4]}),
        description="",
        known=KnownStatistics(statistics=statistics, from_nodes=0),
        posteriors={"x": Posterior.certain(preprocessing)},
        synthetic=made,
    )


@pytest.fixture
def network() -> ir.Model:
    return ir.from_proto(colour_classifier())


def test_the_pictures_that_a_network_remembers_match_and_others_do_not(network: ir.Model) -> None:
    statistics, teacher = harvest_batchnorm(network), TorchGraph(network)
    remembered = torch.from_numpy(pictures(3).astype(np.float32))
    (near,) = match_moments(teacher, data(remembered, statistics=statistics), (INPUT,))
    (far,) = match_moments(teacher, data(remembered + 1.0, statistics=statistics), (INPUT,))
    spread = remembered.mean() + 3.0 * (remembered - remembered.mean())
    (wide,) = match_moments(teacher, data(spread, statistics=statistics), (INPUT,))
    assert near.distance < 0.05 < far.distance
    assert near.deviation_ratio == pytest.approx(1.0, abs=0.1)
    assert wide.deviation_ratio == pytest.approx(3.0, abs=0.3)
    assert (near.node, near.layer, near.channels) == ("bn", "conv", 3)


def test_distances_are_those_of_the_closed_form(network: ir.Model) -> None:
    values = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    statistics = harvest_batchnorm(network)
    (found,) = match_moments(TorchGraph(network), data(values, statistics=statistics), (INPUT,))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in ir.to_proto(network).graph.initializer}
    seen = np.einsum("nchw,kc->nkhw", values.numpy().astype(np.float64), weights["w0"][:, :, 0, 0])
    mean, deviation = seen.mean((0, 2, 3)), seen.std((0, 2, 3))
    wanted = np.sqrt(weights["variance"].astype(np.float64))
    gap = (mean - weights["mean"]) / wanted
    assert found.mean_gap == pytest.approx(np.sqrt(np.mean(gap**2)), rel=1e-3)
    assert found.distance == pytest.approx(np.mean(gap**2 + (deviation / wanted - 1.0) ** 2), rel=1e-3)


def test_without_statistics_there_is_nothing_to_match() -> None:
    model = ir.from_proto(models.branches())
    found = data(torch.zeros(4, 3, 8, 8), statistics=harvest_batchnorm(model))
    assert match_moments(TorchGraph(model), found, (INPUT,)) == ()


def test_pictures_are_the_samples_with_what_the_network_sees(network: ir.Model) -> None:
    values = torch.zeros(30, 3, 8, 8)
    values[:, 1] = 1.0
    shown = draw_pictures(TorchGraph(network), data(values, torch.arange(30)), (INPUT,))
    assert len(shown) == 24
    assert {one.label for one in shown} == {1}
    assert all(0.5 < (one.confidence or 0.0) <= 1.0 for one in shown)
    assert [one.asked for one in shown] == list(range(24))
    with Image.open(io.BytesIO(shown[0].png)) as picture:
        assert picture.size == (8, 8)
        assert picture.getpixel((3, 3)) == (0, 255, 0)


def test_large_pictures_are_made_smaller(network: ir.Model) -> None:
    spec = InputSpec(name="x", shape=(None, 3, 200, 100), dtype=np.dtype(np.float32), layout="NCHW")
    shown = draw_pictures(TorchGraph(network), data(torch.rand(2, 3, 200, 100)), (spec,))
    with Image.open(io.BytesIO(shown[0].png)) as picture:
        assert picture.size == (48, 96)


def test_data_of_the_user_are_not_shown(network: ir.Model) -> None:
    given = replace(data(torch.zeros(4, 3, 8, 8)), synthetic=None)
    assert draw_pictures(TorchGraph(network), given, (INPUT,)) == ()
