from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from backends.session import open_session
from tests.models import parse
from tests.zsq_compile.frontend.test_find_kinds import BERT
from zsq_compile import CompileConfig, compile_model
from zsq_compile.data.input_spec import InputKind, InputSpec
from zsq_compile.frontend.load import load_model
from zsq_compile.inspection.inspect import inspect_model
from zsq_compile.metrics import sqnr_db
from zsq_compile.progress import Silent
from zsq_compile.synthesis.images.procedural import as_input, draw_feed, draw_samples
from zsq_compile.synthesis.stand_ins import draw_stand_ins, visible_shares, warn_of_stand_ins


def spec(kind: InputKind, *shape: int | None, dtype: str = "int64", **more: object) -> InputSpec:
    return InputSpec(name=kind, shape=shape, dtype=np.dtype(dtype), kind=kind, **more)  # type: ignore[arg-type]


def drawn(one: InputSpec, count: int = 64, seed: int = 0) -> np.ndarray:
    return draw_stand_ins(one, count, np.random.default_rng(seed))


def test_a_quarter_of_the_samples_is_shorter_and_the_first_is_whole() -> None:
    shares = visible_shares(4000)
    assert shares[0] == 1.0 and (shares == 1.0).mean() == pytest.approx(0.75, abs=0.01)
    shorter = shares[shares < 1.0]
    assert 0.25 <= shorter.min() < 0.27 and shorter.mean() == pytest.approx(0.625, abs=0.02)


def test_ids_are_of_the_table_frequent_ones_first_and_padded_at_the_end() -> None:
    ids = drawn(spec("tokens", None, 32, limit=1000, neutral=7.0), 400)
    assert ids.dtype == np.int64 and ids.min() == 0 and 990 <= ids.max() < 1000
    whole = ids[visible_shares(400) == 1.0]
    counts = np.bincount(whole.ravel(), minlength=1000)
    # Mandelbrot's law with three in four, the rest evenly: log(1 + 1 / (k + 2.7)) / log(1 + 1000 / 2.7)
    wanted = 0.75 * np.log1p(1.0 / (np.arange(1000) + 2.7)) / np.log1p(1000 / 2.7) + 0.25 / 1000
    shares = counts / counts.sum()
    assert np.abs(shares - wanted).max() < 5 * np.sqrt(wanted.max() / counts.sum())
    for row, share in zip(ids, visible_shares(400), strict=True):
        assert (row[int(np.ceil(32 * share)) :] == 7).all()


def test_ids_masks_and_lengths_of_a_sample_end_at_the_same_place() -> None:
    ids = drawn(spec("tokens", None, 20, limit=50, neutral=0.0), seed=1) + 0
    keeps = drawn(spec("mask", None, 20, neutral=1.0), seed=2)
    hides = drawn(spec("mask", None, 20, dtype="bool", neutral=0.0), seed=3)
    lengths = drawn(spec("length", None, dtype="int32", limit=20), seed=4)
    assert (hides.dtype, lengths.dtype) == (np.bool_, np.int32)
    np.testing.assert_array_equal(keeps.sum(1), lengths)
    np.testing.assert_array_equal(hides, keeps == 0)
    assert (ids[keeps == 0] == 0).all() and lengths.min() >= 5 and lengths.max() == 20


@pytest.mark.parametrize("shape", [(None, 4, 1, 1, 9), (None, 9, 9), (None, 1)])
def test_every_row_of_a_mask_keeps_something(shape: tuple[int | None, ...]) -> None:
    assert drawn(spec("mask", *shape, dtype="float32", neutral=1.0)).max(-1).min() == 1.0


def test_what_is_added_to_scores_hides_nothing() -> None:
    assert not drawn(spec("mask", None, 1, 5, 5, dtype="float32", neutral=0.0)).any()


def test_the_mask_of_a_picture_is_a_region() -> None:
    regions = drawn(spec("mask", None, 1, 16, 16, dtype="float32"))
    assert set(np.unique(regions)) == {0.0, 1.0} and 0.05 < regions.mean() < 0.6


FIXED: dict[InputKind, tuple[InputSpec, np.ndarray]] = {
    "types": (spec("types", None, 3, limit=2), np.zeros((4, 3))),
    "state": (spec("state", 1, 1, 3, dtype="float32"), np.zeros((4, 1, 3))),
    "positions": (spec("positions", None, 5, limit=3), np.tile([0, 1, 2, 0, 1], (4, 1))),
    "rate": (spec("rate", None, usual=(8000.0,)), np.full(4, 8000)),
    "scale": (spec("scale", None, 2, dtype="float32", usual=(1.0,)), np.ones((4, 2))),
    "size": (spec("size", None, 2, dtype="float32", usual=(32.0, 48.0)), np.tile([32.0, 48.0], (4, 1))),
    "length": (spec("length", None, dtype="float32", usual=(1.0,)), np.ones(4)),
}


@pytest.mark.parametrize("kind", FIXED)
def test_what_a_user_would_give(kind: InputKind) -> None:
    one, wanted = FIXED[kind]
    made = drawn(one, 4)
    assert made.dtype == one.dtype
    np.testing.assert_array_equal(made, wanted)


def test_other_whole_numbers_are_small_and_sound_is_loud() -> None:
    counts = drawn(spec("table", None, 6, dtype="uint8"), 500)
    assert counts.dtype == np.uint8 and 1 < counts.max() < 10
    sound = drawn(spec("waveform", None, 400, dtype="int16"))
    assert sound.dtype == np.int16 and sound.std() == pytest.approx(3000.0, rel=0.01)
    assert set(np.unique(drawn(spec("unknown", None, 4, dtype="bool")))) == {False, True}


