import functools
import itertools
import signal as signals
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from tests.models import parse
from tests.quantizing import execute
from tests.zsq_compile.quantization.learnable import (
    CHAIN,
    NETWORKS,
    ClosedForm,
    FixedSteps,
    Steps,
    closed_form,
    signal,
    started,
    student_of,
)
from tests.zsq_compile.quantization.networks import Watcher
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.errors import ConfigError, QuantizationError
from zsq_compile.progress import Clock
from zsq_compile.quantization.distillation import distill
from zsq_compile.quantization.distillation.batches import Batches, Student, draw_batches, mix_in_live
from zsq_compile.quantization.distillation.distill import Distill, Distillation, DistillRecord, pace
from zsq_compile.quantization.distillation.losses import attention_distance, softened_divergence
from zsq_compile.quantization.distillation.trainer import CurvePoint, DistillationLoss, mix_up, perturb
from zsq_compile.quantization.reconstruction.block_student import LearningRates
from zsq_compile.quantization.reconstruction.blocks import whole_network
from zsq_compile.quantization.reconstruction.budget import LearningBudget
from zsq_compile.quantization.samples import Samples, find_batched_values

SMALL = """
    small (float[N,2,6,6] x) => (float[N,4] y)
    <float[4,2,3,3] w0, float[4] b0, float[6,4,3,3] w1, float[6] b1, float[4,6] w2, float[4] b2>
    {
        [conv0] c0 = Conv<strides=[2,2]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [pool] p = GlobalAveragePool(r1)
        [flatten] f = Flatten(p)
        [gemm] y = Gemm<transB=1>(f, w2, b2)
    }
    """


@functools.cache
def prepared(text: str = SMALL, count: int = 64, **options: Any) -> ClosedForm:
    proto = parse(text)
    return closed_form(
        proto, signal(count, proto), **{"bits": 3, "act_bits": 8, "edge_bits": 3, "ranges": "mse", **options}
    )


def ready(closed: ClosedForm, *, seed: int = 0, live: Any = None, **settings: Any) -> Distillation:
    return Distillation(closed.network, closed.state, DistillConfig(**settings), Steps(), seed, live)


