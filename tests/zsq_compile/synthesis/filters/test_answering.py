"""A detector by a matched filter: dead leaves never show what it looks for, moved samples do."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, seeded, spec
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.find_answers import AnsweringHead, find_answers
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Silent
from zsq_compile.synthesis.filters.answering import find_silent
from zsq_compile.synthesis.filters.raise_answers import draw_goals, raise_answers
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.make_generator import make_generator
from zsq_compile.synthesis.task import SynthesisTask

SIDE, COUNT = 32, 16
SYMMETRIC = given_preprocessing(3, input_range=(-1.0, 1.0))


def detector(threshold: float = 0.6, batch: str = "N") -> TorchGraph:
    """Sigmoid of how far the match with a red blob, -1 to 1 on pixels of -1 to 1, lies above a threshold."""
    rows, columns = np.mgrid[-3.5:4.0, -3.5:4.0]
    blob = np.exp(-(np.hypot(rows, columns) ** 2) / 8.0) * np.array([1.0, -1.0, -1.0])[:, None, None]
    text = f"""
        finder (float[{batch},3,{SIDE},{SIDE}] x) => (float[{batch},1,7,7] found)
        <float[1,3,8,8] blob, float[1] bias, float[1] gain>
        {{ match = Conv<strides=[4,4]>(x, blob, bias) logits = Mul(match, gain) found = Sigmoid(logits) }}
        """
    weights = {
        "blob": np.float32(blob / np.abs(blob).sum())[None],
        "bias": np.float32([-threshold]),
        "gain": np.float32([12.0]),
    }
    return TorchGraph(ir.from_proto(models.parse(text, weights=weights)))


def made(teacher: TorchGraph, share: float, batch: int | None = None) -> SyntheticSet:
    inputs = (spec(batch, 3, SIDE, SIDE),)
    generator = make_generator(PriorConfig(), inputs, SYMMETRIC, answering_share=share, effort="best")
    return generator.synthesize(teacher, NO_STATISTICS, COUNT, seeded())


def found(teacher: TorchGraph, samples: torch.Tensor, feed: int = COUNT) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([teacher.run({"x": part})["found"] for part in samples.split(feed)])


@pytest.mark.parametrize("batch", [None, 2])
def test_a_share_of_the_samples_answers_and_the_rest_stays(batch: int | None) -> None:
    teacher = detector(0.6, "N" if batch is None else str(batch))
    plain, some = (made(teacher, share, batch).inputs["x"] for share in (0.0, 0.25))
    assert float(found(teacher, plain, batch or COUNT).max()) < 0.5, "nothing is found in the start"
    moved = (plain != some).flatten(1).any(1)
    assert int(moved.sum()) == COUNT // 4
    if batch is not None:
        assert torch.equal(moved[0::2], moved[1::2]), "whole feeds"
    answers = found(teacher, some, batch or COUNT).flatten(1).amax(1)
    assert (answers[moved] > 0.55).all() and (answers[~moved] < 0.5).all()
    assert some.min() >= -1.0 and some.max() <= 1.0
    assert "4 of them answering" in made(teacher, 0.25, batch).algorithm


def test_too_few_samples_to_share_stay_as_they_are() -> None:
    inputs = (spec(None, 3, SIDE, SIDE),)
    plain, some = (
        make_generator(PriorConfig(), inputs, SYMMETRIC, answering_share=share, effort="best").synthesize(
            detector(), NO_STATISTICS, 2, seeded()
        )
        for share in (0.0, 0.25)
    )
    assert torch.equal(plain.inputs["x"], some.inputs["x"]) and some.algorithm == plain.algorithm


def test_whole_numbers_beside_a_picture_are_not_moved() -> None:
    text = f"""
        sized (float[N,3,{SIDE},{SIDE}] x, int64[N,2] size) => (float[N,1,8,8] found, float[N,2] area)
        <float[1,3,4,4] w, float[1] b>
        {{ l = Conv<strides=[4,4]>(x, w, b) found = Sigmoid(l) area = Cast<to=1>(size) }}
        """
    weights = {"w": np.full((1, 3, 4, 4), 0.1, np.float32), "b": np.float32([-9.0])}
    teacher = TorchGraph(ir.from_proto(models.parse(text, weights=weights)))
    size = InputSpec(name="size", shape=(None, 2), dtype=np.dtype(np.int64), kind="size", usual=(32.0, 48.0))
    generator = make_generator(PriorConfig(), (spec(None, 3, SIDE, SIDE), size), SYMMETRIC, answering_share=0.25)
    some = generator.synthesize(teacher, NO_STATISTICS, COUNT, seeded())
    assert "4 of them answering" in some.algorithm
    assert some.inputs["size"].unique(dim=0).tolist() == [[32, 48]]


def test_the_same_seed_moves_them_alike() -> None:
    teacher = detector()
    assert torch.equal(made(teacher, 0.25).inputs["x"], made(teacher, 0.25).inputs["x"])


def test_a_network_that_answers_anyway_gets_the_set_as_it_is() -> None:
    teacher = detector(-0.5)
    plain, some = (made(teacher, share) for share in (0.0, 0.25))
    assert float((found(teacher, plain.inputs["x"]).flatten(1).amax(1) > 0.5).float().mean()) > 0.25
    assert torch.equal(plain.inputs["x"], some.inputs["x"])
    assert some.algorithm == plain.algorithm


@pytest.mark.parametrize("shape", ["N,3", "N,3,1,1"])
def test_a_classifier_that_sees_one_class_in_all_samples_gets_the_set_as_it_is(shape: str) -> None:
    four = shape.count(",") == 3
    last = "c = Conv(p, w, b)" if four else "f = Flatten(p) c = Gemm<transB=1>(f, w, b)"
    sizes = "3,3,1,1" if four else "3,3"
    text = f"""
        classifier (float[N,3,{SIDE},{SIDE}] x) => (float[{shape}] y) <float[{sizes}] w, float[3] b>
        {{ p = GlobalAveragePool(x) {last} y = Softmax<axis=1>(c) }}
        """
    weights = {"w": np.eye(3, dtype=np.float32).reshape((3, 3, 1, 1) if four else (3, 3)), "b": np.float32([0, 9, 0])}
    teacher = TorchGraph(ir.from_proto(models.parse(text, weights=weights)))
    plain, some = (made(teacher, share) for share in (0.0, 0.5))
    with torch.no_grad():
        classes = teacher.run({"x": plain.inputs["x"]})["y"].flatten(1).argmax(1)
    assert (classes == 1).all(), "nothing else is seen, as behind a head that is silent"
    assert torch.equal(plain.inputs["x"], some.inputs["x"]) and some.algorithm == plain.algorithm


def test_places_that_were_asked_for_answer_as_firmly_as_that() -> None:
    teacher, rng = detector(), seeded(3)
    plain = made(teacher, 0.0).inputs["x"]
    heads = find_silent(teacher, {"x": plain}, 0.25).silent
    task = SynthesisTask(
        name="test",
        teacher=teacher,
        inputs=(spec(None, 3, SIDE, SIDE),),
        preprocessing={"x": SYMMETRIC},
        layers=(),
        effort="best",
        progress=Silent(),
    )
    pixels = {"x": SYMMETRIC.decode(plain[:6])}
    with torch.no_grad():
        goals = draw_goals(heads, teacher.run({"x": plain[:6]}, [heads[0].logits]), rng)
    asked = torch.isfinite(goals[0].odds)
    assert asked.flatten(1).any(1).all() and 1 <= int(asked.flatten(1).sum(1).max()) <= 6
    assert goals[0].odds[asked].min() >= 0.5 and goals[0].odds[asked].max() <= 5.0
    moved, reached = raise_answers(task, pixels, ["x"], goals, rng, 100)
    assert reached == 6
    with torch.no_grad():
        odds = heads[0].answers(teacher.run(task.encode(moved), [heads[0].logits])[heads[0].logits])
    missing = (goals[0].odds - odds)[asked]
    assert float(missing.max()) < 3.0, "but for shifts by a pixel"
    assert abs(float(missing.median())) < 1.0, "and no firmer, though 4.8 can be reached"


def find(text: str, weights: dict[str, np.ndarray], feeds: dict[str, torch.Tensor]) -> list[AnsweringHead]:
    return find_answers(TorchGraph(ir.from_proto(models.parse(text, weights=weights))), [feeds])


def test_boxes_of_a_list_with_a_background_are_found() -> None:
    text = """
        ssd (float[N,4,5,5] x) => (float[N,25,3] scores, float[N,25,4] boxes) <float[3,4,1,1] w, float[3] b, int64[3] s>
        { c = Conv(x, w, b) t = Transpose<perm=[0,2,3,1]>(c) l = Reshape(t, s) scores = Softmax<axis=-1>(l)
          q = Transpose<perm=[0,2,3,1]>(x) four = Constant<value = int64[3] {0, -1, 4}>() boxes = Reshape(q, four) }
        """
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(3, 4, 1, 1)).astype(np.float32),
        "b": np.float32([0.0, 9.0, 0.0]),
        "s": np.int64([0, -1, 3]),
    }
    feeds = {"x": torch.randn(4, 4, 5, 5, generator=seeded())}
    (head,) = find(text, weights, feeds)
    assert (head.output, head.kind, head.nothing) == ("scores", "classes or nothing", 1)
    assert head.seldom.tolist() == [True, False, True] and head.positions == 25
    model = TorchGraph(ir.from_proto(models.parse(text, weights=weights)))
    values = model.run(feeds, [head.logits, "scores"])
    scores = values["scores"].double()
    expected = (scores / (1.0 - scores)).log()[..., [0, 2]]
    assert torch.allclose(head.answers(values[head.logits])[..., [0, 2]].double(), expected, atol=1e-3)


def test_frames_are_samples_also_where_another_axis_holds_them() -> None:
    text = """
        voice (float[T,6] x) => (float[T] speech) <float[6,1] w, float[1] b, int64[1] flat, int64[3] s>
        { m = MatMul(x, w) a = Add(m, b) r = Reshape(a, s) p = Sigmoid(r) speech = Reshape(p, flat) }
        """
    weights = {
        "w": np.ones((6, 1), np.float32),
        "b": np.float32([-20.0]),
        "flat": np.int64([-1]),
        "s": np.int64([1, 1, -1]),
    }
    (head,) = find(text, weights, {"x": torch.randn(8, 6, generator=seeded())})
    assert (head.kind, head.samples, head.positions) == ("probability", 2, 1)


@pytest.mark.parametrize(
    "last",
    [
        "g = Sigmoid(c) y = Mul(c, g)",  # a gate of features
        "y = Relu(c)",
        "y = Sigmoid(c)",  # a mask: as often as not
    ],
)
def test_what_is_no_seldom_answer_is_not_found(last: str) -> None:
    text = f"net (float[N,3,8,8] x) => (float[N,2,8,8] y) <float[2,3,1,1] w> {{ c = Conv(x, w) {last} }}"
    weights = {"w": np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)}
    assert find(text, weights, {"x": torch.randn(6, 3, 8, 8, generator=seeded())}) == []
