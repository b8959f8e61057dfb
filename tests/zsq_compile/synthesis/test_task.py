import torch

from tests.zsq_compile.synthesis.colours import SIDE, colour_classifier
from tests.zsq_compile.synthesis.networks import seeded, spec, task_of, teacher_of


def labels(count: int, classes: int, seed: int) -> list[int]:
    teacher, statistics = teacher_of(colour_classifier())
    task = task_of(teacher, statistics, (spec(None, 3, SIDE, SIDE),))
    return task.balanced_labels(count, classes, seeded(seed)).tolist()


def test_every_class_comes_as_often_as_any_other() -> None:
    found = torch.tensor(labels(64, 10, 0)).bincount(minlength=10)
    assert int(found.max() - found.min()) == 1
    assert torch.tensor(labels(60, 10, 0)).bincount(minlength=10).tolist() == [6] * 10


def test_fewer_samples_than_classes_show_classes_from_among_all_of_them() -> None:
    """Were only the first 8 of 100 ever shown, no seed would tell of the others."""
    drawn = [labels(8, 100, seed) for seed in range(12)]
    assert all(len(set(one)) == 8 for one in drawn)
    assert len({label for one in drawn for label in one}) > 40  # of 96, some twice; 62 is the mean
    assert labels(8, 100, 3) == drawn[3]
