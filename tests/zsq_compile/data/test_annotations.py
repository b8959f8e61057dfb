import json

import numpy as np
import pytest
from PIL import Image

from zsq_compile.data.annotations import Annotations, BoxRow, place_truth, place_truths
from zsq_compile.data.dataset import load_data
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.pictures import picture_size, read_picture
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import TruthWords

RGB = InputSpec(name="x", shape=(None, 3, 20, 20), dtype=np.dtype(np.float32), layout="NCHW")


def _save(folder, *names, size=(40, 20)):
    """Write pictures of so many columns and rows, with a white box from 16, 5 to 24, 15."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[5:15, 16:24] = 255
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def _load(folder, limit=None):
    return load_data(folder, (RGB,), None, limit=limit)


def test_boxes_of_coco_follow_their_picture_to_where_the_network_sees_it(tmp_path):
    _save(tmp_path, "images/b.png", "images/a.png")
    plain = {
        "images": [{"id": 5, "file_name": "b.png"}, {"id": 2, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 5, "bbox": [16, 5, 8, 10], "category_id": 7},
            {"image_id": 5, "bbox": [0, 0, 4, 4], "category_id": 3, "iscrowd": 1},
            {"image_id": 5, "bbox": [7, 0, 4, 4], "category_id": 3},
        ],
        "categories": [{"id": 7, "name": "x"}, {"id": 3, "name": "y"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(plain))
    data = _load(tmp_path)
    assert (data.truth_kind, data.annotations.words.categories) == ("boxes", (3, 7))
    first, second = data.truths(0, 2)
    assert first.corners.tolist() == [
        [6, 5, 14, 15],
        [0, 0, 1, 4],
    ]  # 10 columns are cut off at either side, and one box with them
    assert (first.classes.tolist(), first.ignored.tolist()) == ([7, 3], [False, True])  # the last is seen by a quarter
    feeds, _ = next(data.batches(1))
    white = np.argwhere(feeds["x"][0, 0] > 0.99)
    assert (white.min(0).tolist(), (white.max(0) + 1).tolist()) == ([5, 6], [15, 14])
    assert len(second.corners) == 0
    assert len(data.first(1).truths(0, 9)) == 1


def test_boxes_of_yolo_are_shares_of_their_picture(tmp_path):
    _save(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("2 0.5 0.5 0.2 0.5\n1 0.4 0.25 0.6 0.25 0.6 0.75\n")
    first, second = _load(tmp_path).truths(0, 2)
    np.testing.assert_allclose(first.corners, [[6, 5, 14, 15], [6, 5, 14, 15]])
    assert first.classes.tolist() == [2, 1]
    assert len(second.corners) == 0


def test_boxes_of_yolo_may_lie_in_a_folder_beside_the_pictures(tmp_path):
    _save(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    assert len(_load(tmp_path).truths(0, 1)[0].corners) == 1


def test_captions_beside_pictures_are_no_boxes(tmp_path):
    _save(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("a white box\n")
    assert _load(tmp_path).truth_kind is None


def test_a_broken_line_of_boxes_is_named(tmp_path):
    _save(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.5\n0 0.5 0.5\n")
    with pytest.raises(ConfigError, match=r"0 0\.5 0\.5'"):
        _load(tmp_path)


def test_masks_are_scaled_and_cut_like_their_pictures(tmp_path):
    _save(tmp_path, "images/a.png", size=(80, 40))
    (tmp_path / "masks").mkdir()
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 32:48] = 3
    mask[0] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    data = _load(tmp_path)
    (truth,) = data.truths(0, 1)
    assert data.truth_kind == "masks"
    assert truth.shape == (20, 20)
    white = np.argwhere(truth == 3)
    assert (white.min(0).tolist(), (white.max(0) + 1).tolist()) == ([5, 6], [15, 14])


def test_masks_of_black_and_white_are_classes_zero_and_one():
    truth = place_truth(np.int64([[0, 1]]), (1, 2), None)
    assert truth.tolist() == [[0, 1]]


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path):
    _save(tmp_path, "images/a.png")
    _save(tmp_path, "masks/a.png", size=(10, 10))
    with pytest.raises(ConfigError, match="same size"):
        _load(tmp_path).truths(0, 1)


@pytest.mark.parametrize(
    "name, lines",
    [("labels.csv", 'file,text\na.png,"3, 4"\n'), ("labels.tsv", "a.png\t3, 4\n"), ("labels.txt", "a.png 3, 4\n")],
)
def test_texts_come_with_the_characters_of_the_network(tmp_path, name, lines):
    _save(tmp_path, "a.png")
    (tmp_path / name).write_text(lines)
    (tmp_path / "characters.txt").write_text("3\n4\n,\n \n")
    data = _load(tmp_path)
    assert (data.truth_kind, data.truths(0, 1)) == ("texts", ["3, 4"])
    assert data.annotations.words.characters == ("3", "4", ",", " ")


def test_texts_without_characters_are_numbers_of_classes(tmp_path):
    _save(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("a.png,3 17\nb.png,4\n")
    assert _load(tmp_path).truths(0, 2) == [(3, 17), (4,)]
    (tmp_path / "labels.csv").write_text("a.png,3\nb.png,4\n")
    data = _load(tmp_path)
    assert (data.truth_kind, data.truths(0, 2)) == ("classes", [3, 4])
    (tmp_path / "labels.csv").write_text("a.png,hello\nb.png,4\n")
    with pytest.raises(ConfigError, match=r"characters\.txt"):
        _load(tmp_path)


def test_labels_in_an_archive(tmp_path):
    pixels = np.zeros((2, 20, 40, 3), np.uint8)
    boxes = np.array([[[16, 5, 24, 15], [0, 0, 0, 0]]] * 2)
    np.savez(tmp_path / "d.npz", images=pixels, boxes=boxes, classes=np.array([[1, -1], [2, -1]]))
    data = _load(tmp_path / "d.npz")
    assert [truth.corners.tolist() for truth in data.truths(0, 2)] == [[[6, 5, 14, 15]]] * 2
    np.savez(tmp_path / "t.npz", images=pixels, texts=np.array(["ab", "b"]), characters=np.array(["a", "b"]))
    assert _load(tmp_path / "t.npz").truths(1, 2) == ["b"]
    np.savez(tmp_path / "m.npz", x=np.zeros((2, 3, 20, 20), np.float32), masks=np.ones((2, 10, 10), np.uint8))
    assert [truth.shape for truth in _load(tmp_path / "m.npz").truths(0, 2)] == [(10, 10)] * 2
    np.savez(tmp_path / "e.npz", images=pixels, boxes=boxes)
    with pytest.raises(ConfigError, match="classes"):
        _load(tmp_path / "e.npz")


def test_boxes_of_inputs_that_are_ready_stay_where_they_are():
    row = BoxRow(corners=np.float64([[1, 2, 300, 400]]), classes=np.int64([0]), crowds=np.zeros(1, bool))
    (truth,) = place_truths(Annotations(kind="boxes", rows=[row], words=TruthWords()))
    assert truth.corners.tolist() == [[1, 2, 300, 400]]


def test_the_size_of_a_turned_picture_is_that_of_its_pixels(tmp_path):
    image = Image.new("RGB", (12, 7))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "t.jpg", exif=exif)
    assert picture_size(tmp_path / "t.jpg") == read_picture(tmp_path / "t.jpg").shape[:2] == (12, 7)
