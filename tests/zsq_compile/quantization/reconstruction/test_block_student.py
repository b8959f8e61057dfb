import functools
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.models import parse
from tests.zsq_compile.quantization.learnable import (
    NETWORKS,
    ClosedForm,
    blocks_of,
    closed_form,
    signal,
    started,
    student_of,
)
from zsq_compile.config.compile import LearnedRounding
from zsq_compile.quantization.reconstruction.block_student import BlockStudent, Dropper, LearningRates, learn
from zsq_compile.quantization.reconstruction.blocks import Block
from zsq_compile.quantization.reconstruction.values import QuantizedValues

STILL = LearningRates(codes=0.0, weight_steps=0.0, scales=0.0, biases=0.0)


@functools.cache
def prepared(name: str, **options: Any) -> ClosedForm:
    proto = parse(NETWORKS[name])
    return closed_form(proto, signal(32, proto), **{"bits": 3, "act_bits": 4, "edge_bits": 4, **options})


def students(
    closed: ClosedForm, rounding: LearnedRounding = "lsq", learned: frozenset[str] = frozenset()
) -> list[tuple[Block, BlockStudent]]:
    return [(block, student_of(closed, block, rounding, learned)) for block in blocks_of(closed)]


@functools.cache
def both_inputs(closed: ClosedForm, count: int = 6) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What crosses between blocks, in the quantized and in the float network."""
    names = list(dict.fromkeys(name for block in blocks_of(closed) for name in (*block.inputs, *block.outputs)))
    graph, start = started(closed)
    feeds = {name: value[:count] for name, value in closed.samples.inputs.items()}
    with torch.no_grad():
        quantized = graph.run(
            {**feeds, **start.feeds(closed.plan.weights, closed.plan)}, names, replace=start.replacements()
        )
        return quantized, closed.teacher.run(feeds, names)


def of(values: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: values[name] for name in names}


@functools.cache
def dropper(keep: float) -> Dropper:
    return Dropper(torch.Generator().manual_seed(0), keep, torch.float32)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (4, 3, 5), (2, 3, 8, 9), (1, 2, 2, 2, 3)], ids=str)
def test_the_dropper_draws_0s_and_1s_of_any_shape(shape: tuple[int, ...]) -> None:
    drawn = dropper(0.5)
    for kind in (torch.float32, torch.bfloat16):
        mask = drawn.like(torch.empty(shape, dtype=kind))
        assert mask.shape == shape
        assert mask.dtype == kind
        assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_the_dropper_draws_anew_and_in_the_memory_order_of_images() -> None:
    drawn = Dropper(torch.Generator().manual_seed(0), 0.25, torch.float32)
    masks = [drawn.like(torch.empty(8, 16, 20, 20)) for _ in range(3)]
    assert masks[0].is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(masks[0], masks[1])
    # 51,200 draws: five standard deviations are less than 0.01
    assert [float(mask.mean()) for mask in masks] == pytest.approx([0.25] * 3, abs=0.01)
    again = Dropper(torch.Generator().manual_seed(0), 0.25, torch.float32)
    assert all(torch.equal(again.like(mask), mask) for mask in masks)


def test_the_dropper_has_enough_for_a_tensor_larger_than_its_pool() -> None:
    mask = dropper(0.5).like(torch.empty(9, 8, 256, 256, dtype=torch.bfloat16))
    assert mask.shape == (9, 8, 256, 256)
    assert float(mask.float().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_at_the_start_a_block_does_what_its_closed_form_does(name: str) -> None:
    closed = prepared(name, narrow=True)  # 8 bits inside a block are left out while it is learned
    quantized, floats = both_inputs(closed)
    for block, student in students(closed):
        got = student.run(of(quantized, block.inputs), of(floats, block.inputs), dropper(1.0))
        for output in block.outputs:
            torch.testing.assert_close(got[output], quantized[output], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "padded"])  # codes that move are never dropped
def test_a_block_that_drops_all_has_quantized_weights_only(name: str) -> None:
    closed = prepared(name)
    quantized, floats = both_inputs(closed)
    _, start = started(closed)
    for block, student in students(closed):
        got = student.run(of(quantized, block.inputs), of(floats, block.inputs), dropper(0.0))
        constants = {site.initializer: start.weights[site.initializer] for site in block.layers}
        constants |= {
            str(site.bias): start.biases[str(site.bias)] for site in block.layers if site.bias in start.biases
        }
        wanted = closed.teacher.run(of(floats, block.inputs), block.outputs, replace=constants)
        for output in block.outputs:
            torch.testing.assert_close(got[output].detach(), wanted[output], rtol=1e-5, atol=1e-5)


def test_half_of_what_enters_a_layer_is_dropped() -> None:
    closed = prepared("chain")
    quantized, floats = both_inputs(closed)
    _, (block, student), _ = students(closed)
    runs = [
        student.run(of(quantized, block.inputs), of(floats, block.inputs), drawn)["f"].detach()
        for drawn in (dropper(0.0), dropper(0.5), dropper(1.0))
    ]
    assert len({tuple(run.flatten().tolist()) for run in runs}) == 3


def test_activations_of_eight_bits_inside_a_block_are_left_in_float() -> None:
    closed = prepared("residual", act_bits=8, edge_bits=8)
    quantized, floats = both_inputs(closed)
    block, student = students(closed)[1]
    _, start = started(closed)
    constants = {site.initializer: start.weights[site.initializer] for site in block.layers}
    constants |= {str(site.bias): start.biases[str(site.bias)] for site in block.layers}
    wanted = closed.teacher.run(of(floats, block.inputs), block.outputs, replace=constants)["r2"]
    got = student.run(of(quantized, block.inputs), of(floats, block.inputs), dropper(0.0))["r2"]
    torch.testing.assert_close(got.detach(), wanted, rtol=1e-5, atol=1e-5)
    assert not student.growths


@pytest.mark.parametrize("rounding", get_args(LearnedRounding))
@pytest.mark.parametrize("name", ["residual", "inverted", "concat", "split", "long skip"])
def test_all_that_is_learned_gets_a_gradient(name: str, rounding: LearnedRounding) -> None:
    closed = prepared(name)
    quantized, floats = both_inputs(closed)
    seen: set[str] = set()
    for block, student in students(closed, rounding):
        outputs = student.run(of(quantized, block.inputs), of(floats, block.inputs), dropper(0.5))
        sum((outputs[name] - floats[name]).square().mean() for name in block.outputs).backward()  # type: ignore[union-attr]
        assert set(student.codes) == {site.initializer for site in block.layers}
        for code in student.codes.values():
            assert code.logits.grad is not None and bool((code.logits.grad != 0).any())
            assert (code.growth is None) == (rounding == "adaround")
            assert code.growth is None or (code.growth.grad is not None and bool((code.growth.grad != 0).any()))
        fresh = [number for group, number in student.growths.items() if group not in seen]  # else it is on its grid
        for number in (*student.shifts.values(), *fresh):
            assert number.grad is not None and bool((number.grad != 0).any())
        seen.update(student.growths)
        assert set(student.shifts) == {site.bias for site in block.layers}


@pytest.mark.parametrize("rounding", get_args(LearnedRounding))
@pytest.mark.parametrize("name", ["residual", "concat"])
def test_learning_at_no_rate_changes_nothing(name: str, rounding: LearnedRounding) -> None:
    closed = prepared(name)
    quantized, floats = both_inputs(closed)
    _, start = started(closed)
    told: list[int] = []
    for block, student in students(closed, rounding):

        def draw(block: Block = block) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
            return of(quantized, block.inputs), of(floats, block.inputs), of(floats, block.outputs)

        steps = learn(student, draw, squared, iter([0.0, 0.3, 0.6]), dropper(0.5), STILL, told.append)
        assert steps == 3
        same(start, student.values())
    assert told == [1] * 3 * len(blocks_of(closed))


def squared(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(outputs[name] - target).square().mean() for name, target in targets.items()]).sum()


def same(start: QuantizedValues, learned: QuantizedValues) -> None:
    for kind in ("weights", "steps", "biases", "scales"):
        for name, value in getattr(learned, kind).items():
            assert torch.equal(value, getattr(start, kind)[name]), (kind, name)
            assert not value.requires_grad


@pytest.mark.parametrize("rounding", get_args(LearnedRounding))
def test_learning_lowers_the_error_that_it_is_given(rounding: LearnedRounding) -> None:
    closed = prepared("residual", rounding="nearest")
    quantized, floats = both_inputs(closed, 32)
    block, student = students(closed, rounding)[1]

    def draw() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        return of(quantized, block.inputs), of(floats, block.inputs), of(floats, block.outputs)

    def error() -> float:
        with torch.no_grad():
            return squared(student.run(*draw()[:2], dropper(1.0)), draw()[2]).item()

    before = error()
    rates = LearningRates(codes=0.05, weight_steps=0.01, scales=0.01, biases=0.05)

    def relative(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        return squared(outputs, targets) / before

    # codes that jump come to rest as the rates fall to the end
    pace = (step / 400 for step in range(400)) if rounding == "lsq" else half_way(200)
    learn(student, draw, relative, pace, dropper(0.5), rates)
    assert error() < 0.8 * before


def half_way(steps: int) -> Any:
    """Before the regulariser of soft codes says more than the error."""
    return iter([0.5 * step / steps for step in range(steps)])


def test_the_rates_fall_along_half_a_cosine() -> None:
    closed = prepared("chain")
    quantized, floats = both_inputs(closed)
    block, student = students(closed)[1]
    seen: list[list[float]] = []
    optimizer = student.optimizer(LearningRates(codes=0.4, weight_steps=0.3, scales=0.2, biases=0.1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.3, 0.2, 0.1]
    student.optimizer = lambda rates: optimizer  # type: ignore[method-assign]

    def draw() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        return of(quantized, block.inputs), of(floats, block.inputs), of(floats, block.outputs)

    def note(steps: int) -> None:
        seen.append([group["lr"] for group in optimizer.param_groups])

    learn(student, draw, squared, iter([0.0, 0.5, 0.999999]), dropper(0.5), LearningRates(), note)
    assert seen[0] == [0.4, 0.3, 0.2, 0.1]
    assert seen[1] == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert seen[2] == pytest.approx([0.0] * 4, abs=1e-6)


def test_a_step_that_was_learned_before_is_not_learned_again() -> None:
    closed = prepared("concat")
    groups = [set(student.growths) for _, student in students(closed)]
    assert groups[0] == set()  # what enters the network has 8 bits
    shared = groups[1] & groups[2]
    assert shared  # Concat and MaxPool hand their scale on to the next block
    again = students(closed, learned=frozenset(shared))
    assert [set(student.growths) for _, student in again] == [found - shared for found in groups]


def test_a_value_that_crosses_and_is_read_on_the_way_is_learned_where_it_is_first_read() -> None:
    closed = prepared("long skip")
    found = students(closed)
    first = next(student for block, student in found if "r1" in block.values)
    assert "r1" in first.growths


def test_at_eight_bits_nothing_is_learnable() -> None:
    closed = prepared("residual", bits=8, act_bits=8, edge_bits=8)
    assert [student.learnable for _, student in students(closed)] == [False] * 4
    edges = prepared("residual", bits=4, act_bits=8, edge_bits=8)
    assert [student.learnable for _, student in students(edges)] == [False, True, True, False]
    only_activations = prepared("residual", bits=8, act_bits=4, edge_bits=8)
    assert [student.learnable for _, student in students(only_activations)] == [False, True, True, False]


def test_the_regulariser_is_a_mean_over_all_codes() -> None:
    closed = prepared("residual")
    _, student = students(closed, "adaround")[1]
    assert student.regulariser(0.1) is None
    push = student.regulariser(0.9)
    assert push is not None
    assert 0 < push.item() < 1
    assert 0 < student.unsettled() < 1
    with torch.no_grad():
        for code in student.codes.values():
            code.logits.fill_(9.0)
    settled = student.regulariser(0.9)
    assert settled is not None
    assert settled.item() == 0
    assert student.unsettled() == 0
    assert students(closed, "lsq")[1][1].regulariser(0.9) is None
