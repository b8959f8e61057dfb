"""Arrays in the forms that users keep them in come out as the network takes them, or are refused with both shapes."""

from dataclasses import replace

import numpy as np
import pytest

from zsq_compile.data.dataset import load_data, take_arrays
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.layouts import arrange_samples, can_be_left_out
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.errors import ConfigError

RGB = InputSpec(name="x", shape=(None, 3, 4, 6), dtype=np.dtype(np.float32), layout="NCHW", kind="picture")
LAST = replace(RGB, shape=(None, 4, 6, 3), layout="NHWC")
ROWS = InputSpec(name="f", shape=(None, 5, 8), dtype=np.dtype(np.float32), kind="features")
STATE = InputSpec(name="h", shape=(None, 2, 7), dtype=np.dtype(np.float32), kind="state")
MASK = InputSpec(name="m", shape=(None, 5), dtype=np.dtype(np.int64), kind="mask", neutral=1.0)
IDS = InputSpec(name="ids", shape=(None, 5), dtype=np.dtype(np.int64), kind="tokens", neutral=0.0)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (RGB, lambda x: x),
        (RGB, lambda x: x.transpose(0, 2, 3, 1)),
        (RGB, lambda x: x[:, None]),
        (RGB, lambda x: x.transpose(0, 2, 3, 1)[:, None]),
        (RGB, lambda x: x.astype(np.float64)),
        (LAST, lambda x: x.transpose(0, 3, 1, 2)),
        (ROWS, lambda x: x.transpose(0, 2, 1)),
        (ROWS, lambda x: x[:, None]),
    ],
)
def test_axes_are_brought_into_the_inputs_order(spec, form) -> None:
    array = drawn(*spec.batched(9))
    np.testing.assert_array_equal(arrange_samples({spec.name: form(array)}, [spec], "a.npz")[spec.name], array)


def test_one_sample_needs_no_batch() -> None:
    array = drawn(3, 4, 6)
    for form in (array, array.transpose(1, 2, 0), array[None]):
        np.testing.assert_array_equal(arrange_samples({"x": form}, [RGB], "a")["x"], array[None])


def test_an_order_that_is_not_the_only_one_is_refused() -> None:
    cube = replace(ROWS, shape=(None, 4, 4, 6))
    with pytest.raises(ConfigError, match=r"a\.npz: f must have shape \(N, 4, 4, 6\), got \(2, 4, 6, 4\)"):
        arrange_samples({"f": drawn(2, 4, 6, 4)}, [cube], "a.npz")
    with pytest.raises(ConfigError, match=r"got \(2, 3, 6, 4\)"):  # a picture is not turned
        arrange_samples({"x": drawn(2, 3, 6, 4)}, [RGB], "a.npz")


def test_states_and_masks_may_be_left_out_and_given_once_or_for_some() -> None:
    inputs = [ROWS, STATE, MASK]
    rows = drawn(6, 5, 8)
    made = arrange_samples({"f": rows}, inputs, "a")
    np.testing.assert_array_equal(made["h"], np.zeros((6, 2, 7)))
    np.testing.assert_array_equal(made["m"], np.ones((6, 5)))
    state = drawn(2, 2, 7)
    made = arrange_samples({"f": rows, "h": state}, inputs, "a")
    np.testing.assert_array_equal(made["h"], state[[0, 0, 0, 1, 1, 1]])
    made = arrange_samples({"f": rows, "h": state[:1]}, inputs, "a")
    np.testing.assert_array_equal(made["h"], state[[0] * 6])
    assert [can_be_left_out(spec) for spec in (ROWS, STATE, MASK, IDS)] == [False, True, True, False]


def test_counts_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a has 4 samples for 'h', and 6 for another input"):
        arrange_samples({"f": drawn(6, 5, 8), "h": drawn(4, 2, 7)}, [ROWS, STATE], "a")
    with pytest.raises(ConfigError, match=r"a has 3 samples for 'x', and 6 for another input"):
        arrange_samples({"f": drawn(6, 5, 8), "x": drawn(3, 3, 4, 6)}, [ROWS, RGB], "a")


