from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import models
from tests.zsq_compile.synthesis.networks import spec, teacher_of
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.errors import ConfigError
from zsq_compile.reporting.gallery import draw_gallery, plan_layout, require_png, write_gallery
from zsq_compile.stages.gallery import captions, require_image, show_synthetic
from zsq_compile.synthesis.generator import SyntheticSet

RNG = np.random.default_rng(0)


def drawn(
    path: Path, pixels: np.ndarray, words: list[str] | None = None, title: str = "", remark: str = ""
) -> np.ndarray:
    """Draw, write, read back: (height, width, 3) bytes."""
    write_gallery(path, draw_gallery(pixels, words, title, remark))
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("captioned", [False, True])
def test_every_pixel_of_a_small_picture_is_a_square_of_its_colour(
    channels: int, captioned: bool, tmp_path: Path
) -> None:
    pixels = RNG.uniform(-0.1, 1.1, (5, channels, 8, 12))
    sheet = drawn(tmp_path / "g.png", pixels, [f"class {i}" for i in range(5)] if captioned else None)
    layout = plan_layout(5, 8, 12, captions=captioned)
    assert (layout.height, layout.width) == (64, 96)
    assert sheet.shape[:2] == layout.size[::-1]
    codes = np.rint(np.clip(pixels, 0, 1) * 255)
    for index, picture in enumerate(codes):
        left, top = layout.place(index)
        shown = sheet[top : top + 64, left : left + 96]
        expected = np.broadcast_to(picture, (3, 8, 12)).transpose(1, 2, 0).repeat(8, 0).repeat(8, 1)
        np.testing.assert_array_equal(shown, expected)


def test_words_are_written_where_they_belong_and_nowhere_else(tmp_path: Path) -> None:
    pixels = np.ones((3, 1, 8, 8))
    plain = drawn(tmp_path / "a.png", pixels, ["", "", ""])
    said = drawn(tmp_path / "b.png", pixels, ["", "class 7, 99%", ""], title="T", remark="R")
    layout = plan_layout(3, 8, 8, captions=True)
    assert plain.shape == said.shape
    changed = np.argwhere((plain != said).any(2))
    left, top = layout.place(1)
    caption = changed[changed[:, 0] >= layout.place(0)[1]]
    assert len(caption) > 20
    assert (caption[:, 0] > top + layout.height).all()
    assert (caption[:, 1] >= left).all() and (caption[:, 1] < left + layout.cell).all()
    assert len(changed) > len(caption), "title and remark stand above the grid"


def test_a_long_title_is_not_cut(tmp_path: Path) -> None:
    pixels = np.zeros((1, 1, 8, 8))
    sheet = drawn(tmp_path / "g.png", pixels, title="a_long_name_of_a_model.onnx: 1 synthetic image")
    assert sheet.shape[1] > plan_layout(1, 8, 8, captions=False).size[0]
    assert (sheet[:, -10:] == 255).all()


def test_large_pictures_are_reduced_and_keep_their_shape(tmp_path: Path) -> None:
    sheet = drawn(tmp_path / "g.png", np.full((2, 3, 300, 600), 0.5))
    layout = plan_layout(2, 300, 600, captions=False)
    assert (layout.height, layout.width) == (128, 256)
    left, top = layout.place(1)
    assert (sheet[top : top + 128, left : left + 256] == 128).all()


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (5, (3, 2)), (64, (8, 8))])
def test_square_pictures_make_a_square_grid(count: int, grid: tuple[int, int]) -> None:
    layout = plan_layout(count, 32, 32, captions=True)
    assert (layout.columns, layout.rows) == grid
    assert layout.width == 96


def test_no_more_than_64_are_drawn(tmp_path: Path) -> None:
    assert (
        drawn(tmp_path / "g.png", np.zeros((70, 1, 8, 8))).shape
        == drawn(tmp_path / "h.png", np.zeros((64, 1, 8, 8))).shape
    )


