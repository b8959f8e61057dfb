import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from tests import models
from tests.zsq_compile.frontend.quick import load_quickly
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, seeded, spec, teacher_of, trained_on
from zsq_compile import inspect_model
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.preprocessing import find
from zsq_compile.synthesis.preprocessing.arithmetic import find_by_arithmetic
from zsq_compile.synthesis.preprocessing.find import infer_on_images, rank_on_images
from zsq_compile.synthesis.preprocessing.rank import rank_candidates
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

ASSETS = Path(os.environ.get("ZSQ_ASSETS", Path(__file__).resolve().parents[4] / "../shared/assets")) / "models"


@pytest.mark.parametrize("expected", usual_preprocessings(3), ids=lambda one: one.name)
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_the_preprocessing_that_a_network_was_trained_with_is_inferred(
    expected: Preprocessing, batch: int | None
) -> None:
    teacher, statistics = teacher_of(trained_on(expected.encode(prior_images(64, 3, 20, 20, seeded(99))).numpy()))
    found = infer_on_images(teacher, statistics, spec(batch, 3, 20, 20), seeded())
    assert found.name == expected.name
    assert (found.mean, found.std, found.channel_order) == (expected.mean, expected.std, expected.channel_order)
    assert found.source == "inferred" and found.is_certain
    assert found.margin is not None and found.margin > 1.5


@pytest.mark.parametrize("expected", usual_preprocessings(1), ids=lambda one: one.name)
def test_the_preprocessing_of_gray_images_is_inferred(expected: Preprocessing) -> None:
    teacher, statistics = teacher_of(trained_on(expected.encode(prior_images(64, 1, 20, 20, seeded(99))).numpy()))
    assert infer_on_images(teacher, statistics, spec(None, 1, 20, 20), seeded()).name == expected.name


def test_large_images_are_tried_at_a_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = prior_images(8, 3, 200, 160, seeded(99)).numpy() * 255.0
    teacher, statistics = teacher_of(trained_on(pictures))
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr(find, "prior_images", lambda *args: (sizes.append(args[:4]), prior_images(*args))[1])
    assert infer_on_images(teacher, statistics, spec(None, 3, 200, 160), seeded()).name == "byte"
    assert sizes == [(16, 3, 96, 80)]


def test_a_network_that_runs_at_its_own_size_only_is_tried_at_that() -> None:
    """Its first layer reads all pixels of 128 x 128 images, and no fewer."""
    images = prior_images(16, 3, 128, 128, seeded(99)).numpy()
    weights = np.random.default_rng(0).normal(size=(3 * 128 * 128, 8)) / 128
    seen = images.reshape(16, -1) @ weights
    model = models.parse(
        """
        net (float[N,3,128,128] x) => (float[N,8] y)
        <int64[2] s = {-1, 49152}, float[49152,8] w, float[8] scale, float[8] shift, float[8] mean, float[8] variance>
        { f = Reshape(x, s) c = MatMul(f, w) [bn] y = BatchNormalization(c, scale, shift, mean, variance) }
        """,
        weights={"w": weights, "mean": seen.mean(0), "variance": seen.var(0)},
    )
    teacher, statistics = teacher_of(model)
    found = infer_on_images(teacher, statistics, spec(None, 3, 128, 128), seeded())
    assert (found.name, found.source) == ("unit", "inferred")


def test_without_statistics_preprocessing_is_assumed() -> None:
    text = "net (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }"
    teacher, _ = teacher_of(models.parse(text))
    found = rank_on_images(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded())
    assert (found.best.source, found.best.margin, found.is_open) == ("assumed", None, True)


@pytest.mark.parametrize("size", [0.1, 300.0])
def test_one_layer_tells_too_little_to_outweigh_what_is_usual(size: float) -> None:
    text = "net (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4] b> { y = Conv(x, w, b) }"
    teacher, _ = teacher_of(models.parse(text, weights={"b": size * np.ones(4)}))
    found = infer_on_images(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded())
    assert (found.name, found.source, found.margin) == ("imagenet", "assumed", None)


