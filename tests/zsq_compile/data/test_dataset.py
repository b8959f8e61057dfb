from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zsq_compile.data.dataset import Preparation, load_data
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.errors import ConfigError

RGB = InputSpec(name="x", shape=(None, 3, 4, 6), dtype=np.dtype(np.float32), layout="NCHW")
GRAY = InputSpec(name="x", shape=(None, 1, 4, 6), dtype=np.dtype(np.float32), layout="NCHW")
SIGNAL = InputSpec(name="s", shape=(None, 7), dtype=np.dtype(np.float32))
MEAN, STD = (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)


def load(path, specs=(RGB,), mean=MEAN, std=STD, channel_order=None, limit=None, option="--data"):
    channels = specs[0].shape[1] if specs[0].is_image else 3
    preprocessing = given_preprocessing(channels, mean, std)
    preprocessing = replace(preprocessing, channel_order=channel_order or preprocessing.channel_order)
    return load_data(path, specs, preprocessing, limit=limit, option=option)


def pictures(count, shape=(4, 6, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def collected(dataset, size=2):
    batches = list(dataset.batches(size))
    inputs = {name: np.concatenate([feeds[name] for feeds, _ in batches]) for name in batches[0][0]}
    labels = None if batches[0][1] is None else np.concatenate([labels for _, labels in batches])
    return inputs, labels


def expected(images, mean=MEAN, std=STD):
    return ((images / 255.0 - np.asarray(mean)) / np.asarray(std)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("header", ["file,label\n", ""])
def test_labels_csv(tmp_path, suffix, header):
    images = pictures(5)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.{suffix}", lossless=True)
    (tmp_path / "labels.csv").write_text(header + "".join(f"{i}.{suffix},{7 - i}\n" for i in range(5)))
    dataset = load(tmp_path)
    inputs, labels = collected(dataset)
    assert len(dataset) == 5
    assert inputs["x"].dtype == np.float32
    np.testing.assert_allclose(inputs["x"], expected(images), atol=1e-6)
    np.testing.assert_array_equal(labels, [7, 6, 5, 4, 3])
    assert len(load(tmp_path, limit=3)) == 3


@pytest.mark.parametrize(("folders", "wanted"), [(("cat", "dog"), [0, 0, 1]), (("3", "10"), [10, 3, 3])])
def test_folder_for_each_class(tmp_path, folders, wanted):
    counts = dict(zip(sorted(folders), (2, 1) if folders[0] == "cat" else (1, 2), strict=True))
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no picture")
        for index, image in enumerate(pictures(count)):
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")
    inputs, labels = collected(load(tmp_path))
    assert len(inputs["x"]) == 3
    np.testing.assert_array_equal(labels, wanted)


def test_npz_with_images(tmp_path):
    images = pictures(5)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(5))
    inputs, labels = collected(load(tmp_path / "d.npz"))
    np.testing.assert_allclose(inputs["x"], expected(images), atol=1e-6)
    np.testing.assert_array_equal(labels, range(5))


def test_bgr_normalises_first_and_reorders_then(tmp_path):
    images = pictures(2)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(2))
    inputs, _ = collected(load(tmp_path / "d.npz", channel_order="bgr"))
    np.testing.assert_allclose(inputs["x"], expected(images)[:, ::-1], atol=1e-6)


def test_gray_network_takes_colour_and_gray_pictures(tmp_path):
    gray = pictures(3, (4, 6))
    np.savez(tmp_path / "gray.npz", images=gray, labels=np.arange(3))
    np.savez(tmp_path / "colour.npz", images=np.repeat(gray[..., None], 3, axis=3), labels=np.arange(3))
    for name in ("gray", "colour"):
        inputs, _ = collected(load(tmp_path / f"{name}.npz", (GRAY,), (0.0,), (1 / 255,)))
        np.testing.assert_allclose(inputs["x"], gray[:, None], atol=1e-4)


def test_colour_network_takes_gray_pictures(tmp_path):
    Image.fromarray(pictures(1, (4, 6))[0]).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("a.png,0\n")
    inputs, _ = collected(load(tmp_path, mean=(0.0,), std=(1.0,)))
    np.testing.assert_array_equal(inputs["x"][0, 0], inputs["x"][0, 2])


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_any_size_is_brought_to_the_networks(rows, columns, level):
    spec = replace(RGB, shape=(None, 3, 9, 7))
    prepare = Preparation(spec=spec, preprocessing=given_preprocessing(3, (0.0,), (1 / 255,)))
    result = prepare(np.full((rows, columns, 3), level, np.uint8))
    assert result.shape == (3, 9, 7)
    np.testing.assert_allclose(result, level, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_pictures_are_laid_out_and_typed_as_the_input_is(tmp_path, channels, dtype):
    images = pictures(3, (4, 6, channels))
    spec = InputSpec(name="x", shape=(None, 4, 6, channels), dtype=np.dtype(dtype), layout="NHWC")
    for index, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(tmp_path / f"{index}.png")
    np.savez(tmp_path / "d.npz", images=images)
    byte = given_preprocessing(channels, (0.0,), (1 / 255,), layout="NHWC")
    for path in (tmp_path, tmp_path / "d.npz"):
        inputs, _ = collected(load_data(path, (spec,), byte))
        assert inputs["x"].dtype == dtype
        np.testing.assert_allclose(inputs["x"], images, atol=1e-4)


def test_a_fourth_plane_that_a_picture_lacks_is_opaque():
    spec = replace(RGB, shape=(None, 4, 4, 6))
    prepare = Preparation(spec=spec, preprocessing=given_preprocessing(4, (0.0,), (1.0,)))
    image = pictures(1)[0]
    np.testing.assert_allclose(prepare(image)[:3], image.transpose(2, 0, 1) / 255.0, atol=1e-6)
    np.testing.assert_array_equal(prepare(image)[3], 1.0)


def test_larger_pictures_keep_their_middle():
    image = np.zeros((9, 21, 3), np.uint8)
    image[:, 6:15] = 255  # the middle third survives the cut to a square
    spec = replace(RGB, shape=(None, 3, 9, 9))
    prepare = Preparation(spec=spec, preprocessing=given_preprocessing(3, (0.0,), (1.0,)))
    np.testing.assert_array_equal(prepare(image), np.ones((3, 9, 9)))


def test_arrays_named_like_the_inputs_go_in_as_they_are(tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 3, 4, 6))
    s = np.random.default_rng(1).standard_normal((5, 7))
    np.savez(tmp_path / "d.npz", x=x, s=s)
    inputs, labels = collected(load(tmp_path / "d.npz", (RGB, SIGNAL)))
    assert labels is None
    np.testing.assert_array_equal(inputs["x"], x.astype(np.float32))
    np.testing.assert_array_equal(inputs["s"], s.astype(np.float32))


def test_folder_of_pictures_without_labels(tmp_path):
    images = pictures(3)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    inputs, labels = collected(load(tmp_path))
    assert labels is None
    np.testing.assert_allclose(inputs["x"], expected(images), atol=1e-6)


def test_an_option_is_named_in_messages(tmp_path):
    with pytest.raises(ConfigError, match="--calib-data wants a picture"):
        load(tmp_path / "absent", option="--calib-data")
    with pytest.raises(ConfigError, match=r"--calib-data .* has neither"):
        load(tmp_path, option="--calib-data")


def write_set(folder, arrays, *, named=True):
    folder.mkdir()
    for index, (name, array) in enumerate(arrays.items()):
        tensor = onnx.numpy_helper.from_array(array, name if named else "")
        (folder / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
    (folder / "output_0.pb").write_bytes(b"not read")


def test_data_of_onnx_goes_in_as_it_is_in_the_order_of_the_numbers(tmp_path):
    rng = np.random.default_rng(0)
    sets = [rng.standard_normal((1, 3, 4, 6)).astype(np.float32) for _ in range(11)]
    for index, x in enumerate(sets):
        write_set(tmp_path / f"test_data_set_{index}", {"x": x})
    inputs, labels = collected(load(tmp_path))
    assert labels is None
    np.testing.assert_array_equal(inputs["x"], np.concatenate(sets))  # 10 comes behind 9, not behind 1
    inputs, _ = collected(load(tmp_path / "test_data_set_2"))
    np.testing.assert_array_equal(inputs["x"], sets[2])


@pytest.mark.parametrize("named", [True, False])
def test_data_of_onnx_for_several_inputs_is_found_by_name_or_by_number(tmp_path, named):
    x, s = np.ones((2, 3, 4, 6), np.float32), np.full((2, 7), 2.0, np.float32)
    write_set(tmp_path / "test_data_set_0", {"s": s, "x": x} if named else {"x": x, "s": s}, named=named)
    inputs, _ = collected(load(tmp_path, (RGB, SIGNAL)))
    np.testing.assert_array_equal(inputs["x"], x)
    np.testing.assert_array_equal(inputs["s"], s)


def test_data_of_onnx_that_does_not_fit_is_refused(tmp_path):
    place = tmp_path / "test_data_set_0"
    write_set(place, {"x": np.ones((2, 3, 5, 6), np.float32)})
    with pytest.raises(ConfigError, match=r"x must have shape \(N, 3, 4, 6\), got \(2, 3, 5, 6\)"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"holds 1 files input_K\.pb, but the model has 2 inputs \(x, s\)"):
        load(tmp_path, (RGB, SIGNAL))
    write_set(tmp_path / "test_data_set_1", {"x": np.ones((2, 3, 4, 6), np.float32)})
    with pytest.raises(ConfigError, match=r"cannot be joined along the first axis \(\(2, 3, 5, 6\), \(2, 3, 4, 6\)\)"):
        load(tmp_path)
    (place / "input_0.pb").write_bytes(b"no tensor at all")
    with pytest.raises(ConfigError, match=r"cannot read .*input_0\.pb as a serialized ONNX tensor"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "specs", "words"),
    [
        ({"x": np.zeros((2, 3, 5, 6))}, (RGB,), r"x must have shape \(N, 3, 4, 6\), got \(2, 3, 5, 6\)"),
        ({"images": np.zeros((2, 4, 6, 3))}, (RGB,), "images must be uint8 .* got float64"),
        (
            {"images": pictures(2)},
            (SIGNAL,),
            r"no array for the input 's', only images; wanted the model's inputs",
        ),
        ({"other": np.zeros(2)}, (RGB,), r"no array for the input 'x', only other; wanted"),
        ({"images": pictures(2), "labels": np.arange(3)}, (RGB,), r"got lengths \[2, 3\]"),
        ({"images": pictures(0), "labels": np.arange(0)}, (RGB,), r"at least one, got lengths \[0\]"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, specs, words):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "d.npz", specs)


def test_wrong_places_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"wants a picture, .* or a folder of these, got .*absent"):
        load(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"neither a labels\.csv"):
        load(tmp_path)
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="does not take one picture"):
        load(tmp_path, (SIGNAL,))
    (tmp_path / "a.png").unlink()
    (tmp_path / "labels.csv").write_text("a.png,0\nb.png,1\n")
    with pytest.raises(ConfigError, match=r"names a\.png, which is not in .*\(2 files are missing\)"):
        load(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\na.png,0\nb.png,one\n")
    with pytest.raises(ConfigError, match=r"entry 2: wanted file,label with a whole number"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("a.png,0\n")
    with pytest.raises(ConfigError, match="as a picture"):
        collected(load(tmp_path))
    (tmp_path / "d.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "d.npz")
