from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.zsq_compile.synthesis.networks import seeded, teacher_of, trained_on
from zsq_compile.config.distillation import Adversary
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.adversarial.conditional_trainer import ExtraLoss, GeneratedBatch
from zsq_compile.synthesis.adversarial.live_batches import LiveBatches
from zsq_compile.synthesis.adversarial.losses import discrepancy, draw_margin, margin_loss
from zsq_compile.synthesis.adversarial.student_loss import StudentLoss
from zsq_compile.synthesis.images.dead_leaves import prior_images


class SmallTrainer:
    """A trainer of one parameter: noise around a picture that gradient descent moves."""

    def __init__(self, teacher: TorchGraph, seed: int = 0, *, fixed: int | None = None) -> None:
        self.teacher, self.scores, self.classes, self.config = teacher, "logits", 4, {"rate": 0.5}
        self.fixed = fixed
        self.picture = torch.rand(1, 3, 8, 8, generator=seeded(seed))
        self.counts = list[int]()
        self.pushed = list[float]()

    def draw(self, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        raise AssertionError("only steps make samples that are learned on")

    def micro_batch_size(self, count: int) -> int:
        return self.fixed or count

    def step(self, count: int, rng: torch.Generator, extra: ExtraLoss | None = None) -> GeneratedBatch:
        count = -(-count // (self.fixed or 1)) * (self.fixed or 1)
        self.counts.append(count)
        self.picture.requires_grad_()
        x = self.picture + 0.3 * torch.randn(count, 3, 8, 8, generator=rng)
        labels = torch.randint(4, (count,), generator=rng)
        parts = x.split(self.micro_batch_size(count))
        scores = torch.cat([self.teacher.run({"x": part}, ("logits",))["logits"] for part in parts])
        loss = self.picture.square().mean()
        if extra is not None:
            added = extra({"x": x}, scores, labels)
            self.pushed.append(float(added.detach()))
            loss = loss + added
        (gradient,) = torch.autograd.grad(loss, [self.picture])
        self.picture = (self.picture - 0.5 * gradient).detach()
        return GeneratedBatch(
            inputs={"x": x.detach()},
            labels=labels,
            scores=scores.detach(),
            loss=float(loss.detach()),
            class_loss=0.0,
            bn_loss=0.0,
        )

    def state(self) -> dict[str, Any]:
        return {"picture": self.picture.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.picture = state["picture"].clone()


@pytest.fixture(scope="module")
def teacher() -> TorchGraph:
    return teacher_of(trained_on(prior_images(32, 3, 8, 8, seeded()).numpy()))[0]


class Student:
    """The teacher with its classifier a little off; remembers how many samples it was run on."""

    def __init__(self, teacher: TorchGraph, off: float = 0.7) -> None:
        self._teacher, self._changed = teacher, {"w2": off * teacher.initializers["w2"]}
        self.runs = list[int]()

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any) -> dict[str, Tensor]:
        self.runs.append(len(inputs["x"]))
        return self._teacher.run(inputs, outputs, replace=self._changed)


def live(trainer: SmallTrainer, adversary: Adversary = "margin", **options: Any) -> LiveBatches:
    settings: dict[str, Any] = {"temperature": 2.0, "weight": 3.0, "ratio": 4, **options}
    return LiveBatches(trainer, adversary=adversary, **settings)


def test_one_step_of_the_generator_serves_a_few_batches(teacher: TorchGraph) -> None:
    trainer, rng = SmallTrainer(teacher), seeded()
    batches, student = live(trainer), Student(teacher)
    taken = [batches.take(4, student, rng)["x"] for _ in range(9)]
    assert trainer.counts == [16, 16, 16]
    assert {tuple(x.shape) for x in taken} == {(4, 3, 8, 8)}
    assert len(torch.cat(taken).flatten(1).unique(dim=0)) == 36
    assert not any(x.requires_grad for x in taken)


@pytest.mark.parametrize("adversary", ["none", "margin"])
@pytest.mark.parametrize("fixed", [1, 8])
def test_a_network_that_insists_on_a_batch_gets_it_and_the_generator_a_batch_of_its_own(
    teacher: TorchGraph, fixed: int, adversary: Adversary, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, run = set[int](), TorchGraph.run

    def watched(graph: TorchGraph, feeds: Mapping[str, Tensor], *rest: Any, **more: Any) -> dict[str, Tensor]:
        sizes.add(len(feeds["x"]))
        return run(graph, feeds, *rest, **more)

    monkeypatch.setattr(TorchGraph, "run", watched)
    trainer, rng = SmallTrainer(teacher, fixed=fixed), seeded()
    batches, student = live(trainer, adversary, ratio=10), Student(teacher)
    taken = [len(batches.take(3, student, rng)["x"]) for _ in range(11)]
    assert (trainer.counts, taken) == ([30, 30] if fixed == 1 else [32, 32], [3] * 11)
    assert sizes == {fixed}


def test_a_step_of_the_generator_has_a_batch_to_normalise_by(teacher: TorchGraph) -> None:
    trainer, rng = SmallTrainer(teacher), seeded()
    batches = live(trainer, ratio=1)
    taken = torch.cat([batches.take(1, Student(teacher), rng)["x"] for _ in range(17)])
    assert trainer.counts == [16, 16] and len(taken.flatten(1).unique(dim=0)) == 17


@pytest.mark.parametrize("adversary", ["margin", "gaussian", "adadfq"])
def test_the_generator_is_told_of_the_student(teacher: TorchGraph, adversary: Adversary) -> None:
    pictures = []
    for kind, weight in (("none", 3.0), (adversary, 0.0), (adversary, 3.0)):
        trainer = SmallTrainer(teacher)
        batches = live(trainer, kind, weight=weight)  # type: ignore[arg-type]
        for _ in range(6):
            batches.take(4, Student(teacher), seeded())
        pictures.append(trainer.picture)
    alone, unweighted, told = pictures
    torch.testing.assert_close(unweighted, alone)
    assert float((told - alone).abs().max()) > 1e-3


def test_the_first_margin_is_drawn_around_the_first_discrepancy(teacher: TorchGraph) -> None:
    trainer, rng, again = SmallTrainer(teacher), seeded(5), seeded(5)
    student = Student(teacher)
    live(trainer, "margin").take(4, student, rng)
    x = SmallTrainer(teacher).picture + 0.3 * torch.randn(16, 3, 8, 8, generator=again)
    torch.randint(4, (16,), generator=again)
    scores = (teacher.run({"x": x}, ("logits",))["logits"], student({"x": x}, ("logits",))["logits"])
    distances = discrepancy(*scores, 2.0)
    mean = float(distances.mean())
    want = 3.0 * float(margin_loss(distances, draw_margin(mean, again), mean))
    assert trainer.pushed == [pytest.approx(want, rel=0.05)]  # bfloat16, where the processor has it


def test_the_mean_discrepancy_runs_behind(teacher: TorchGraph) -> None:
    student_loss, inputs = StudentLoss("margin", "logits", temperature=1.0, weight=1.0), {"x": torch.zeros(2, 3, 8, 8)}
    labels, scores = torch.tensor([0, 1]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = []
    for factor in (0.0, 0.5, 0.9):
        extra = student_loss.extra(lambda fed, names, factor=factor: {"logits": factor * scores}, seeded())
        assert extra is not None
        extra(inputs, scores, labels)
        found.append((float(discrepancy(scores, factor * scores, 1.0).mean()), student_loss.mean))
    (first, one), (second, two), (third, three) = found
    assert one == pytest.approx(first)
    assert two == pytest.approx(0.9 * first + 0.1 * second)
    assert three == pytest.approx(0.9 * (0.9 * first + 0.1 * second) + 0.1 * third)


def test_the_student_is_asked_in_pieces_that_keep_no_activations(teacher: TorchGraph) -> None:
    """Value and gradient are those of all samples at once, and each piece is run once more on the way back."""
    student, found = Student(teacher), []
    x, labels = torch.rand(6, 3, 8, 8, generator=seeded()), torch.arange(6) % 4
    for size in (6, 2):
        student_loss = StudentLoss(
            "margin", "logits", temperature=1.0, weight=1.0, micro_batch_size=lambda count, size=size: size
        )
        extra = student_loss.extra(student, seeded(1))
        assert extra is not None
        fed = x.clone().requires_grad_()
        scores = teacher.run({"x": x}, ("logits",))["logits"]
        value = extra({"x": fed}, scores, labels)
        found.append((value.detach(), torch.autograd.grad(value, fed)[0]))
    assert student.runs == [6, *[2] * 3, *[2] * 3]
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-4)
    assert float(found[0][1].abs().max()) > 1e-3


def test_what_is_measured_says_how_alike_samples_are(teacher: TorchGraph) -> None:
    trainer, rng, student = SmallTrainer(teacher), seeded(), Student(teacher)
    batches = live(trainer, "none")
    assert batches.measured() is None
    for _ in range(8):
        batches.take(4, student, rng)
    figures = batches.measured()
    assert figures is not None
    assert set(figures) == {"diversity", "class_diversity", "novelty", "discrepancy", "generator_loss"}
    assert all(figure > 0 for figure in figures.values())
    assert batches.measured() is None
    assert student.runs == [16, 16]


@pytest.mark.parametrize("adversary", ["none", "margin", "adadfq"])
def test_it_goes_on_as_if_nothing_had_happened(teacher: TorchGraph, adversary: Adversary) -> None:
    rng, student = seeded(), Student(teacher)
    batches = live(SmallTrainer(teacher), adversary)
    for _ in range(6):
        batches.take(4, student, rng)
    state, place = batches.state(), rng.get_state()
    want = [batches.take(4, student, rng)["x"] for _ in range(6)]
    figures = batches.measured()
    later = live(SmallTrainer(teacher, seed=9), adversary)
    later.restore(state)
    rng.set_state(place)
    assert all(torch.equal(later.take(4, student, rng)["x"], x) for x in want)
    assert later.measured() == figures


def test_the_description_tells_all_settings(teacher: TorchGraph) -> None:
    trainer = SmallTrainer(teacher)
    words = {
        batches.description
        for batches in (live(trainer), live(trainer, "none"), live(trainer, ratio=5), live(trainer, weight=1.0))
    }
    assert len(words) == 4 and all("rate" in one for one in words)
