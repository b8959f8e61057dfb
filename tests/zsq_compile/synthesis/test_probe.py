import numpy as np
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import seeded, teacher_of, trained_on
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.probe import flat_features, layer_targets, measure_cost, measure_moments


def test_cost_counts_multiplications_and_elements_of_one_sample() -> None:
    teacher, _ = teacher_of(models.depthwise())
    cost = measure_cost(teacher, {"x": torch.zeros(2, 3, 9, 9)}, teacher.output_names)
    assert cost.multiplications == 16 * 8 * 27 + 16 * 8 * 9 + 16 * 12 * 8 + 12 * 5
    assert cost.elements == 3 * 16 * 8 + 3 * 16 * 8 + 3 * 16 * 12 + 12 + 12 + 5


def test_moments_of_a_set_do_not_depend_on_how_it_is_cut() -> None:
    pictures = prior_images(7, 3, 12, 12, seeded())
    teacher, statistics = teacher_of(trained_on(pictures.numpy()))
    targets = layer_targets(statistics.entries, teacher.device)
    for size in (1, 3, 7):
        measured = measure_moments(teacher, statistics.entries, {"x": pictures}, size)
        for one, target in zip(measured, targets, strict=True):
            np.testing.assert_allclose(one.mean, target.mean, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(one.variance, target.variance, rtol=1e-3)


def test_dead_channels_are_left_out() -> None:
    pictures = prior_images(4, 3, 12, 12, seeded())
    model = trained_on(pictures.numpy())
    for tensor in model.graph.initializer:
        if tensor.name == "w0":
            weight = np.array(models.onnx.numpy_helper.to_array(tensor))
            weight[2] = 0.0
            tensor.CopyFrom(models.onnx.numpy_helper.from_array(weight, "w0"))
        if tensor.name == "variance0":
            variance = np.array(models.onnx.numpy_helper.to_array(tensor))
            variance[2] = 0.0
            tensor.CopyFrom(models.onnx.numpy_helper.from_array(variance, "variance0"))
    teacher, statistics = teacher_of(model)
    assert len(layer_targets(statistics.entries, teacher.device)[0].mean) == 7
    assert len(measure_moments(teacher, statistics.entries, {"x": pictures}, 4)[0].mean) == 7


def test_maps_count_by_their_means() -> None:
    values = torch.randn(4, 3, 5, 6, generator=seeded())
    torch.testing.assert_close(flat_features(values), values.mean((2, 3)))
    assert torch.equal(flat_features(values[:, :, 0, 0]), values[:, :, 0, 0])