def test_the_generator_alone_decides_and_types_are_kept() -> None:
    one = spec("tokens", None, 8, limit=100)
    first, again, other = (draw_samples(one, 16, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    flags = draw_feed(spec("mask", None, 4, dtype="bool", neutral=1.0), 4, torch.Generator().manual_seed(0))
    assert as_input(one, first).dtype == torch.int64 and flags.dtype == torch.bool


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.note, self.warn = self.notes.append, self.warnings.append  # type: ignore[method-assign]


def test_only_what_a_user_would_not_give_is_warned_of() -> None:
    listener = Listener()
    faithful = [one for one, _ in FIXED.values() if one.kind != "length"]
    warn_of_stand_ins([*faithful, spec("picture", None, 3, 8, 8, dtype="float32", layout="NCHW")], listener)
    assert len(listener.notes) == len(faithful) and not listener.warnings
    warn_of_stand_ins([spec("tokens", None, 8), spec("mask", None, 8, neutral=1.0)], listener)
    assert len(listener.warnings) == 1 and "--calib" in listener.warnings[0]
    assert "'tokens'" in listener.warnings[0] and "'mask'" in listener.warnings[0]


def compiled(model: onnx.ModelProto, folder: Path) -> tuple[Path, Path, list[str]]:
    """Compile without any sample, on sums that no processor cuts; returns the files and what was said."""
    onnx.save(model, folder / "m.onnx")
    config = CompileConfig(samples=32, effort="fast", speed_trials=False, target="ort_cpu_avx2")
    made = compile_model(folder / "m.onnx", folder / "q.onnx", config)
    assert made.synthetic is not None
    samples = {name: tensor.numpy() for name, tensor in made.synthetic.inputs.items()}
    loaded = load_model(folder / "m.onnx")
    with torch.no_grad():
        for name, values in open_session(folder / "m.onnx").run(loaded.face.axes.to_file(samples)).items():
            assert np.isfinite(values).all(), name
    return folder / "m.onnx", folder / "q.onnx", list(made.report.notes)


def test_a_transformer_compiles_without_samples_and_says_what_that_is_worth(tmp_path: Path) -> None:
    float_file, file, said = compiled(parse(BERT.format(ids="ids", mask="mask", types="types")), tmp_path)
    assert any("stand-ins" in text and "--calib" in text for text in said)
    rng = np.random.default_rng(5)
    mask = (np.arange(6) < rng.integers(2, 7, (64, 1))).astype(np.int64)
    feeds = {"ids": rng.integers(0, 40, (64, 6)) * mask, "mask": mask, "types": np.zeros((64, 6), np.int64)}
    wanted, got = (open_session(path).run(feeds)["y"] for path in (float_file, file))
    assert sqnr_db(wanted, got) > 25.0  # dB
    found = inspect_model(float_file)
    assert [one.kind for one in found.inputs] == ["tokens", "mask", "types"]
    assert any("stand-ins" in text and "'ids'" in text and "'types'" not in text for text in found.warnings)
    assert found.ranges == "measured on one synthetic sample"


GRAPHS = {
    "a decoder with a state": """
        net (int64[N,1] token, float[1,N,12] hidden) => (float[1,N,30] y, float[1,N,12] hidden_out)
        <float[30,8] words, float[1,36,8] w, float[1,36,12] r, float[12,30] last, int64[1] one = {1}>
        { e = Gather(words, token) t = Transpose<perm=[1,0,2]>(e)
          seen, hidden_out = GRU<hidden_size=12>(t, w, r, , , hidden)
          f = Squeeze(seen, one) y = MatMul(f, last) }
    """,
    "a detector with sizes": """
        net (float[N,3,16,16] image, float[N,2] im_shape, float[N,2] scale_factor) => (float[N,2] y)
        <float[2,3,3,3] w>
        { c = Conv(image, w) p = GlobalAveragePool(c) f = Flatten(p) d = Div(im_shape, scale_factor) y = Mul(f, d) }
    """,
    "lengths": """
        net (float[N,7,4] x, int64[N] lengths) => (float[N,3] y)
        <int64[1,7] steps = {0,1,2,3,4,5,6}, int64[1] last = {-1}, int64[1] one = {1}, float[4,3] w>
        { c = Unsqueeze(lengths, last) m = Less(steps, c) f = Cast<to=1>(m) g = Unsqueeze(f, last) h = MatMul(x, w)
          k = Mul(h, g) s = ReduceSum<keepdims=0>(k, one) d = Cast<to=1>(c) y = Div(s, d) }
    """,
    "a rate": """
        net (float[N,256] input, int64 sr) => (float[N,3] y)
        <int64 slow = {8000}, float[256,3] w, float two = {2.0}>
        { is_slow = Equal(sr, slow) f = Cast<to=1>(is_slow) g = Mul(f, two) z = MatMul(input, w) y = Add(z, g) }
    """,
    "truth values": """
        net (float[N,5,4] x, bool[N,5] keep) => (float[N,5,3] y)
        <float low = {-3.4e38}, int64[1] one = {1}, float[4,4] w, float[4,3] v>
        { q = MatMul(x, w) t = Transpose<perm=[0,2,1]>(x) s = MatMul(q, t) r = Unsqueeze(keep, one)
          z = Where(r, s, low) p = Softmax<axis=-1>(z) o = MatMul(p, x) y = MatMul(o, v) }
    """,
}


@pytest.mark.parametrize("what", GRAPHS)
def test_what_is_fed_makes_numbers_and_a_file(what: str, tmp_path: Path) -> None:
    compiled(parse(GRAPHS[what]), tmp_path)