def test_a_file_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        require_png(tmp_path / "g.jpg")
    with pytest.raises(ConfigError, match="a folder that exists"):
        require_png(tmp_path / "absent" / "g.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_gallery(tmp_path / "absent" / "g.png", draw_gallery(np.zeros((1, 1, 4, 4)), None, "", ""))
    assert list(tmp_path.iterdir()) == []


def synthetic(values: torch.Tensor, preprocessing: Preprocessing) -> SyntheticSet:
    return SyntheticSet(
        inputs={"x": values},
        algorithm="prior",
        seed=3,
        loss_curve=(),
        posteriors={"x": Posterior.certain(preprocessing)},
    )


def test_captions_are_the_softmax_of_the_logits() -> None:
    teacher, _ = teacher_of(models.residual())
    inputs = torch.from_numpy(RNG.normal(size=(40, 3, 8, 8)).astype(np.float32))
    said = captions(teacher, (spec(None, 3, 8, 8),), synthetic(inputs, given_preprocessing(3, (0.0,), (1.0,))), 35)
    logits = teacher.run({"x": inputs})["logits"].double().numpy()[:35]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    confidence = odds.max(1) / odds.sum(1)
    assert said == [f"class {one}, {p:.0%}" for one, p in zip(logits.argmax(1), confidence, strict=True)]


def test_the_class_asked_for_stands_beside_the_class_seen(tmp_path: Path) -> None:
    teacher, _ = teacher_of(models.residual())
    inputs = torch.from_numpy(RNG.normal(size=(5, 3, 8, 8)).astype(np.float32))
    made = synthetic(inputs, given_preprocessing(3, (0.0,), (1.0,)))
    specs = (spec(None, 3, 8, 8),)
    plain = captions(teacher, specs, made, 5)
    asked = captions(teacher, specs, replace(made, labels=torch.tensor([3, 1, 4, 1, 0])), 5)
    assert plain is not None and asked is not None
    assert asked == [text.replace("class", f"{label} as") for label, text in zip((3, 1, 4, 1, 0), plain, strict=True)]
    sheets = []
    for one in (made, replace(made, labels=torch.tensor([3, 1, 4, 1, 0]))):
        show_synthetic(tmp_path / "g.png", "net.onnx", teacher, specs, one)
        sheets.append((tmp_path / "g.png").read_bytes())
    assert sheets[0] != sheets[1]


def test_a_network_of_a_fixed_batch_is_fed_whole_batches() -> None:
    teacher, _ = teacher_of(models.residual())
    seen: list[int] = []
    run = teacher.run
    teacher.run = lambda feeds, *rest: (seen.append(len(feeds["x"])), run(feeds, *rest))[1]
    made = synthetic(torch.zeros(90, 3, 8, 8), given_preprocessing(3, (0.0,), (1.0,)))
    said = captions(teacher, (spec(30, 3, 8, 8),), made, 64)
    assert said is not None and len(said) == 64
    assert seen == [30, 30, 30]


def test_without_classes_there_are_no_captions() -> None:
    teacher, _ = teacher_of(models.conv_bn_relu())
    made = synthetic(torch.zeros(2, 3, 8, 8), given_preprocessing(3, (0.0,), (1.0,)))
    assert captions(teacher, (spec(None, 3, 8, 8),), made, 2) is None


def test_pictures_are_shown_as_they_were_before_they_were_normalised(tmp_path: Path) -> None:
    teacher, _ = teacher_of(models.residual())
    preprocessing = given_preprocessing(3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    pixels = torch.from_numpy(RNG.integers(0, 256, (70, 3, 8, 8)) / 255.0)
    show_synthetic(
        tmp_path / "g.png",
        "net.onnx",
        teacher,
        (spec(None, 3, 8, 8),),
        synthetic(preprocessing.encode(pixels).float(), preprocessing),
    )
    with Image.open(tmp_path / "g.png") as image:
        sheet = np.asarray(image)
    layout = plan_layout(64, 8, 8, captions=True)
    for index in (0, 63):
        left, top = layout.place(index)
        centres = sheet[top + 6 : top + 96 : 12, left + 6 : left + 96 : 12]
        np.testing.assert_array_equal(centres, np.rint(255 * pixels[index].numpy()).transpose(1, 2, 0))


def test_a_network_without_an_image_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"this network takes 'v' \(None, 40\): leave --gallery out"):
        require_image((spec(None, 40, name="v"),))
    assert require_image((spec(None, 40, name="v"), spec(None, 1, 8, 8))).name == "x"
