from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.catalog import load_target
from passes.quantize.place_quantizers import place_quantizers
from tests.models import graph
from tests.zsq_compile.quantization.networks import NO_STATISTICS
from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import calibrate_plan
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.reporting.alarms import Alarm
from zsq_compile.reporting.evidence import MomentMatch
from zsq_compile.stages.alarms import find_alarms
from zsq_compile.stages.calibration_data import CalibrationData
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.dead_leaves import prior_images

TARGET = load_target("ort_cpu")
WAYS = {one.name: one for one in usual_preprocessings(3)}
CERTAIN = Posterior.certain(replace(WAYS["unit"], source="given"))
IMAGE = InputSpec(name="x", shape=(None, 3, 16, 16), dtype=np.dtype(np.float32), layout="NCHW")
MOVING = """<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,4,16,16] y) <float[4,3,1,1] w> { y = Conv(x, w) }"""
STUCK = """<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,1] p, float[N,3] still, float[N,4] moving)
<float[1,3,1,1] w = {0.1, 0.1, 0.1}, float far = {-20.0}, float little = {1e-6}, float[1,3] base = {1.0, 2.0, 3.0},
 float[4,3,1,1] v> {
  a = Conv(x, w)
  m = GlobalAveragePool(a)
  f = Flatten(m)
  s = Add(f, far)
  p = Sigmoid(s)
  t = Mul(f, little)
  still = Add(base, t)
  b = Conv(x, v)
  c = GlobalAveragePool(b)
  moving = Flatten(c)
}"""


def alarms(
    text: str,
    values: Tensor,
    posterior: Posterior | None,
    moments: Sequence[MomentMatch] = (),
    *,
    given: bool = False,
    spec: InputSpec = IMAGE,
    hedged: bool = True,
) -> tuple[Alarm, ...]:
    model = graph(text)
    samples, teacher = Samples(inputs={"x": values}), TorchGraph(model)
    posteriors = {} if posterior is None else {"x": posterior}
    dealt = torch.arange(len(values)) % 2 if hedged and posterior is not None and posterior.is_open else None
    made = SyntheticSet(
        inputs=samples.inputs, algorithm="", seed=0, loss_curve=(), posteriors=posteriors, hypotheses=dealt
    )
    data = CalibrationData(
        calibration=samples,
        held_out=samples,
        description="",
        known=KnownStatistics(statistics=NO_STATISTICS, from_nodes=0),
        posteriors=posteriors,
        synthetic=None if given else made,
    )
    network = FloatNetwork(
        teacher=teacher, target=TARGET, statistics=NO_STATISTICS, calibration=samples, held_out=samples
    )
    plan = calibrate_plan(place_quantizers(model, TARGET), teacher, [samples.inputs], QuantizationConfig())
    return find_alarms((spec,), data, moments, network, plan)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return prior_images(16, 3, 16, 16, torch.Generator().manual_seed(0))


def test_nothing_is_wrong_where_nothing_is(pictures: Tensor) -> None:
    assert alarms(MOVING, pictures, CERTAIN) == ()


def test_an_open_input_is_told_with_its_probabilities(pictures: Tensor) -> None:
    (found,) = alarms(MOVING, pictures, Posterior.of([WAYS["unit"], WAYS["imagenet"]], [0.6, 0.4]))
    assert (found.kind, found.where) == ("input", "input 'x'")
    assert "unit (60%) or imagenet (40%)" in found.describe()
    assert "--like" in found.advice


@pytest.mark.parametrize(
    ("weights", "hedged", "degree"),
    [((0.6, 0.4), True, "doubt"), ((0.5, 0.5), True, "doubt"), ((0.6, 0.4), False, "alarm")],
)
def test_an_open_input_is_a_doubt_where_one_is_probable_and_the_file_is_made_for_all(
    pictures: Tensor, weights: tuple[float, ...], degree: str, *, hedged: bool
) -> None:
    posterior = Posterior.of([WAYS["unit"], WAYS["imagenet"]], weights)
    (found,) = alarms(MOVING, pictures, posterior, hedged=hedged)
    assert found.degree == degree


def test_where_none_is_probable_an_open_input_is_an_alarm(pictures: Tensor) -> None:
    posterior = Posterior.of([WAYS["unit"], WAYS["imagenet"], WAYS["symmetric"]], [0.4, 0.3, 0.3])
    (found,) = alarms(MOVING, pictures, posterior)
    assert found.degree == "alarm"


def test_an_open_signal_is_told_with_its_families_and_the_ends_of_its_scales(pictures: Tensor) -> None:
    spec = replace(IMAGE, layout=None, kind="embedding")
    ways = [
        Preprocessing(
            name="scaled", mean=(0.0,), std=(1.0 / gain,), channel_order="none", layout=None, family="embedding"
        )
        for gain in (0.46, 4.6, 46.0)
    ]
    (found,) = alarms(MOVING, pictures, Posterior.of(ways, [0.2, 0.6, 0.2]), spec=spec)
    assert "embedding, times 0.46 to 46 (3 most probable)" in found.words


def test_an_unexplained_input_and_one_without_a_scale_are_told(pictures: Tensor) -> None:
    unexplained = Posterior.certain(replace(WAYS["unit"], source="unexplained"))
    for posterior in (unexplained, None):
        (found,) = alarms(MOVING, pictures, posterior)
        assert (found.kind, found.degree) == ("input", "alarm")


def test_the_users_own_arrays_leave_nothing_open_and_pictures_may(pictures: Tensor) -> None:
    assert alarms(MOVING, pictures, Posterior.certain(WAYS["unit"]), given=True) == ()
    (alarm,) = alarms(MOVING, pictures, Posterior.of([WAYS["unit"], WAYS["imagenet"]], [0.6, 0.4]), given=True)
    assert alarm.kind == "input" and "made for the first alone" in alarm.words


def test_outputs_that_never_move_are_told_one_by_one(pictures: Tensor) -> None:
    found = alarms(STUCK, pictures, CERTAIN)
    assert {(one.kind, one.where) for one in found} == {("output", "output 'p'"), ("output", "output 'still'")}


def test_ranges_that_other_pictures_leave_far_behind_are_told(pictures: Tensor) -> None:
    (found,) = alarms(MOVING, 0.05 * pictures, CERTAIN)
    assert found.kind == "ranges"


def test_samples_far_from_the_statistics_are_told(pictures: Tensor) -> None:
    far = MomentMatch(node="bn", layer="conv", channels=4, distance=50.0, mean_gap=1.0, deviation_ratio=9.0)
    (found,) = alarms(MOVING, pictures, CERTAIN, [far])
    assert (found.kind, found.where) == ("statistics", "conv")
    assert alarms(MOVING, pictures, CERTAIN, [far, replace(far, distance=0.1)]) == ()
