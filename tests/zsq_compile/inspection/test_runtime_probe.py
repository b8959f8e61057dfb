import numpy as np
import onnx
import pytest

from backends.session import RuntimeModelError
from tests import models
from tests.quantizing import every_value, prepare
from zsq_compile.data.input_spec import InputSpec, Layout
from zsq_compile.frontend.partial_session import open_partial_session
from zsq_compile.inspection.runtime_probe import draw_inputs, find_ranges


def spec(shape: tuple[int | None, ...], dtype: type = np.float32, name: str = "x") -> InputSpec:
    layout: Layout | None = "NCHW" if len(shape) == 4 else None
    return InputSpec(name=name, shape=shape, dtype=np.dtype(dtype), layout=layout)


def test_ranges_are_those_of_the_values() -> None:
    model = prepare(models.residual())
    feeds = draw_inputs((spec((None, 3, 8, 8)),), 2, np.random.default_rng(0))
    assert feeds is not None
    values = every_value(model, feeds)
    names = [name for name in values if name not in ("logits",)]
    found = find_ranges(model, names, feeds)
    assert set(found) == set(names)
    for name, (low, high) in found.items():
        assert low == pytest.approx(values[name].min(), rel=1e-5, abs=1e-6)
        assert high == pytest.approx(values[name].max(), rel=1e-5, abs=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = prepare(models.residual())
    before = onnx.ModelProto.FromString(models.to_proto(model).SerializeToString())
    find_ranges(model, ["r0"], {"x": np.zeros((1, 3, 8, 8), np.float32)})
    open_partial_session(model, ["r0"])
    assert models.to_proto(model) == before


def test_values_that_are_not_finite_and_names_that_are_not_there_are_left_out() -> None:
    model = prepare(models.parse("net (float[N,3] x) => (float[N,3] y) { l = Log(x) r = Relu(x) y = Add(l, r) }"))
    found = find_ranges(model, ["l", "r", "none"], {"x": np.array([[-1.0, 1.0, 2.0]], np.float32)})
    assert found == {"r": (0.0, 2.0)}
    assert find_ranges(model, [], {"x": np.zeros((1, 3), np.float32)}) == {}


def test_a_part_may_be_run_at_another_size() -> None:
    session = open_partial_session(prepare(models.residual()), ["r0"], open_axes={"x": (2, 3)})
    assert session.output_names == ("r0",)
    assert session.run({"x": np.zeros((1, 3, 5, 7), np.float32)})["r0"].shape == (1, 8, 5, 7)


def test_what_cannot_run_is_told_in_the_runtime_s_words() -> None:
    with pytest.raises(RuntimeModelError):
        find_ranges(prepare(models.residual()), ["r0"], {"x": np.zeros((1, 4, 8, 8), np.float32)})


def test_inputs_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    specs = (
        spec((None, 1, 8, 6), name="gray"),
        spec((2, 100), name="wave"),
        spec((None, 1), name="number"),
        spec((), name="scalar"),
    )
    made = draw_inputs(specs, 3, rng)
    assert made is not None
    assert {name: array.shape for name, array in made.items()} == {
        "gray": (3, 1, 8, 6),
        "wave": (2, 100),
        "number": (3, 1),
        "scalar": (),
    }
    np.testing.assert_allclose(made["wave"].std(1), 1.0, rtol=1e-6)
    assert draw_inputs((spec((None, 3, 4, 5)),), 2, rng)["x"].shape == (2, 3, 4, 5)  # type: ignore[index]
    ids = draw_inputs((spec((None, 4), np.int64),), 1, rng)
    assert ids is not None and ids["x"].dtype == np.int64
    assert draw_inputs((spec((None, 4), np.str_),), 1, rng) is None
