"""What all generators promise, and what each of them does with inputs of every kind."""

import numpy as np
import pytest
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, teacher_of, trained_on
from zsq_compile.config.compile import GeneratorConfig, GenieConfig
from zsq_compile.config.conditional_generators import GdfqConfig, ZsCganConfig
from zsq_compile.config.generators import DsgConfig, IntraqConfig, NoiseConfig, PixelsConfig, PriorConfig, ZeroqConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.make_generator import make_generator

ALL = [
    NoiseConfig(),
    NoiseConfig(distribution="uniform"),
    PriorConfig(),
    PixelsConfig(iterations=2),
    ZeroqConfig(iterations=2),
    DsgConfig(iterations=2),
    IntraqConfig(iterations=2),
]
# these refuse inputs that are none
ALL_OF_PICTURES = [*ALL, GenieConfig(iterations=2), ZsCganConfig(iterations=2), GdfqConfig(iterations=2)]
BYTE = given_preprocessing(3, input_range=(0.0, 255.0))


@pytest.fixture(scope="module")
def network() -> models.onnx.ModelProto:
    return trained_on(255.0 * prior_images(32, 3, 16, 16, seeded(99)).numpy())


@pytest.mark.parametrize("config", ALL_OF_PICTURES, ids=str)
def test_sets_are_complete_inside_the_range_and_repeatable(
    config: GeneratorConfig, network: models.onnx.ModelProto
) -> None:
    teacher, statistics = teacher_of(network)
    generator = make_generator(config, (spec(None, 3, 16, 16),), BYTE)
    first, again, other = (generator.synthesize(teacher, statistics, 5, seeded(seed)) for seed in (1, 1, 2))
    values = first.inputs["x"]
    assert values.shape == (5, 3, 16, 16)
    assert values.dtype == torch.float32
    assert values.min() >= 0.0 and values.max() <= 255.0 * 1.0001
    assert values.max() > 50.0
    assert first.seed == 1
    assert torch.equal(values, again.inputs["x"])
    assert not torch.equal(values, other.inputs["x"])


@pytest.mark.parametrize("config", ALL_OF_PICTURES, ids=str)
def test_the_preprocessing_is_inferred_and_told_when_none_is_given(
    config: GeneratorConfig, network: models.onnx.ModelProto
) -> None:
    teacher, statistics = teacher_of(network)
    listener = Listener()
    made = make_generator(config, (spec(None, 3, 16, 16),), None, listener).synthesize(teacher, statistics, 4, seeded())
    assert made.preprocessing["x"].name == "byte"
    assert len(listener.notes) == 1 and "byte" in listener.notes[0] and "inferred" in listener.notes[0]
    assert not listener.warnings


def test_an_assumed_preprocessing_is_a_warning_that_names_the_options() -> None:
    teacher, _ = teacher_of(models.branches())
    listener = Listener()
    make_generator(PriorConfig(), (spec(None, 1, 8, 8),), None, listener).synthesize(
        teacher, NO_STATISTICS, 4, seeded()
    )
    assert len(listener.warnings) == 1
    assert "assumed" in listener.warnings[0] and "--input-range" in listener.warnings[0]


@pytest.mark.parametrize("config", ALL_OF_PICTURES, ids=str)
@pytest.mark.parametrize("dtype", ["str", "complex64"])
def test_inputs_that_take_no_numbers_are_refused_in_words(config: GeneratorConfig, dtype: str) -> None:
    with pytest.raises(SynthesisError, match=r"input 'text' takes .* give real samples with --calib"):
        make_generator(config, (spec(None, 16, name="text", dtype=dtype),))


def test_a_network_without_inputs_is_refused() -> None:
    with pytest.raises(SynthesisError, match="no input"):
        make_generator(PriorConfig(), ())


def two_inputs() -> models.onnx.ModelProto:
    """A picture and a vector, each through its own BatchNormalization."""
    return models.parse(
        """
        two (float[N,3,12,12] picture, float[N,6] vector) => (float[N,4] y)
        <float[4,3,3,3] w0, float[4] scale0, float[4] shift0, float[4] mean0, float[4] variance0,
         float[6,4] w1, float[4] scale1, float[4] shift1, float[4] mean1, float[4] variance1>
        { c0 = Conv(picture, w0)
          [bn0] n0 = BatchNormalization(c0, scale0, shift0, mean0, variance0)
          p = GlobalAveragePool(n0)
          f = Flatten(p)
          c1 = MatMul(vector, w1)
          [bn1] n1 = BatchNormalization(c1, scale1, shift1, mean1, variance1)
          y = Add(f, n1) }
        """
    )


@pytest.mark.parametrize("config", ALL, ids=str)
def test_every_input_gets_data_of_its_own_kind(config: GeneratorConfig) -> None:
    teacher, statistics = teacher_of(two_inputs())
    inputs = (spec(None, 3, 12, 12, name="picture"), spec(None, 6, name="vector"))
    made = make_generator(config, inputs).synthesize(teacher, statistics, 10, seeded())
    assert {name: tuple(value.shape) for name, value in made.inputs.items()} == {
        "picture": (10, 3, 12, 12),
        "vector": (10, 6),
    }
    assert set(made.preprocessing) == {"picture"}
    assert made.inputs["vector"].min() < 0 < made.inputs["vector"].max()
    assert np.isfinite(teacher.run(made.inputs)["y"].numpy()).all()


def test_uniform_noise_is_flat_and_normal_noise_is_not() -> None:
    teacher, _ = teacher_of(models.residual())
    inputs, preprocessing = (spec(None, 3, 8, 8),), given_preprocessing(3, input_range=(0.0, 1.0))
    spread = {
        distribution: make_generator(NoiseConfig(distribution=distribution), inputs, preprocessing)
        .synthesize(teacher, NO_STATISTICS, 200, seeded())
        .inputs["x"]
        .std()
        .item()
        for distribution in ("uniform", "normal")
    }
    assert spread["uniform"] == pytest.approx(12**-0.5, rel=0.01)
    assert spread["normal"] == pytest.approx(0.24, rel=0.03)
