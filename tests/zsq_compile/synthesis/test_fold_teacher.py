from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import seeded, teacher_of, trained_on
from zsq_compile.synthesis.fold_teacher import fold_teacher
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import wasserstein
from zsq_compile.synthesis.probe import layer_targets, measure_moments


@pytest.fixture(scope="module")
def network() -> models.onnx.ModelProto:
    """Two layers, whose scales and shifts are neither 1 nor 0, some of them negative."""
    made = trained_on(prior_images(32, 3, 16, 16, seeded(5)).numpy())
    rng = np.random.default_rng(0)
    for initializer in made.graph.initializer:
        if initializer.name.startswith(("scale", "shift")):
            numbers = rng.uniform(0.5, 2.0, 8) * rng.choice([-1.0, 1.0], 8)
            initializer.CopyFrom(models.onnx.numpy_helper.from_array(numbers.astype(np.float32), initializer.name))
    return made


def pictures() -> torch.Tensor:
    return 0.8 * prior_images(24, 3, 16, 16, seeded(1))


def test_outputs_and_distances_are_those_of_the_network_as_it_was(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    folded, layers = fold_teacher(teacher, statistics.usable)
    assert [layer.input for layer in layers] == ["n0", "n1"]
    assert not [node for node in folded.model.graph if node.op_type == "BatchNormalization"]
    assert [node for node in teacher.model.graph if node.op_type == "BatchNormalization"]
    feeds = {"x": pictures()}
    torch.testing.assert_close(folded.run(feeds), teacher.run(feeds), rtol=1e-4, atol=1e-4)
    distances = []
    for graph, read in ((teacher, statistics.usable), (folded, layers)):
        targets = layer_targets(read, graph.device)
        pairs = zip(measure_moments(graph, read, feeds, 24), targets, strict=True)
        distances.append(torch.cat([wasserstein(one, other) for one, other in pairs]))
    assert distances[0].max() > 0.05
    torch.testing.assert_close(distances[1], distances[0], rtol=1e-3, atol=1e-5)


def test_gradients_of_the_distances_are_the_same(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    folded, layers = fold_teacher(teacher, statistics.usable)
    gradients = []
    for graph, read in ((teacher, statistics.usable), (folded, layers)):
        leaf = pictures().requires_grad_()
        values = graph.run({"x": leaf}, [layer.input for layer in read])
        measured = [torch.var_mean(values[layer.input], (0, 2, 3), correction=0) for layer in read]
        distances = [
            ((mean - target.mean).square() + (variance.sqrt() - target.variance.sqrt()).square()) / target.variance
            for (variance, mean), target in zip(measured, layer_targets(read, graph.device), strict=True)
        ]
        gradients.append(torch.autograd.grad(torch.cat(distances).mean(), leaf)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))


def test_a_layer_whose_channel_is_switched_off_is_measured_where_it_was(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    first, second = statistics.usable
    scale = second.scale.copy()
    scale[3] = 1e-6
    _, layers = fold_teacher(teacher, [first, replace(second, scale=scale)])
    assert [layer.input for layer in layers] == ["n0", "c1"]
    assert layers[1].mean is second.mean


def test_a_dead_channel_keeps_no_layer_from_folding(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    first, second = statistics.usable
    scale, dead = second.scale.copy(), second.dead.copy()
    scale[3], dead[3] = 0.0, True
    _, layers = fold_teacher(teacher, [first, replace(second, scale=scale, dead=dead)])
    assert [layer.input for layer in layers] == ["n0", "n1"]


def test_of_two_layers_in_a_row_both_are_measured_where_they_were() -> None:
    shapes = ", ".join(f"float[2] {name}{i}" for i in (0, 1) for name in ("scale", "shift", "mean", "variance"))
    model = models.parse(
        f"""
        twice (float[N,2,4,4] x) => (float[N,2,4,4] y) <float[2,2,1,1] w, {shapes}>
        {{
            [conv] c = Conv(x, w)
            [bn0] n0 = BatchNormalization(c, scale0, shift0, mean0, variance0)
            [bn1] n1 = BatchNormalization(n0, scale1, shift1, mean1, variance1)
            [relu] y = Relu(n1)
        }}
        """
    )
    teacher, statistics = teacher_of(model)
    folded, layers = fold_teacher(teacher, statistics.entries)
    assert [layer.input for layer in layers] == ["c", "n0"]
    feeds = {"x": torch.randn(8, 2, 4, 4, generator=seeded())}
    torch.testing.assert_close(folded.run(feeds), teacher.run(feeds), rtol=1e-5, atol=1e-5)
    assert len(measure_moments(folded, layers, feeds, 8)) == 2


def test_a_value_that_others_read_too_is_measured_where_it_was() -> None:
    model = models.parse(
        """
        shared (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w, float[2] scale, float[2] shift, float[2] mean, float[2] variance>
        {
            [conv] c = Conv(x, w)
            [bn] n = BatchNormalization(c, scale, shift, mean, variance)
            [add] y = Add(n, c)
        }
        """,
        weights={name: np.ones(2) for name in ("scale", "shift", "mean", "variance")},
    )
    teacher, statistics = teacher_of(model)
    _, layers = fold_teacher(teacher, statistics.entries)
    assert [layer.input for layer in layers] == ["c"]
