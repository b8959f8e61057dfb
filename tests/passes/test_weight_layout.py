import numpy as np
import pytest

from passes.weight_layout import by_channels, channel_axis
from tests import models
from tests.quantizing import execute

LAYERS = {
    "Conv(x, w)": ("4,6,6", (8, 4, 3, 3)),
    "Conv<group=2>(x, w)": ("4,6,6", (8, 2, 3, 3)),
    "ConvTranspose(x, w)": ("4,6,6", (4, 8, 3, 3)),
    "Gemm(x, w)": ("4", (4, 8)),
    "Gemm<transB=1>(x, w)": ("4", (8, 4)),
    "MatMul(x, w)": ("3,4", (4, 8)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_change_of_one_index_of_the_axis_changes_one_output_channel(layer: str) -> None:
    shape, weight = LAYERS[layer]
    sizes = [2, *(int(size) for size in shape.split(","))]
    axis = -1 if layer.startswith("MatMul") else 1
    text = f"""g (float[2,{shape}] x) => (float[{",".join("ABCD"[: len(sizes)])}] y)
        <float[{",".join(map(str, weight))}] w> {{ y = {layer} }}"""
    model = models.graph(text)
    feeds = {"x": np.random.default_rng(0).standard_normal(sizes).astype(np.float32)}
    before = execute(model, feeds)["y"]
    found = channel_axis(model.graph[0], len(weight))
    assert found is not None
    array = model.graph.initializers["w"].const_value.numpy().copy()
    np.moveaxis(array, found, 0)[5] += 1.0
    after = execute(models.graph(text, weights={"w": array}), feeds)["y"]
    changed = np.abs(after - before).max(tuple(i for i in range(before.ndim) if i != axis % before.ndim)) > 0.01
    assert changed.tolist() == [channel == 5 for channel in range(8)]


def test_groups_of_a_transposed_convolution_share_every_axis() -> None:
    text = "g (float[2,4,6,6] x) => (float[2,8,H,W] y) <float[4,4,3,3] w> { y = ConvTranspose<group=2>(x, w) }"
    assert channel_axis(models.graph(text).graph[0], 4) is None


GROUPED = {
    "Conv<group=2>(x, w)": ("4,6,6", (8, 2, 3, 3)),
    "Conv<group=4>(x, w)": ("4,6,6", (8, 1, 3, 3)),
    "ConvTranspose<group=2>(x, w)": ("4,6,6", (4, 4, 3, 3)),
}


@pytest.mark.parametrize("layer", [*LAYERS, *GROUPED])
def test_the_view_finds_the_weights_between_an_input_channel_and_an_output_channel(layer: str) -> None:
    shape, weight = {**LAYERS, **GROUPED}[layer]
    sizes = [2, *(int(size) for size in shape.split(","))]
    axis = -1 if layer.startswith("MatMul") else 1
    text = f"""g (float[2,{shape}] x) => (float[{",".join("ABCD"[: len(sizes)])}] y)
        <float[{",".join(map(str, weight))}] w> {{ y = {layer} }}"""
    model = models.graph(text)
    array = model.graph.initializers["w"].const_value.numpy()
    view = by_channels(model.graph[0], array.astype(np.float64))
    groups, outputs, inputs, _ = view.shape
    x = np.zeros(sizes, np.float32)
    np.moveaxis(x, axis, 0)[3] = 1.0
    answer = execute(model, {"x": x})["y"]
    reached = np.abs(answer).max(tuple(i for i in range(answer.ndim) if i != axis % answer.ndim)) > 0
    group, place = 3 // inputs, 3 % inputs
    assert reached.tolist() == [channel // outputs == group for channel in range(groups * outputs)]
    silenced = array.astype(np.float64)
    by_channels(model.graph[0], silenced)[group, outputs - 1, place] = 0.0  # writes through
    answer = execute(models.graph(text, weights={"w": silenced}), {"x": x})["y"]
    left = np.abs(answer).max(tuple(i for i in range(answer.ndim) if i != axis % answer.ndim)) > 0
    assert np.flatnonzero(reached & ~left).tolist() == [group * outputs + outputs - 1]