@pytest.mark.parametrize("name", ["x", "X", "x:0", "input", "arr_0"])
def test_a_single_array_needs_no_name(tmp_path, name) -> None:
    array = drawn(2, 3, 4, 6)
    np.savez(tmp_path / "a.npz", **{name: array, "labels": np.arange(2)})
    data = load_data(tmp_path / "a.npz", [RGB, STATE], None)
    np.testing.assert_array_equal(data.arrays()["x"], array)
    assert data.labels is not None
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load_data(tmp_path / "a.npy", [RGB, STATE], None).arrays()["x"], array)


def test_names_may_be_written_a_little_differently_and_arrays_be_numbered() -> None:
    rows, picture = drawn(2, 5, 8), drawn(2, 3, 4, 6)
    for names in (("F", "X:0"), ("arr_0", "arr_1")):
        made = take_arrays(dict(zip(names, (rows, picture), strict=True)), [ROWS, RGB], "a").arrays()
        np.testing.assert_array_equal(made["f"], rows)
        np.testing.assert_array_equal(made["x"], picture)


@pytest.mark.parametrize("name", ["images", "x", "other"])
@pytest.mark.parametrize("spec", [RGB, LAST])
def test_bytes_are_pictures_in_any_layout_and_size(spec, name) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    preprocessing = given_preprocessing(3, mean, std, layout=spec.layout)
    wanted = (pixels / 255.0 - mean) / std
    wanted = wanted if spec is LAST else wanted.transpose(0, 3, 1, 2)
    for form in (pixels, pixels.transpose(0, 3, 1, 2)):
        data = take_arrays({name: form}, [spec], "a")
        np.testing.assert_allclose(data.arrays(preprocessing)["x"], wanted, atol=1e-5)
    larger = np.repeat(np.repeat(pixels, 3, 1), 3, 2)
    assert take_arrays({name: larger}, [spec], "a").arrays(preprocessing)["x"].shape == wanted.shape
    gray = take_arrays({name: pixels[..., 0]}, [spec], "a").arrays(preprocessing)["x"]
    assert gray.shape == wanted.shape


def test_bytes_for_an_input_of_bytes_go_in_as_they_are() -> None:
    spec = replace(LAST, dtype=np.dtype(np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(take_arrays({"x": pixels}, [spec], "a").arrays()["x"], pixels)


def test_folders_of_arrays_are_joined_and_labelled(tmp_path) -> None:
    arrays = drawn(3, 5, 8)
    for label, part in ((4, arrays[:2]), (9, arrays[2])):  # two samples, and one without a batch
        (tmp_path / str(label)).mkdir()
        np.save(tmp_path / str(label) / "a.npy", part)
    data = load_data(tmp_path, [ROWS], None)
    np.testing.assert_array_equal(data.arrays()["f"], arrays)
    assert data.labels is not None and data.labels.tolist() == [4, 4, 9]
    both = load_data([tmp_path / "4", tmp_path / "9" / "a.npy"], [ROWS], None)
    np.testing.assert_array_equal(both.arrays()["f"], arrays)


def test_kinds_that_do_not_go_together_are_refused(tmp_path) -> None:
    np.save(tmp_path / "bytes.npy", np.zeros((4, 6, 3), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((1, 3, 4, 6), np.float32))
    with pytest.raises(ConfigError, match="mixes pictures with arrays"):
        load_data([tmp_path / "bytes.npy", tmp_path / "floats.npy"], [RGB], None, option="--like")
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(ConfigError, match=r"cannot read .*a\.npy as an \.npy file"):
        load_data(tmp_path / "a.npy", [RGB], None)
    (tmp_path / "a.txt").write_text("nothing")
    with pytest.raises(ConfigError, match=r"--like wants a picture, .* got .*a\.txt, which is none of them"):
        load_data(tmp_path / "a.txt", [RGB], None, option="--like")
    with pytest.raises(ConfigError, match=r"a has no array for the input 'f', only x; wanted"):
        take_arrays({"x": drawn(1, 3, 4, 6)}, [RGB, ROWS], "a")
    assert list(take_arrays({"x": drawn(1, 3, 4, 6)}, [RGB, ROWS], "a", partly=True).samples) == ["x"]
