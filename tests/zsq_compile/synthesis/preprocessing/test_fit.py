import numpy as np
import pytest
import torch

from tests.zsq_compile.synthesis.networks import Listener, seeded, spec, teacher_of, trained_on
from zsq_compile.data.posterior import best_of
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.preprocessing.find import find_preprocessing, infer_on_images


def ends(one: Preprocessing) -> np.ndarray:
    """(2, channels) what becomes of black and of white."""
    mean, std = np.array(one.mean), np.array(one.std)
    return np.stack([-mean / std, (1.0 - mean) / std])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("low", "high"), [(0.0, 10.0), (0.0, 65535.0), (-70.0, 0.0), (5.0, 6.0)])
def test_a_range_that_nobody_uses_is_fitted(channels: int, low: float, high: float) -> None:
    pictures = prior_images(64, channels, 20, 20, seeded(99)).numpy()
    teacher, statistics = teacher_of(trained_on(low + (high - low) * pictures))
    found = infer_on_images(teacher, statistics, spec(None, channels, 20, 20), seeded())
    assert (found.name, found.source, found.is_certain) == ("fitted", "inferred", True)
    # 16 other pictures differ from those 64 by a few per cent in mean and contrast.
    np.testing.assert_allclose(ends(found).mean(1), (low, high), atol=0.12 * (high - low))


def test_each_channel_has_a_scale_of_its_own() -> None:
    truth = given_preprocessing(3, (0.2, 0.5, 0.4), (0.02, 0.1, 0.3))
    teacher, statistics = teacher_of(trained_on(truth.encode(prior_images(64, 3, 20, 20, seeded(99))).numpy()))
    found = infer_on_images(teacher, statistics, spec(None, 3, 20, 20), seeded())
    assert found.name == "fitted"
    np.testing.assert_allclose(np.log(found.std), np.log(truth.std), atol=0.35)


def test_a_batch_normalisation_that_nothing_explains_is_an_alarm() -> None:
    """Channels of one filter remember what no picture can show: means and deviations of all sizes."""
    model = trained_on(prior_images(16, 3, 20, 20, seeded(99)).numpy())
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("mean", "variance")):
            size = np.random.default_rng(len(tensor.name)).permutation(8)
            tensor.raw_data = np.float32(10.0 ** (size - 2.0)).tobytes()
    teacher, statistics = teacher_of(model)
    listener = Listener()
    found = find_preprocessing([spec(None, 3, 20, 20)], None, teacher, statistics, seeded(), listener)["x"].best
    assert (found.source, found.is_certain, found.margin) == ("unexplained", False, None)
    assert "far" in listener.warnings[0]


@pytest.mark.parametrize(("given", "warned"), [((0.0, 255.0), True), ((-1.0, 1.0), False)])
def test_a_given_preprocessing_is_held_against_the_statistics(given: tuple[float, float], *, warned: bool) -> None:
    pictures = 2.0 * prior_images(48, 3, 20, 20, seeded(99)).numpy() - 1.0
    teacher, statistics = teacher_of(trained_on(pictures))
    listener, rng = Listener(), seeded()
    one = given_preprocessing(3, input_range=given)
    found = find_preprocessing([spec(None, 3, 20, 20)], one, teacher, statistics, rng, listener)
    assert best_of(found) == {"x": one}, "what the user gives is used"
    assert [("symmetric" in text) for text in listener.warnings] == [True] * warned
    assert torch.equal(torch.rand(4, generator=rng), torch.rand(4, generator=seeded())), "samples stay the same"
