import pytest
import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from tests import models
from tests.zsq_compile.synthesis.networks import seeded, spec, teacher_of, trained_on
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.make_generator import make_generator

SYMMETRIC = given_preprocessing(3, input_range=(-1.0, 1.0))


def made(teacher: TorchGraph, statistics: BatchNormStatistics, share: float, batch: int | None = None) -> SyntheticSet:
    generator = make_generator(PriorConfig(), (spec(batch, 3, 16, 16),), SYMMETRIC, confident_share=share)
    return generator.synthesize(teacher, statistics, 24, seeded())


@pytest.mark.parametrize("batch", [None, 2])
def test_a_share_of_the_samples_become_sure_of_the_class_they_had_and_the_rest_stays(batch: int | None) -> None:
    teacher, statistics = teacher_of(trained_on(2.0 * prior_images(32, 3, 16, 16, seeded(99)).numpy() - 1.0))
    plain, some = (made(teacher, statistics, share, batch).inputs["x"] for share in (0.0, 0.25))
    moved = (plain != some).flatten(1).any(1)
    assert int(moved.sum()) == 6
    if batch is not None:  # whole feeds
        assert torch.equal(moved[0::2], moved[1::2])
    assert some.min() >= -1.0 and some.max() <= 1.0
    with torch.no_grad():
        before, after = (teacher.run({"x": x[moved]})["logits"].softmax(1) for x in (plain, some))
    assert torch.equal(before.argmax(1), after.argmax(1))
    assert (after.max(1).values > before.max(1).values).all()
    assert after.max(1).values.mean() > 0.1 + before.max(1).values.mean()
    assert "6 of them confident" in made(teacher, statistics, 0.25, batch).algorithm


def test_the_same_seed_moves_them_alike() -> None:
    teacher, statistics = teacher_of(trained_on(prior_images(32, 3, 16, 16, seeded(99)).numpy()))
    assert torch.equal(made(teacher, statistics, 0.5).inputs["x"], made(teacher, statistics, 0.5).inputs["x"])


def test_a_network_without_classes_gets_the_set_as_it_is() -> None:
    teacher, statistics = teacher_of(
        models.parse("maps (float[N,3,16,16] x) => (float[N,4,14,14] y) <float[4,3,3,3] w> { y = Conv(x, w) }")
    )
    plain, some = (made(teacher, statistics, share) for share in (0.0, 0.5))
    assert torch.equal(plain.inputs["x"], some.inputs["x"])
    assert some.algorithm == plain.algorithm
