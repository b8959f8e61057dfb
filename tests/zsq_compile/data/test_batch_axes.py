"""Arrays as files take them, and as samples are inside."""

import numpy as np
import pytest

from zsq_compile.data.batch_axes import BatchAxes, stack_given
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError

FLOAT = np.dtype(np.float32)
X = InputSpec(name="x", shape=(None, 4), dtype=FLOAT)
STATE = InputSpec(name="h", shape=(None, 2, 5), dtype=FLOAT, batch_axis=1)  # (2, N, 5) in the file
WHOLE = InputSpec(name="s", shape=(None, 3), dtype=FLOAT, batch_axis=None)
AXES = BatchAxes(inputs={"h": 1, "s": None}, outputs={"z": 1})


def test_samples_go_to_a_file_and_come_back() -> None:
    samples = {"x": np.zeros((3, 4)), "h": np.arange(30.0).reshape(3, 2, 5), "s": np.arange(9.0).reshape(3, 3)}
    fed = AXES.to_file(samples)
    assert {name: array.shape for name, array in fed.items()} == {"x": (3, 4), "h": (2, 3, 5), "s": (3,)}
    np.testing.assert_array_equal(fed["h"][:, 1], samples["h"][1])
    np.testing.assert_array_equal(fed["s"], samples["s"][0])
    np.testing.assert_array_equal(AXES.from_file({"z": fed["h"], "y": samples["x"]})["z"], samples["h"])


def test_a_number_without_a_batch_stays_a_number() -> None:
    fed = BatchAxes(inputs={"rate": None}).to_file({"rate": np.full(3, 16000)})["rate"]
    assert isinstance(fed, np.ndarray) and fed.shape == () and fed == 16000


def test_the_size_of_a_batch() -> None:
    assert [AXES.size("h", (2, 7, 5)), AXES.size("h", (2, None, 5)), AXES.size("s", (3,)), AXES.size("x", (1, 4))] == [
        7,
        None,
        None,
        1,
    ]


@pytest.mark.parametrize(
    ("shape", "whole"),
    [((2, 6, 5), (6, 3)), ((6, 2, 5), (6, 3)), ((2, 1, 5), (3,)), ((6, 2, 1, 5), (9,)), ((1, 2, 1, 5), (2, 3))],
)
def test_every_form_that_a_state_is_given_in(shape: tuple[int, ...], whole: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    given = {
        "x": np.zeros((6, 4)),
        "h": rng.standard_normal(shape),
        "s": rng.standard_normal(whole),
        "more": np.ones(1),
    }
    stacked = stack_given(given, (X, STATE, WHOLE), "calibration data")
    assert {name: array.shape for name, array in stacked.items()} == {"x": (6, 4), "h": (6, 2, 5), "s": (6, 3)}
    last = given["h"][:, -1] if shape[0] == 2 else given["h"].reshape(-1, 2, 5)[-1]
    np.testing.assert_array_equal(stacked["h"][-1], last)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="'h', an input with its batch on axis 1"):
        stack_given({"x": np.zeros((6, 4)), "h": np.zeros((6, 5))}, (X, STATE), "calibration data")
    with pytest.raises(ConfigError, match="no array for the input 'h'"):
        stack_given({"x": np.zeros((6, 4))}, (X, STATE), "calibration data")


def test_each_whole_input_holds_for_the_samples_that_follow_each_other() -> None:
    state = InputSpec(name="c", shape=(None, 1, 2), dtype=FLOAT, batch_axis=None)  # (1, 2) in the file
    given = {"x": np.zeros((6, 4)), "c": np.array([[0.0, 0.0], [1.0, 1.0]])}
    np.testing.assert_array_equal(stack_given(given, (X, state), "data")["c"][:, 0, 0], [0, 0, 0, 1, 1, 1])