@pytest.mark.parametrize(
    ("opening", "name"),
    [
        ("d = Div(x, k)", "byte"),
        ("d = Mul(x, tiny)", "byte"),
        ("e = Add(x, zero) d = Mul(e, tiny)", "byte"),
        ("d = Sub(x, middle)", "byte"),
        ("d = Sub(x, half)", "unit"),
        ("d = Relu(x)", None),
        ("e = Mul(x, spread) d = Add(e, shift)", "imagenet"),  # ImageNet's numbers to [-1, 1], as Inception has it
        ("e = Sub(x, mean) d = Div(e, deviation)", "unit"),
        ("e = Div(x, deviation) d = Mul(e, deviation)", None),  # nothing in effect
        ("d = Mul(x, gain)", None),  # a factor that the layer behind it may undo
    ],
)
def test_a_graph_that_scales_its_input_itself_tells_what_it_takes(opening: str, name: str | None) -> None:
    model = models.parse(
        f"""
        net (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float k = {{255.0}}, float zero = {{0.0}}, float tiny = {{0.0039}}, float half = {{0.5}},
         float[1] middle = {{127.5}}, float[1,3,1,1] spread = {{0.458,0.448,0.45}}, float gain = {{4.5}},
         float[1,3,1,1] shift = {{-0.03,-0.088,-0.188}}, float[1,3,1,1] deviation = {{0.229,0.224,0.225}},
         float[1,3,1,1] mean = {{0.485,0.456,0.406}}, float[4,3,3,3] w>
        {{ {opening} y = Conv<pads=[1,1,1,1]>(d, w) }}
        """
    )
    found = find_by_arithmetic(network_of(model))
    assert (None if found is None else found.name) == name
    if name is not None:
        assert rank_candidates(network_of(model), NO_STATISTICS).best.name == name


def network_of(model: onnx.ModelProto) -> TrialNetwork:
    rng = seeded()
    return TrialNetwork(
        model=teacher_of(model)[0].model,
        spec=spec(None, 3, 8, 8),
        draw_images=lambda count, height, width: prior_images(count, 3, height, width, rng).numpy(),
        others={},
    )


def by_brightness(*, middle: float, gain: float, producer: str = "") -> TorchGraph:
    """Two classes: whether the mean is farther from 0 than ``middle``, the surer the larger ``gain``."""
    model = models.parse(
        """
        bright (float[N,3,8,8] x) => (float[N,2] logits) <float[3,2] w, float[2] b, int64[2] axes = {2, 3}>
        { m = ReduceMean<keepdims=0>(x, axes) a = Abs(m) logits = Gemm(a, w, b) }
        """,
        weights={"w": np.array([[gain / 3, 0.0]] * 3), "b": np.array([-gain * middle, 0.0])},
    )
    model.producer_name = producer
    return teacher_of(model)[0]


@pytest.mark.parametrize("batch", [None, 3])
def test_decisions_that_differ_on_small_inputs_outweigh_the_producer(batch: int | None) -> None:
    teacher = by_brightness(middle=0.7, gain=10.0, producer="CNTK")
    found = infer_on_images(teacher, NO_STATISTICS, spec(batch, 3, 8, 8), seeded())
    assert (found.name, found.source, found.margin) == ("imagenet", "assumed", None)


def test_where_decisions_tell_nothing_the_producer_does() -> None:
    for producer, name in (("CNTK", "byte"), ("pytorch", "imagenet")):
        teacher = by_brightness(middle=0.0, gain=0.0, producer=producer)
        found = infer_on_images(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded())
        assert (found.name, found.source, found.margin) == (name, "assumed", None)


def test_other_inputs_are_fed_and_a_network_that_cannot_be_run_is_assumed() -> None:
    text = """
    net (float[N,3,8,8] x, float[N,4] v) => (float[N,4,1,1] y)
    <float[4,3,8,8] w, float[4] one = {1.0,1.0,1.0,1.0}, float[4] zero = {0.0,0.0,0.0,0.0}, float[4] mean,
     float[4] variance, int64[4] s = {0, 4, 1, 1}>
    { c = Conv(x, w) r = Reshape(v, s) a = Add(c, r) y = BatchNormalization(a, one, zero, mean, variance) }
    """
    weights = np.random.default_rng(0).normal(size=(4, 3, 8, 8))
    images = prior_images(64, 3, 8, 8, seeded(99)).numpy()
    seen = np.einsum("nchw,kchw->nk", images, weights) + 100.0
    model = models.parse(text, weights={"w": weights, "mean": seen.mean(0), "variance": seen.var(0)})
    teacher, statistics = teacher_of(model)
    found = infer_on_images(teacher, statistics, spec(None, 3, 8, 8), seeded(), {"v": torch.full((16, 4), 100.0)})
    assert (found.name, found.source) == ("unit", "inferred")
    assert infer_on_images(teacher, statistics, spec(None, 3, 8, 8), seeded()).source == "assumed"


WILD = ("ultraface_rfb320", "pfld_landmark", "mnist_cntk", "deeplab_mnv2_dm05_513")


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the real models of ZSQ_ASSETS are not here")
@pytest.mark.parametrize(
    "path",
    [*sorted(ASSETS.glob("*/*_bn.onnx")), *(ASSETS / "wild" / f"{name}.onnx" for name in WILD)],
    ids=lambda path: path.stem,
)
def test_inspect_and_compile_infer_the_same_of_real_models(path: Path) -> None:
    loaded = load_quickly(path)
    one = next(one for one in loaded.inputs if one.is_image)
    found = infer_on_images(TorchGraph(loaded.model), harvest_batchnorm(loaded.model), one, seeded())
    (other,) = inspect_model(path).preprocessing.values()
    assert (other.name, other.source) == (found.name, found.source)
