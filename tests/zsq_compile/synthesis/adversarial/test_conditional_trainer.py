import io

import pytest
import torch

from tests.zsq_compile.synthesis.colours import SIDE, colour_classifier
from tests.zsq_compile.synthesis.networks import seeded, spec, task_of, teacher_of
from zsq_compile.config.conditional_generators import ConditionalConfig, GdfqConfig, ZsCganConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.adversarial.conditional_trainer import ConditionalTrainer
from zsq_compile.synthesis.generators.baseline_losses import channel_divergence, moment_errors
from zsq_compile.synthesis.losses import class_loss
from zsq_compile.synthesis.probe import layer_inputs, layer_moments, layer_targets

BYTE = given_preprocessing(3, input_range=(0.0, 255.0))
UNIT = given_preprocessing(3, input_range=(0.0, 1.0))
BOTH = [ZsCganConfig(latent_size=8, learning_rate=0.01), GdfqConfig(latent_size=8, learning_rate=0.01)]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of float32 on every machine."""
    monkeypatch.setattr("zsq_compile.differentiable.precision._multiplies_bfloat16", lambda: False)


def trainer_of(
    config: ConditionalConfig, *, fixed: int | None = None, preprocessing=UNIT, seed: int = 0
) -> ConditionalTrainer:
    teacher, statistics = teacher_of(colour_classifier())
    inputs = (spec(fixed, 3, SIDE, SIDE),)
    task = task_of(teacher, statistics, inputs, {"x": preprocessing})
    return ConditionalTrainer(config, task, "logits", 3, seeded(seed))


@pytest.mark.parametrize("config", BOTH, ids=lambda config: type(config).__name__)
def test_a_step_returns_its_samples_and_the_loss_is_theirs(config: ConditionalConfig) -> None:
    trainer = trainer_of(config)
    batch = trainer.step(12, seeded(1))
    assert batch.inputs["x"].shape == (12, 3, SIDE, SIDE) and batch.labels.bincount(minlength=3).tolist() == [4, 4, 4]
    assert not batch.inputs["x"].requires_grad and not batch.scores.requires_grad
    assert batch.inputs["x"].min() >= 0.0 and batch.inputs["x"].max() <= 1.0
    values = trainer.teacher.run(batch.inputs, (*layer_inputs(trainer.task.layers), "logits"))
    torch.testing.assert_close(batch.scores, values["logits"])
    distance = channel_divergence if config.distance == "kl" else moment_errors
    statistics = distance(
        layer_moments(trainer.task.layers, values), layer_targets(trainer.task.layers, trainer.teacher.device)
    )
    assert batch.bn_loss == pytest.approx(float(statistics), rel=1e-5)
    assert batch.class_loss == pytest.approx(float(class_loss(values["logits"], batch.labels)), rel=1e-5)
    assert batch.loss == pytest.approx(batch.class_loss + config.bn_weight * batch.bn_loss, rel=1e-5)


@pytest.mark.parametrize("config", BOTH, ids=lambda config: type(config).__name__)
def test_the_teacher_comes_to_see_the_classes_that_are_asked_for(config: ConditionalConfig) -> None:
    trainer, rng = trainer_of(config), seeded(1)
    first = trainer.step(24, rng)
    for _ in range(60):
        last = trainer.step(24, rng)
    right = (last.scores.argmax(1) == last.labels).float().mean()
    assert right > 0.9
    assert last.class_loss < first.class_loss / 4
    assert last.bn_loss < first.bn_loss or config.distance == "moments"


def test_samples_are_drawn_in_the_network_s_units_with_gradient() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    pixels, codes = (trainer_of(BOTH[0], preprocessing=one).draw(labels, seeded(3))["x"] for one in (UNIT, BYTE))
    torch.testing.assert_close(codes, 255.0 * pixels, rtol=1e-5, atol=1e-3)
    assert pixels.requires_grad and pixels.min() >= 0.0 and pixels.max() <= 1.0


def test_over_successive_steps_every_class_is_asked_for_as_often() -> None:
    trainer, rng = trainer_of(BOTH[0]), seeded(1)
    labels = torch.cat([trainer.step(4, rng).labels for _ in range(6)])
    assert labels.bincount(minlength=3).tolist() == [8, 8, 8]


def test_an_extra_term_moves_the_images_its_way() -> None:
    """Brightness is pushed up by a term of its own, against the same steps without it."""
    plain, pushed = (trainer_of(BOTH[0]) for _ in range(2))
    seen: list[torch.Size] = []

    def extra(inputs: dict[str, torch.Tensor], scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert labels.shape == scores.shape[:1]
        seen.append(scores.shape)
        return -50.0 * inputs["x"].mean()

    for trainer, term in ((plain, None), (pushed, extra)):
        rng = seeded(1)
        for _ in range(15):
            last = trainer.step(12, rng, term)
        trainer.brightness = float(last.inputs["x"].mean())
    assert pushed.brightness > plain.brightness + 0.05
    assert seen == [torch.Size([12, 3])] * 15


@pytest.mark.parametrize("config", BOTH, ids=lambda config: type(config).__name__)
def test_training_goes_on_from_a_state_bit_for_bit(config: ConditionalConfig) -> None:
    trainer, rng = trainer_of(config), seeded(1)
    for _ in range(3):
        trainer.step(10, rng)
    file = io.BytesIO()
    torch.save(trainer.state(), file)
    place = rng.get_state()
    expected = [trainer.step(10, rng) for _ in range(3)]
    file.seek(0)
    other = trainer_of(config, seed=5)
    other.restore(torch.load(file, weights_only=True))
    rng.set_state(place)
    for batch in expected:
        again = other.step(10, rng)
        assert torch.equal(again.inputs["x"], batch.inputs["x"]) and torch.equal(again.labels, batch.labels)
        assert again.loss == batch.loss


def test_a_state_is_a_copy() -> None:
    trainer, rng = trainer_of(BOTH[1]), seeded(1)
    trainer.step(10, rng)
    state = trainer.state()
    kept = {name: value.clone() for name, value in state["weights"].items()}
    moments = state["optimizer"]["state"][0]["exp_avg"].clone()
    trainer.step(10, rng)
    assert all(torch.equal(value, kept[name]) for name, value in state["weights"].items())
    assert torch.equal(moments, state["optimizer"]["state"][0]["exp_avg"])


def test_a_fixed_batch_and_pieces_for_want_of_memory_are_the_same_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    run = TorchGraph.run

    def watched(graph: TorchGraph, feeds: dict[str, torch.Tensor], *rest: object, **more: object) -> object:
        seen.add(len(feeds["x"]))
        return run(graph, feeds, *rest, **more)

    def losses(fixed: int | None, count: int = 12) -> list[float]:
        trainer, rng = trainer_of(BOTH[0], fixed=fixed), seeded(1)
        monkeypatch.setattr(TorchGraph, "run", watched)
        seen.clear()
        return [trainer.step(count, rng).loss for _ in range(3)]

    whole = losses(None)
    assert seen == {12}
    assert losses(4) == pytest.approx(whole, rel=1e-4) and seen == {4}
    assert losses(4, 11) == pytest.approx(whole, rel=1e-4), "a batch that is not full is filled up"
    monkeypatch.setattr("zsq_compile.synthesis.budget._LARGEST_BATCH", 5)
    assert losses(None) == pytest.approx(whole, rel=1e-4) and seen == {4}


def test_a_state_of_another_network_is_refused() -> None:
    with pytest.raises(RuntimeError, match="state_dict"):
        trainer_of(BOTH[0]).restore(trainer_of(BOTH[1]).state())
