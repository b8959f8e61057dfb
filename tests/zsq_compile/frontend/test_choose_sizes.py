"""Sizes that are chosen for open axes: moderate ones, at which the runtime runs the graph."""

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests import models
from tests.zsq_compile.frontend.quick import declared_inputs
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.choose_sizes import ChosenSizes, NoSizesError, choose_sizes


def choose(text: str, given: dict[str, tuple[int | None, ...]] | None = None) -> tuple[onnx.ModelProto, ChosenSizes]:
    proto = models.parse(text)
    return proto, choose_sizes(proto, declared_inputs(proto), given or {})


def shapes(inputs: tuple[InputSpec, ...]) -> dict[str, tuple[int | None, ...]]:
    return {spec.name: spec.shape for spec in inputs}


def require_runs(proto: onnx.ModelProto, chosen: ChosenSizes) -> None:
    session = open_session(proto)
    for inputs in (chosen.inputs, *chosen.others):
        feeds = {spec.name: np.zeros([size or 2 for size in spec.shape], spec.dtype) for spec in inputs}
        assert all(array.size for array in session.run(feeds).values())


STRIDES = (
    "a = Conv<strides=[2,2]>(x, w) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) c = Conv<strides=[4,4]>(b, v)"
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # whole network: 7 strides of 16; maps as outputs: 10; weights want 4 channels, though all axes are open
        (
            f"g (float[n,c,h,w] x) => (float[n,2,1,1] y) <float[3,4,3,3] w, float[2,3,1,1] v> "
            f"{{ {STRIDES} y = GlobalAveragePool(c) }}".replace(" w)", " w0)").replace("] w,", "] w0,"),
            (None, 4, 112, 112),
        ),
        (
            f"g (float[n,3,h,w] x) => (float[n,2,p,q] y) <float[3,3,3,3] w0, float[2,3,1,1] v> "
            f"{{ {STRIDES} y = Relu(c) }}".replace(" w)", " w0)"),
            (None, 3, 160, 160),
        ),
        # channels last, transposed in the graph
        (
            "g (float[n,h,w,c] x) => (float[n,2,p,q] y) <float[2,1,3,3] w0> "
            "{ t = Transpose<perm=[0,3,1,2]>(x) s = Mul(t, t) y = Conv(t, w0) }",
            (None, 32, 32, 1),
        ),
        # the width of a product decides: 3 * 28 * 28
        (
            "g (float[n,3,h,w] x) => (float[n,2] y) <float[2352,2] w0> { f = Flatten(x) y = MatMul(f, w0) }",
            (None, 3, 28, 28),
        ),
        # only heights shrink to one
        (
            "g (float[n,3,h,w] x) => (float[n,2,t] y) <float[2,3,1,1] w0, int64[1] two = {2}> "
            "{ p = AveragePool<kernel_shape=[48,1], strides=[48,1]>(x) c = Conv(p, w0) y = Squeeze(c, two) }",
            (None, 3, 48, 320),
        ),
        # a sequence of vectors, and one of samples
        ("g (float[n,t,d] x) => (float[n,t,2] y) <float[5,2] w0> { y = MatMul(x, w0) }", (None, 128, 5)),
        (
            "g (float[n,1,t] x) => (float[n,2,s] y) <float[2,1,1000] w0> { y = Conv<strides=[16]>(x, w0) }",
            (None, 1, 1024),
        ),
    ],
)
def test_sizes_follow_from_the_graph(text: str, wanted: tuple[int | None, ...]) -> None:
    proto, chosen = choose(text)
    assert shapes(chosen.inputs) == {"x": wanted}
    require_runs(proto, chosen)


def test_other_sizes_differ_in_every_open_axis_that_no_weight_decides() -> None:
    proto, chosen = choose(
        "g (float[n,c,h,w] x) => (float[n,2,p,q] y) <float[2,3,3,3] w0> { y = Conv<strides=[2,2]>(x, w0) }"
    )
    first = chosen.inputs[0].shape
    assert chosen.movable and len(chosen.others) == 3
    for (spec,) in chosen.others:
        assert spec.shape[:2] == first[:2] and spec.shape[2] != first[2] and spec.shape[3] != first[3]
    assert chosen.others[1][0].shape[2] == first[2] + 1  # an odd one, which shows padding that depends on the size
    require_runs(proto, chosen)


def test_a_graph_of_one_size_has_no_other() -> None:
    _, chosen = choose(
        "g (float[n,3,h,w] x) => (float[n,2] y) <float[48,2] w0> { f = Flatten(x) y = MatMul(f, w0) }",
        {"x": (None, 3, 4, 4)},
    )
    assert shapes(chosen.inputs) == {"x": (None, 3, 4, 4)} and chosen.movable and chosen.others == ()


def test_equal_names_get_equal_sizes() -> None:
    proto, chosen = choose(
        "g (int64[batch,length] ids, int64[batch,length] mask) => (int64[batch,length] y) { y = Add(ids, mask) }"
    )
    assert shapes(chosen.inputs) == {"ids": (None, 128), "mask": (None, 128)}
    require_runs(proto, chosen)


def test_given_sizes_are_taken_and_the_others_chosen() -> None:
    _, chosen = choose(
        "g (float[n,3,h,w] x, float[n,t] s) => (float[n,3,h,w] y, float[n,t] z) { y = Relu(x) z = Relu(s) }",
        {"x": (None, 3, 20, None)},
    )
    assert shapes(chosen.inputs) == {"x": (None, 3, 20, 32), "s": (None, 128)}


def test_sizes_that_do_not_run_are_refused() -> None:
    with pytest.raises(NoSizesError):
        choose(
            "g (float[n,3,h,w] x) => (float[n,2] y) <float[48,2] w0> { f = Flatten(x) y = MatMul(f, w0) }",
            {"x": (None, 3, 5, 5)},
        )


def test_values_that_are_empty_do_not_count_as_run() -> None:
    proto, chosen = choose(
        "g (float[n,3,h,w] x) => (float[n,3] y) <int64[2] axes = {2, 3}> "
        "{ p = AveragePool<kernel_shape=[33,33]>(x) y = ReduceMean<keepdims=0>(p, axes) }"
    )
    assert all(spec.shape[2] >= 33 for inputs in (chosen.inputs, *chosen.others) for spec in inputs)
    require_runs(proto, chosen)
