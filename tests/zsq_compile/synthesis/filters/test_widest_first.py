import pytest
import torch
from onnx import TensorProto, helper

from backends.session import open_session
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, seeded, spec, teacher_of, trained_on
from zsq_compile.config.generators import PriorConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.filters.widest_first import WidestFirstGenerator, measure_widths
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.make_generator import make_generator

PICTURES = prior_images(24, 3, 16, 16, seeded(3))


class Scaled:
    """Pictures of which one is three times as large as the others."""

    def __init__(self, place: int) -> None:
        self.place = place

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        values = PICTURES[:count].clone()
        values[self.place] *= 3.0
        labels = torch.arange(count, dtype=torch.int64)
        return SyntheticSet(inputs={"x": values}, algorithm="scaled", seed=0, loss_curve=(), labels=labels)


@pytest.fixture(scope="module")
def teacher() -> TorchGraph:
    return teacher_of(trained_on(PICTURES.numpy()))[0]


@pytest.mark.parametrize("place", [0, 7, 23])
def test_the_widest_sample_comes_first_and_the_others_keep_their_order(teacher: TorchGraph, place: int) -> None:
    plain = Scaled(place).synthesize(teacher, NO_STATISTICS, 24, seeded())
    made = WidestFirstGenerator(Scaled(place), 1).synthesize(teacher, NO_STATISTICS, 24, seeded())
    order = [place, *(other for other in range(24) if other != place)]
    assert made.labels is not None and made.labels.tolist() == order
    assert torch.equal(made.inputs["x"], plain.inputs["x"][order])
    assert (made.algorithm, made.seed, made.preprocessing) == (plain.algorithm, plain.seed, plain.preprocessing)


def test_whole_feeds_stay_together(teacher: TorchGraph) -> None:
    made = WidestFirstGenerator(Scaled(9), 4).synthesize(teacher, NO_STATISTICS, 24, seeded())
    assert made.labels is not None and made.labels.tolist() == [8, 9, 10, 11, *range(8), *range(12, 24)]


def test_one_feed_alone_stays(teacher: TorchGraph) -> None:
    made = WidestFirstGenerator(Scaled(3), 4).synthesize(teacher, NO_STATISTICS, 4, seeded())
    assert made.labels is not None and made.labels.tolist() == [0, 1, 2, 3]


def test_widths_are_those_that_the_runtime_sees() -> None:
    network = trained_on(PICTURES.numpy())
    values = [name for node in network.graph.node for name in node.output]
    shown = type(network)()
    shown.CopyFrom(network)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in values)
    outputs = open_session(shown).run({"x": PICTURES.numpy()})
    reach = torch.stack([torch.from_numpy(outputs[name]).abs().flatten(1).amax(1).log() for name in values])
    expected = (reach - reach.mean(1, keepdim=True)).mean(0)
    assert torch.allclose(measure_widths(teacher_of(network)[0], {"x": PICTURES}, 1), expected, atol=1e-4)


def test_only_data_that_others_calibrate_on_is_reordered(teacher: TorchGraph) -> None:
    plain, handed = (
        make_generator(PriorConfig(), (spec(None, 3, 16, 16),), widest_first=on)
        .synthesize(teacher, NO_STATISTICS, 12, seeded())
        .inputs["x"]
        for on in (False, True)
    )
    first = int(measure_widths(teacher, {"x": plain}, 1).argmax())
    assert first != 0, "else this seed tells nothing"
    assert torch.equal(handed[0], plain[first]) and torch.equal(handed[1], plain[0])


@pytest.mark.parametrize("length", [13, 16, 24])
def test_an_axis_that_is_as_long_as_a_batch_is_none(length: int) -> None:
    network = models.parse(
        f"""
        tokens (float[N,{length},6] x) => (float[N,{length},6] y)
        {{ t = Transpose<perm=[1,0,2]>(x) r = Relu(t) y = Transpose<perm=[1,0,2]>(r) }}
        """
    )
    values = torch.rand(24, length, 6, generator=seeded())
    values[17] *= 5.0
    found = measure_widths(teacher_of(network)[0], {"x": values}, 1)
    assert found.shape == (24,) and int(found.argmax()) == 17