def distilled(closed: ClosedForm, **options: Any) -> tuple[ir.Model, DistillRecord]:
    """Distil, with the progress told checked; the QDQ model and the record."""
    told = list[int]()
    state, record = ready(closed, **options).run(told.append)
    assert sum(told) == record.steps
    return state.qdq, record


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def in_runtime(model: ir.Model, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = execute(model, {name: value.numpy() for name, value in data.items()})
    return {name: torch.from_numpy(value) for name, value in made.items()}


def divergence(closed: ClosedForm, model: ir.Model, data: Mapping[str, Tensor]) -> float:
    """Divergence from the float network at temperature 1, in ONNX Runtime."""
    with torch.no_grad():
        return float(softened_divergence(in_runtime(model, data)["y"], closed.teacher.run(data)["y"], 1.0))


def test_all_layers_together_come_nearer_on_data_that_nothing_has_seen() -> None:
    closed = prepared(CHAIN, 128)
    model, record = distilled(closed, steps=60, learning_rate=1e-2)
    held_out = signal(96, ir.to_proto(closed.model), seed=7)
    assert divergence(closed, model, held_out) < 0.95 * divergence(closed, closed.quantized, held_out)
    assert 0 < record.kept_step <= record.steps == 60
    assert record.divergence_after < record.divergence_before
    assert record.agreement_before is not None and record.agreement_after is not None
    assert record.agreement_after >= record.agreement_before
    assert [point.step for point in record.curve] == list(range(0, 61, 3))
    assert record.curve[0].loss is None
    assert all(point.loss is not None and point.loss > 0 for point in record.curve[1:])
    assert f"kept step {record.kept_step} of 60" in record.words()


def test_the_emitted_model_does_in_the_runtime_what_was_judged() -> None:
    closed = prepared()
    model, record = distilled(closed, steps=20, learning_rate=2e-2)
    assert record.kept_step > 0
    judged = {name: value[closed.samples.split()[1]] for name, value in closed.samples.inputs.items()}
    # an activation on the border between two codes may fall to either side
    assert divergence(closed, model, judged) == pytest.approx(record.divergence_after, rel=0.05, abs=1e-4)
    assert divergence(closed, closed.quantized, judged) == pytest.approx(record.divergence_before, rel=0.05, abs=1e-4)
    with torch.no_grad():
        same = in_runtime(model, judged)["y"].argmax(1) == closed.teacher.run(judged)["y"].argmax(1)
    assert float(same.float().mean()) == pytest.approx(record.agreement_after)


def test_the_start_is_kept_where_training_makes_it_worse() -> None:
    closed = prepared()
    model, record = distilled(closed, steps=6, learning_rate=30.0)
    assert record.kept_step == 0
    assert record.divergence_after == record.divergence_before
    assert max(point.divergence for point in record.curve) > 2 * record.divergence_before
    data = closed.samples.inputs
    assert torch.equal(in_runtime(model, data)["y"], in_runtime(closed.quantized, data)["y"])
    assert "6 steps, start kept" in record.words()


def test_gradients_of_parts_of_a_batch_add_up_to_those_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = prepared(CHAIN, 64)
    _, whole = distilled(closed, steps=4, learning_rate=1e-3)
    sizes: list[int] = []

    def count(self: DistillationLoss, inputs: Mapping[str, Tensor]) -> Tensor:
        sizes.append(len(inputs["x"]))
        return called(self, inputs)

    called = DistillationLoss.__call__
    monkeypatch.setattr(DistillationLoss, "__call__", count)
    monkeypatch.setattr(distill, "count_kept_samples", lambda value_bytes: 5)
    _, parts = distilled(closed, steps=4, learning_rate=1e-3)
    assert sizes == 4 * [5, 5, 5, 5, 5, 5, 2]
    for one, other in zip(whole.curve[1:], parts.curve[1:], strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-3)


def test_the_step_shows_what_it_plans_and_does() -> None:
    closed, watcher = prepared(), Watcher()
    step = Distill(config=DistillConfig(steps=3), learning=FixedSteps())
    state, record = step.run(closed.network, closed.state, Clock(watcher))
    assert watcher.totals == watcher.steps == {"distill": 3}
    assert record.steps == 3
    assert serialized(state.qdq) == serialized(distilled(closed, steps=3)[0])


def test_same_seed_same_bytes() -> None:
    closed, settings = prepared(), {"steps": 6, "learning_rate": 0.05, "mixup": True, "perturbation": 0.01}
    first, again, other = (distilled(closed, seed=seed, **settings) for seed in (0, 0, 1))
    assert serialized(first[0]) == serialized(again[0])
    assert first[1].curve == again[1].curve
    assert first[1].curve != other[1].curve


class Inventor:
    """Live samples: noise of a size that it learns from the student, and a count of what was asked of it."""

    description = "noise"

    def __init__(self) -> None:
        self.size, self.asked, self.gradients = torch.tensor(1.0), 0, list[float]()

    def take(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        x = (self.size * torch.randn(count, 2, 6, 6, generator=rng)).requires_grad_()
        student({"x": x}, ("y",))["y"].square().mean().backward()
        assert x.grad is not None
        self.gradients.append(float(x.grad.norm()))
        self.size, self.asked = self.size + 0.1 * x.grad.norm(), self.asked + 1
        return {"x": x.detach()}

    def measured(self) -> dict[str, float] | None:
        return {"size": float(self.size)} if self.asked else None

    def state(self) -> dict[str, Any]:
        return {"size": self.size, "asked": self.asked}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.size, self.asked = state["size"], state["asked"]


def interrupting(at: int) -> Callable[..., Batches]:
    """Draw batches as they are always drawn, with Ctrl-C pressed while one of them is made."""

    def make(samples: Samples, chosen: Tensor, batch: int, rng: torch.Generator) -> Batches:
        for place, made in enumerate(draw_batches(samples, chosen, batch, rng)):
            if place == at:
                signals.raise_signal(signals.SIGINT)
            yield made

    return make


@pytest.mark.parametrize("kind", [None, Inventor])
@pytest.mark.parametrize("at", [0, 4])
def test_a_continued_training_ends_in_the_same_bytes(
    at: int, kind: type[Inventor] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> Inventor | None:
        return None if kind is None else kind()

    closed, path = prepared(), tmp_path / "state.pt"
    settings = {"steps": 9, "learning_rate": 0.02, "mixup": True}
    whole, record = distilled(closed, live=again(), **settings)
    handler = signals.getsignal(signals.SIGINT)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(distill, "draw_batches", interrupting(at))
        distilled(closed, live=again(), checkpoint=str(path), **settings)
    assert signals.getsignal(signals.SIGINT) is handler
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]
    assert torch.load(path, weights_only=True)["training"]["step"] == at + 1
    continued, later = distilled(closed, live=again(), checkpoint=str(path), **settings)
    assert serialized(continued) == serialized(whole)
    assert (later.curve, later.kept_step, later.steps) == (record.curve, record.kept_step, 9)
    finished, last = distilled(closed, live=again(), checkpoint=str(path), **settings)
    assert serialized(finished) == serialized(whole)
    assert last.curve == record.curve


def test_the_state_is_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, path = prepared(), tmp_path / "state.pt"
    settings: dict[str, Any] = {"steps": 6, "learning_rate": 0.02, "checkpoint": str(path)}

    def failing(samples: Samples, chosen: Tensor, batch: int, rng: torch.Generator) -> Batches:
        yield from itertools.islice(draw_batches(samples, chosen, batch, rng), 4)
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(distill, "draw_batches", failing)
        distilled(closed, **settings)
    assert not path.exists()
    monkeypatch.setattr(distill, "_KEPT_EVERY", 0.0)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(distill, "draw_batches", failing)
        distilled(closed, **settings)
    assert torch.load(path, weights_only=True)["training"]["step"] == 4
    continued, _ = distilled(closed, **settings)
    path.unlink()
    assert serialized(continued) == serialized(distilled(closed, **settings)[0])


def test_a_second_interruption_is_obeyed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(samples: Samples, chosen: Tensor, batch: int, rng: torch.Generator) -> Batches:
        for _ in range(2):
            signals.raise_signal(signals.SIGINT)
        yield from draw_batches(samples, chosen, batch, rng)

    monkeypatch.setattr(distill, "draw_batches", impatient)
    with pytest.raises(KeyboardInterrupt):
        distilled(prepared(), checkpoint=str(tmp_path / "state.pt"), steps=3)
    assert list(tmp_path.iterdir()) == []


class Stranger:
    """An object that a checkpoint has no use for."""


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    closed, path = prepared(), tmp_path / "state.pt"
    distilled(closed, steps=1, checkpoint=str(path))
    kept = path.read_bytes()
    live: dict[str, Any] = {"live": Inventor()}
    for other, settings in (
        (prepared(bits=4), {}),
        (closed, {"temperature": 5.0}),
        (closed, {"seed": 1}),
        (closed, live),
    ):
        with pytest.raises(ConfigError, match="another model or other settings: delete it or name another file"):
            distilled(other, **{"steps": 1, "checkpoint": str(path), **settings})
    assert path.read_bytes() == kept
    for content, words in (({"a": 1}, "no checkpoint"), (Stranger(), "cannot be read"), (None, "cannot be read")):
        torch.save(content, path) if content is not None else path.write_bytes(b"not a checkpoint")
        with pytest.raises(ConfigError, match=words):
            distilled(closed, steps=1, checkpoint=str(path))


def test_a_checkpoint_in_no_folder_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        distilled(prepared(), steps=1, checkpoint=str(tmp_path / "none" / "state.pt"))


def test_outputs_that_are_no_classes_are_learned_by_their_squared_error() -> None:
    closed = prepared(NETWORKS["tokens"], 32)
    _, record = distilled(closed, steps=10, learning_rate=0.02)
    assert record.agreement_before is None and record.agreement_after is None
    assert record.divergence_after < record.divergence_before
    assert "decisions" not in record.words()


class Ones:
    """Live samples that are all ones, and the student handed to them."""

    description = "ones"

    def __init__(self) -> None:
        self.counts, self.student = list[int](), None

    def take(self, count: int, student: Any, rng: torch.Generator) -> dict[str, Tensor]:
        self.counts.append(count)
        self.student = student
        return {"x": torch.ones(count, 2, 6, 6)}

    def measured(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("nothing to restore")


@pytest.mark.parametrize(("share", "count"), [(0.25, 8), (0.5, 16), (0.75, 24), (1.0, 32)])
def test_a_share_of_each_batch_is_live(share: float, count: int) -> None:
    live, rng = Ones(), torch.Generator().manual_seed(0)
    fixed = iter([{"x": torch.zeros(32, 2, 6, 6)}])
    batch = next(mix_in_live(fixed, 32, live, share, live.take, rng))["x"]
    assert batch.flatten(1).mean(1).tolist() == [1.0] * count + [0.0] * (32 - count)
    assert live.counts == [count]
    assert len(list(fixed)) == int(share == 1.0)


@pytest.mark.parametrize(("batch", "share"), [(1, 0.25), (1, 0.75), (4, 0.1), (32, 0.9)])
def test_a_share_that_is_no_whole_number_of_samples_is_kept_on_average(batch: int, share: float) -> None:
    live, rng = Ones(), torch.Generator().manual_seed(0)
    fixed = itertools.repeat({"x": torch.zeros(batch, 2, 6, 6)})
    made = mix_in_live(fixed, batch, live, share, live.take, rng)
    counts = [int(next(made)["x"].mean((1, 2, 3)).sum()) for _ in range(2000)]
    assert set(counts) == {int(share * batch), int(share * batch) + 1}
    assert np.mean(counts) == pytest.approx(share * batch, abs=0.05)  # five deviations of the mean
    assert live.counts == [count for count in counts if count]


def test_every_sample_of_a_feed_is_learned_on_beside_live_ones() -> None:
    live, rng = Ones(), torch.Generator().manual_seed(0)
    feed = 2.0 + torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 2, 6, 6)
    made = mix_in_live(itertools.repeat({"x": feed}), 8, live, 0.5, live.take, rng)
    rows = [next(made)["x"][4:].mean((1, 2, 3)).tolist() for _ in range(40)]
    assert all(len(set(row)) == 4 for row in rows)
    assert {value for row in rows for value in row} == set(range(2, 10))


def test_live_samples_of_a_fixed_batch_size_fill_it_up() -> None:
    live, closed = Ones(), prepared(fixed=8)
    _, record = distilled(closed, live=live, steps=2, live_share=0.75)
    assert (live.counts, record.batch) == ([6, 6], 8)


def test_live_samples_meet_the_student_as_it_is_and_leave_no_gradient_in_it() -> None:
    closed = prepared()
    block = whole_network(closed.model, closed.plan, find_batched_values(closed.teacher, closed.samples))
    student = student_of(closed, block, below=99)
    x = closed.samples.inputs["x"][:8].clone().requires_grad_()
    frozen, learning = (run({"x": x}, ("y",))["y"] for run in (student.run_frozen, student.run_quantized))
    assert torch.equal(frozen, learning)
    frozen.sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0
    numbers = [number for group in student.optimizer(LearningRates()).param_groups for number in group["params"]]
    assert numbers and all(number.grad is None for number in numbers)
    with torch.no_grad():
        numbers[0].add_(3.0)
    assert not torch.equal(student.run_frozen({"x": x}, ("y",))["y"], frozen)


def test_what_live_samples_measure_stands_in_the_curve() -> None:
    live = Inventor()
    _, record = distilled(prepared(), live=live, steps=4)
    assert record.curve[0].live is None
    sizes = [point.live["size"] for point in record.curve[1:] if point.live is not None]
    assert len(sizes) == 4 and sizes == sorted(sizes) and sizes[-1] == float(live.size)
    assert len(set(live.gradients)) == 4


def test_a_fixed_batch_size_is_kept() -> None:
    closed = prepared(fixed=8)
    _, record = distilled(closed, steps=2)
    assert record.batch == 8
    batch = next(draw_batches(closed.samples, torch.arange(16, 48), 8, torch.Generator().manual_seed(0)))["x"]
    starts = [i for i in range(16, 48, 8) if torch.equal(batch, closed.samples.inputs["x"][i : i + 8])]
    assert len(starts) == 1


def test_the_maps_between_blocks_are_compared_as_weighted() -> None:
    closed = prepared()
    graph, start = started(closed)
    block = whole_network(closed.model, closed.plan, find_batched_values(closed.teacher, closed.samples))
    assert (block.inputs, block.outputs, block.layers) == (("x",), ("y",), closed.plan.weights)
    student = student_of(closed, block, below=99)
    feed = {"x": closed.samples.inputs["x"][:8]}
    with_maps, without = (
        DistillationLoss(
            student=student,
            teacher=closed.teacher,
            outputs=("y",),
            features=maps,
            config=DistillConfig(feature_weight=50.0),
        )(feed)
        for maps in (("r0",), ())
    )
    constants = start.feeds(closed.plan.weights, closed.plan)
    made = graph.run({**feed, **constants}, ("r0", "y"), replace=start.replacements())
    wanted = closed.teacher.run(feed, ("r0", "y"))
    assert float(without.detach()) == pytest.approx(
        float(softened_divergence(made["y"], wanted["y"], 4.0)), rel=1e-3, abs=1e-5
    )
    assert float((with_maps - without).detach()) == pytest.approx(
        50 * float(attention_distance(made, wanted, ["r0"])), rel=1e-2, abs=1e-5
    )
    with_maps.backward()
    numbers = [*(code.logits for code in student.codes.values()), *student.shifts.values(), *student.growths.values()]
    assert {*student.codes} == {"w0", "w1", "w2"}  # 8 bits would be there as well
    assert all(number.grad is not None and number.grad.abs().sum() > 0 for number in numbers)


def test_layers_and_activations_of_8_bits_are_trained_as_well() -> None:
    closed = prepared(edge_bits=8)
    model, record = distilled(closed, steps=4)
    assert record.kept_step > 0
    for name in ("w0_scale", "w1_scale", "w2_scale", "x_scale", "r0_scale"):
        assert constant(model, name) != constant(closed.quantized, name)


def constant(model: ir.Model, name: str) -> bytes:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.tobytes()


def test_samples_are_mixed_two_by_two() -> None:
    inputs = {"a": torch.arange(6.0).reshape(6, 1, 1), "b": 10 * torch.arange(6.0).reshape(6, 1)}
    made = mix_up(inputs, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    partner, share = torch.randperm(6, generator=rng), torch.rand(6, generator=rng)
    want = share * torch.arange(6.0) + (1 - share) * partner
    torch.testing.assert_close(made["a"].flatten(), want)
    torch.testing.assert_close(made["b"].flatten(), 10 * want)


def test_perturbed_copies_climb_by_the_sign_of_the_gradient() -> None:
    x, ids = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True), torch.tensor([[1, 2]])
    (x * torch.tensor([5.0, -0.1, 0.0])).sum().backward()
    made = perturb({"x": x, "ids": ids}, 0.1)
    step = 0.1 * x.detach().std(correction=0)
    torch.testing.assert_close(made["x"], x.detach() + step * torch.tensor([[1.0, -1.0, 0.0]]))
    assert made["ids"] is not None and torch.equal(made["ids"], ids)
    assert not made["x"].requires_grad


@pytest.mark.parametrize(
    ("network", "settings", "error", "words"),
    [
        (
            "embedded",
            {"mixup": True},
            ConfigError,
            r"distill.mixup wants inputs of real numbers, got ids \(torch.int64",
        ),
        ("one layer", {"feature_weight": 1.0}, ConfigError, "distill.feature_weight compares maps"),
    ],
)
def test_what_a_network_cannot_have_is_refused(
    network: str, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ready(prepared(NETWORKS[network], 32), **settings)


def test_a_network_without_real_outputs_is_refused() -> None:
    text = "decides (float[N,6] x) => (int64[N] y) <float[6,3] w, float[3] b> {\n"
    text += "[gemm] s = Gemm(x, w, b)\n[choose] y = ArgMax<axis=1, keepdims=0>(s)\n}"
    with pytest.raises(QuantizationError, match="distillation wants an output of real numbers"):
        ready(prepared(text, 32))


def test_progress_is_counted_and_continued() -> None:
    budget = Steps(count=0)
    budget.plan([])
    assert list(pace(budget, 4, 0, 0.0)) == [0.0, 0.25, 0.5, 0.75]
    assert list(pace(budget, 4, 2, 0.25)) == [0.5, 0.75]
    assert list(pace(budget, 4, 4, 0.75)) == []


def test_progress_ends_with_the_time() -> None:
    class Quarters(LearningBudget):
        def pace(self, block: int) -> Iterator[float]:
            return iter([0.0, 0.25, 0.5, 0.75])

    budget = Quarters(effort="balanced", deadline=1.0)
    assert list(pace(budget, None, 0, 0.0)) == [0.0, 0.25, 0.5, 0.75]
    assert list(pace(budget, None, 9, 0.5)) == [0.5, 0.625, 0.75, 0.875]
    assert list(pace(budget, 2, 0, 0.0)) == [0.0, 0.5]
    assert list(itertools.islice(pace(budget, 100, 0, 0.0), 9)) == [0.0, 0.25, 0.5, 0.75]


def test_points_are_compared_by_distance_and_not_by_decisions_on_few_samples() -> None:
    def point(share: float | None, distance: float) -> CurvePoint:
        return CurvePoint(step=0, loss=None, agreement=share, divergence=distance)

    assert not point(0.9, 1.0).beats(point(0.8, 0.5))
    assert point(0.8, 0.4).beats(point(0.9, 0.5))
    assert point(0.9, 0.4).beats(point(0.9, 0.5))
    assert not point(0.9, 0.5).beats(point(0.9, 0.5))
    assert point(None, 0.4).beats(point(None, 0.5))
    assert not point(1.0, float("nan")).beats(point(0.9, 0.5))
