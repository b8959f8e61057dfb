"""Real inputs among synthesized ones: there themselves, with variants that stay pixels; same seed, same samples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from tests.models import graph
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.dataset import Dataset, load_data, take_arrays
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import given_preprocessing, usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.filters.examples import ADDED, Examples, choose_evenly, vary_examples
from zsq_compile.synthesis.images.variants import crop_pictures, vary_pictures, vary_signals
from zsq_compile.synthesis.make_generator import make_generator

RGB = InputSpec(name="x", shape=(None, 3, 12, 16), dtype=np.dtype(np.float32), layout="NCHW", kind="picture")
ROWS = InputSpec(name="f", shape=(None, 4, 32), dtype=np.dtype(np.float32), kind="features")
NETWORK = "net (float[N,3,12,16] x) => (float[N,3,12,16] y) { y = Relu(x) }"
WIDE = given_preprocessing(3, input_range=(-1.0, 1.0))


def pictures(count: int, rows: int = 24, columns: int = 32) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, rows, columns, 3), dtype=np.uint8))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_come_first_and_variants_differ_and_stay_pixels() -> None:
    given = pictures(2)
    made = vary_pictures(given, RGB, 40, rng())
    assert made.shape == (40, 3, 12, 16)
    assert float(made.min()) >= 0.0 and float(made.max()) <= 1.0
    whole = crop_pictures(given, RGB, 2, rng()).astype(np.float32) / 255.0
    np.testing.assert_array_equal(made[:2], whole)
    assert len(torch.unique(made.flatten(1), dim=0)) == 40
    torch.testing.assert_close(vary_pictures(given, RGB, 40, rng()), made, atol=0.0, rtol=0.0)
    assert not torch.equal(vary_pictures(given, RGB, 40, rng(1)), made)


def test_crops_show_only_what_the_picture_holds() -> None:
    plain = [np.full((24, 48, 3), (10, 100, 200), np.uint8)]
    crops = crop_pictures(plain, RGB, 20, rng())
    assert (crops == np.asarray([10, 100, 200], np.uint8)[:, None, None]).all()


def test_a_picture_smaller_than_the_input_is_enough() -> None:
    assert vary_pictures(pictures(1, 3, 2), replace(RGB, shape=(None, 1, 12, 16)), 8, rng()).shape == (8, 1, 12, 16)


def test_signals_keep_their_level() -> None:
    given = 7.0 * np.random.default_rng(0).standard_normal((3, 4, 32)).astype(np.float32)
    made = vary_signals(given, 300, rng(), shifted=True)
    np.testing.assert_array_equal(made[:3], given)
    assert 0.6 < float(made.std()) / float(given.std()) < 1.6
    assert vary_signals(given, 2, rng(), shifted=False).shape == (2, 4, 32)


def test_samples_made_from_examples_come_beside_synthetic_ones_that_stay_as_they_are() -> None:
    model = graph(NETWORK)
    data = take_arrays({"x": np.stack(pictures(2))}, [RGB], "a")
    examples = Examples(data=data, posteriors={"x": Posterior.certain(WIDE)})
    teacher, statistics = TorchGraph(model), harvest_batchnorm(model)
    plain = make_generator(PriorConfig(), [RGB], WIDE).synthesize(teacher, statistics, 20, rng())
    generator = make_generator(PriorConfig(), [RGB], WIDE, examples=examples)
    made = generator.synthesize(teacher, statistics, round(20 * (1 + ADDED)), rng()).inputs["x"]
    own = (made.unsqueeze(1) == plain.inputs["x"]).flatten(2).all(2)
    assert own.any(0).all() and int(own.sum()) == 20
    np.testing.assert_allclose(made[~own.any(1)][:2], data.arrays(WIDE)["x"], atol=1e-6)
    assert len(torch.unique(made.flatten(1), dim=0)) == len(made)
    again = generator.synthesize(teacher, statistics, len(made), rng())
    torch.testing.assert_close(again.inputs["x"], made, atol=0.0, rtol=0.0)
    assert again.posteriors == {"x": Posterior.certain(WIDE)}


def test_where_the_preprocessing_is_open_each_variant_has_its_own() -> None:
    unit, byte = (one for one in usual_preprocessings(3) if one.name in ("unit", "byte"))
    data = take_arrays({"x": np.stack(pictures(2))}, [RGB], "a")
    examples = Examples(data=data, posteriors={"x": Posterior.of([unit, byte], [0.5, 0.5])})
    model = graph(NETWORK)
    made = make_generator(PriorConfig(), [RGB], None, examples=examples).synthesize(
        TorchGraph(model), harvest_batchnorm(model), 40, rng()
    )
    assert made.hypotheses is not None
    for number, one in enumerate(made.plausible):
        own = made.inputs["x"][made.hypotheses == number]
        wanted = torch.from_numpy(data.arrays(one.preprocessing["x"])["x"])
        for picture in wanted:
            assert float((own - picture).abs().flatten(1).amax(1).min()) < 1e-3 * float(picture.abs().max())


@pytest.mark.parametrize("fixed", [2, 5])
def test_whole_feeds_of_a_fixed_batch_are_chosen(fixed: int) -> None:
    chosen = choose_evenly(40, 0.5, fixed).view(-1, fixed)
    assert (chosen.all(1) == chosen.any(1)).all()
    assert int(chosen.sum()) == 20


def test_a_sample_alone_is_made_though_none_of_it_is_left_for_examples() -> None:
    model = graph(NETWORK)
    data = take_arrays({"x": np.stack(pictures(2))}, [RGB], "a")
    examples = Examples(data=data, posteriors={"x": Posterior.certain(WIDE)})
    generator = make_generator(PriorConfig(), [RGB], WIDE, examples=examples)
    made = generator.synthesize(TorchGraph(model), harvest_batchnorm(model), 1, rng())
    assert made.inputs["x"].shape == (1, 3, 12, 16)
    assert vary_pictures(pictures(2), RGB, 0, rng()).shape == (0, 3, 12, 16)


def test_no_more_pictures_are_read_than_are_shown(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(2)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    (tmp_path / "9.png").write_bytes(b"read by nobody")
    data = load_data(tmp_path, [RGB], WIDE)
    assert len(data) == 3
    assert len(vary_examples(data, [RGB], {"x": WIDE}, 2, rng())["x"]) == 2


def test_network_inputs_are_varied_as_pictures_where_they_decode_to_some() -> None:
    pixels = np.stack(pictures(2, 12, 16)).transpose(0, 3, 1, 2) / np.float32(255.0)
    data = Dataset(samples={"x": WIDE.encode(pixels)}, labels=None, preparation=None)
    made = vary_examples(data, [RGB], {"x": WIDE}, 30, rng())["x"]
    np.testing.assert_array_equal(made[:2], WIDE.encode(pixels))
    assert float(made.min()) >= -1.0 and float(made.max()) <= 1.0  # as pixels are
    beyond = Dataset(samples={"x": 9.0 * WIDE.encode(pixels)}, labels=None, preparation=None)
    assert float(vary_examples(beyond, [RGB], {"x": WIDE}, 30, rng())["x"].abs().max()) > 5.0


def test_examples_of_one_input_do_not_show_what_the_other_takes() -> None:
    data = take_arrays({"x": np.stack(pictures(2))}, [RGB], "a")
    examples = Examples(data=data, posteriors={"x": Posterior.certain(WIDE)})
    state = InputSpec(name="s", shape=(None, 8), dtype=np.dtype(np.float32), kind="state")
    assert examples.show([RGB]) and examples.show([RGB, state])
    assert not examples.show([RGB, ROWS])


def test_other_inputs_are_repeated_as_they_are() -> None:
    lengths = InputSpec(name="n", shape=(None,), dtype=np.dtype(np.int64), kind="length")
    rows = np.random.default_rng(0).standard_normal((3, 4, 32)).astype(np.float32)
    data = take_arrays({"f": rows, "n": np.asarray([7, 8, 9])}, [ROWS, lengths], "a")
    made = vary_examples(data, [ROWS, lengths], {}, 7, rng())
    assert made["n"].tolist() == [7, 8, 9, 7, 8, 9, 7]
    assert made["f"].shape == (7, 4, 32)
