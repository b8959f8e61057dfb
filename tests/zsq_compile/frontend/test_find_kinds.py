from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.models import parse
from zsq_compile.data.input_spec import InputKind, InputSpec
from zsq_compile.frontend.load import load_model

Look = Callable[[onnx.ModelProto], dict[str, InputSpec]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    def load(model: onnx.ModelProto) -> dict[str, InputSpec]:
        onnx.save(model, tmp_path / "m.onnx")
        loaded = load_model(tmp_path / "m.onnx", simplify=False, verify=False)
        assert all(spec.reason for spec in loaded.inputs)
        return {spec.name: spec for spec in loaded.inputs}

    return load


BERT = """
bert (int64[N,6] {ids}, int64[N,6] {mask}, int64[N,6] {types}) => (float[N,3] y)
<float[40,8] words, float[2,8] kinds, float[1,6,8] places, int64[2] middle = {{1, 2}}, int64[1] first = {{1}},
 float one = {{1.0}}, float far = {{-3.4e38}}, float[8,8] wq, float[8,8] wk, float[8,3] wy>
{{
    e0 = Gather(words, {ids}) e1 = Gather(kinds, {types}) e2 = Add(e0, e1) e = Add(e2, places)
    m0 = Unsqueeze({mask}, first) m1 = Cast<to=1>(m0) m2 = Sub(one, m1) m3 = Mul(m2, far)
    q = MatMul(e, wq) k = MatMul(e, wk) t = Transpose<perm=[0,2,1]>(k) s0 = MatMul(q, t) s = Add(s0, m3)
    p = Softmax<axis=-1>(s) v = MatMul(p, e) c = ReduceMean<keepdims=0>(v, first) y = MatMul(c, wy)
}}
"""


@pytest.mark.parametrize("names", [("input_ids", "attention_mask", "token_type_ids"), ("a", "b", "segment_ids")])
def test_ids_masks_and_types_of_a_transformer(look: Look, names: tuple[str, str, str]) -> None:
    found = look(parse(BERT.format(ids=names[0], mask=names[1], types=names[2])))
    assert [found[name].kind for name in names] == ["tokens", "mask", "types"]
    assert (found[names[0]].limit, found[names[1]].neutral, found[names[2]].limit) == (40, 1.0, 2)


def test_a_table_of_positions_is_told_by_its_name_and_ids_that_fill_up_by_a_comparison(look: Look) -> None:
    found = look(
        parse(
            """
            text (int64[N,6] ids, int64[N,6] position_ids) => (float[N,6,8] y)
            <float[40,8] words, float[20,8] places, int64 pad = {1}, float zero = {0.0}, int64[1] last = {-1}>
            { e0 = Gather(words, ids) e1 = Gather(places, position_ids) e = Add(e0, e1)
              is_pad = Equal(ids, pad) gone = Unsqueeze(is_pad, last) y = Where(gone, zero, e) }
            """
        )
    )
    assert {name: (spec.kind, spec.limit) for name, spec in found.items()} == {
        "ids": ("tokens", 40),
        "position_ids": ("positions", 20),
    }
    assert found["ids"].neutral == 1.0


ONE_HOT = {
    "OneHot": "int64 depth = {4}, float[2] ends = {0.0, 1.0}> { h = OneHot<axis=-1>(codes, depth, ends) "
    "y = MatMul(h, w) }",
    "compared": "int64[1,1,4] all = {0,1,2,3}, int64[1] last = {-1}> { u = Unsqueeze(codes, last) q = Equal(u, all) "
    "h = Cast<to=1>(q) y = MatMul(h, w) }",
}


@pytest.mark.parametrize("form", ONE_HOT)
def test_ids_that_become_vectors_of_zeros_and_one(look: Look, form: str) -> None:
    found = look(parse(f"net (int64[N,9] codes) => (float[N,9,3] y) <float[4,3] w, {ONE_HOT[form]}"))["codes"]
    assert (found.kind, found.limit) == ("tokens", 4)


MASKED = """
masked (float[N,5,4] x, {dtype}[N,{sizes}] {name}) => (float[N,5,4] y)
<float low = {{-10000.0}}, float zero = {{0.0}}, int64[1] first = {{1}}, int64[1] last = {{-1}}, float[4,4] w>
{{ q = MatMul(x, w) t = Transpose<perm=[0,2,1]>(x) s = MatMul(q, t) {body} }}
"""
ATTENDED = "p = Softmax<axis=-1>(z) y = MatMul(p, x)"
MASKS = {
    "true keeps": ("bool", "5", "keep", f"r = Unsqueeze(keep, first) z = Where(r, s, low) {ATTENDED}", 1.0),
    "true hides": ("bool", "5", "m", f"r = Unsqueeze(m, first) z = Where(r, low, s) {ATTENDED}", 0.0),
    "not": ("bool", "5", "m", f"r = Unsqueeze(m, first) n = Not(r) z = Where(n, low, s) {ATTENDED}", 1.0),
    "whole": ("bool", "5,5", "m", f"z = Where(m, s, low) {ATTENDED}", 1.0),
    "chosen": ("bool", "5,5", "m", f"a = Where(m, zero, low) z = Add(s, a) {ATTENDED}", 1.0),
    "joined": (
        "bool",
        "5",
        "m",
        f"r = Unsqueeze(m, first) c = Unsqueeze(m, last) b = And(r, c) z = Where(b, s, low) {ATTENDED}",
        1.0,
    ),
    "whole numbers": (
        "int32",
        "5",
        "m",
        f"b = Cast<to=9>(m) r = Unsqueeze(b, first) z = Where(r, s, low) {ATTENDED}",
        1.0,
    ),
    "added": ("float", "5,5", "bias", f"z = Add(s, bias) {ATTENDED}", 0.0),
    "gate": ("int64", "5", "m", "f = Cast<to=1>(m) r = Unsqueeze(f, last) v = MatMul(s, x) y = Mul(v, r)", 1.0),
    "named gate": ("float", "5", "x_mask", "r = Unsqueeze(x_mask, last) v = MatMul(s, x) y = Mul(v, r)", 1.0),
}


@pytest.mark.parametrize("form", MASKS)
def test_a_mask_is_told_by_what_it_meets(look: Look, form: str) -> None:
    dtype, sizes, name, body, neutral = MASKS[form]
    found = look(parse(MASKED.format(dtype=dtype, sizes=sizes, name=name, body=body)))[name]
    assert (found.kind, found.neutral) == ("mask", neutral)


def test_a_vector_that_gates_is_no_mask_where_nothing_calls_it_so(look: Look) -> None:
    body = "r = Unsqueeze(gain, last) v = MatMul(s, x) y = Mul(v, r)"
    assert look(parse(MASKED.format(dtype="float", sizes="5", name="gain", body=body)))["gain"].kind == "table"


def test_lengths_by_their_place_by_a_comparison_and_by_their_name(look: Look) -> None:
    recurrent = parse(
        """
        net (float[T,N,4] x, int32[N] a) => (float[T,1,N,3] y) <float[1,12,4] w, float[1,12,3] r>
        { y, last, cell = LSTM<hidden_size=3>(x, w, r, , a) }
        """
    )
    assert look(recurrent)["a"].kind == "length"
    compared = parse(
        """
        net (float[N,7,4] x, int64[N] b) => (float[N,7,4] y)
        <int64[1,7] steps = {0,1,2,3,4,5,6}, int64[1] last = {-1}>
        { c = Unsqueeze(b, last) m = Less(steps, c) f = Cast<to=1>(m) g = Unsqueeze(f, last) y = Mul(x, g) }
        """
    )
    found = look(compared)
    assert (found["b"].kind, found["b"].limit) == ("length", 7)
    named = parse(
        """
        net (float[N,80,30] audio_signal, int64[N] length, float[N] wav_lens) => (float[N,4,30] y, int64[N] out)
        <float[4,80,3] w, int64 one = {1}, int64[2] last = {1,2}>
        { z = Conv<pads=[1,1]>(audio_signal, w) l = Unsqueeze(wav_lens, last) y = Mul(z, l) out = Add(length, one) }
        """
    )
    found = look(named)
    assert {name: spec.kind for name, spec in found.items()} == {
        "audio_signal": "spectrogram",
        "length": "length",
        "wav_lens": "length",
    }
    assert (found["length"].limit, found["wav_lens"].usual) == (30, (1.0,))


STATES = {
    "wired": ("a", "b", "u", "v"),
    "h and c": ("h0", "c0", "hn", "cn"),
    "of a decoder": ("past.0.key", "past.0.value", "present.0.key", "present.0.value"),
    "of a video": ("r1i", "r2i", "r1o", "r2o"),
    "cached": ("cached_avg_0", "cached_len_0", "new_cached_avg_0", "new_cached_len_0"),
}


@pytest.mark.parametrize("form", STATES)
def test_states_by_their_place_or_by_the_output_that_hands_them_on(look: Look, form: str) -> None:
    nodes = "q = Tanh(s0) t1 = Tanh(s1) t0 = Add(q, t1) z = MatMul(x, w) y = Add(z, t0)"
    if form == "wired":
        nodes = "z, a0, b0 = LSTM<hidden_size=3>(x, k, r, , , s0, s1) y = Relu(z) t0 = Tanh(a0) t1 = Tanh(b0)"
    model = parse(
        f"""
        net (float[5,N,4] x, float[1,N,3] s0, float[1,N,3] s1) => (float[A,B,C{",D" if form == "wired" else ""}] y,
             float[E,N,3] t0, float[F,N,3] t1) <float[1,12,4] k, float[1,12,3] r, float[4,3] w> {{ {nodes} }}
        """
    )
    names = dict(zip(("s0", "s1", "t0", "t1"), STATES[form], strict=True))
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    found = look(model)
    assert {name: spec.kind for name, spec in found.items()} == {
        "x": "features",
        names["s0"]: "state",
        names["s1"]: "state",
    }


def test_the_only_input_is_no_state_and_neither_is_a_picture(look: Look) -> None:
    alone = look(parse("net (float[N,4] state) => (float[N,4] state_out) { state_out = Tanh(state) }"))
    assert alone["state"].kind == "table"
    picture = look(
        parse(
            """
            net (float[N,3,8,8] image_in, float[N,3,8,8] noise) => (float[N,3,8,8] image_out)
            <float[3,3,3,3] w> { c = Conv<pads=[1,1,1,1]>(image_in, w) image_out = Add(c, noise) }
            """
        )
    )
    assert picture["image_in"].kind == "picture"


def test_what_an_encoder_hands_over_is_no_state_though_an_output_has_its_shape(look: Look) -> None:
    found = look(
        parse(
            """
            decoder (float[N,6,8] x, float[N,6,8] encoder_hidden_states) => (float[N,6,8] last_hidden_state)
            <float[8,8] w> { k = MatMul(encoder_hidden_states, w) last_hidden_state = Add(k, x) }
            """
        )
    )
    assert found["encoder_hidden_states"].kind == "features"


def test_a_sampling_rate_and_what_it_stands_beside(look: Look) -> None:
    found = look(
        parse(
            """
            net (float[N,512] input, int64 sr) => (float[N,3] y)
            <int64 slow = {8000}, float[512,3] w, float two = {2.0}>
            { is_slow = Equal(sr, slow) f = Cast<to=1>(is_slow) g = Mul(f, two) z = MatMul(input, w) y = Add(z, g) }
            """
        )
    )
    assert {name: (spec.kind, spec.usual) for name, spec in found.items()} == {
        "input": ("waveform", None),
        "sr": ("rate", (8000.0,)),
    }


def test_the_size_and_scale_of_a_picture(look: Look) -> None:
    found = look(
        parse(
            """
            net (float[N,3,32,48] image, float[N,2] im_shape, float[N,2] scale_factor) => (float[N,2] y)
            <float[2,3,3,3] w>
            { c = Conv(image, w) p = GlobalAveragePool(c) f = Flatten(p) d = Div(im_shape, scale_factor) y = Mul(f, d) }
            """
        )
    )
    assert {name: (spec.kind, spec.usual) for name, spec in found.items()} == {
        "image": ("picture", None),
        "im_shape": ("size", (32.0, 48.0)),
        "scale_factor": ("scale", (1.0,)),
    }


@pytest.mark.parametrize(("name", "dtype"), [("orig_target_sizes", "int64"), ("im_shape", "float")])
def test_a_size_that_boxes_are_multiplied_by_is_no_mask(look: Look, name: str, dtype: str) -> None:
    found = look(
        parse(
            f"""
            detr (float[N,3,32,48] images, {dtype}[N,2] {name}) => (float[N,2] boxes) <float[2,3,3,3] w>
            {{ c = Conv(images, w) p = GlobalAveragePool(c) f = Flatten(p) s = Cast<to=1>({name}) boxes = Mul(f, s) }}
            """
        )
    )
    assert (found[name].kind, found[name].usual) == ("size", (32.0, 48.0))


def _waves(size: int) -> np.ndarray:
    angle = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
    window = np.hanning(size)
    return np.concatenate([np.cos(angle) * window, np.sin(angle) * window])[:, None]


def test_a_first_layer_of_cosines_and_sines_makes_a_waveform(look: Look) -> None:
    text = "net (float[N,{length}] x) => (float[N,130,T] y) <int64[1] one = {{1}}, float[130,1,128] w> "
    body = "{{ u = Unsqueeze(x, one) y = Conv<strides=[64]>(u, w) }}"
    found = look(parse((text + body).format(length=576), weights={"w": _waves(128)}))["x"]
    assert found.kind == "waveform" and "Fourier" in found.reason
    learned = look(parse((text + body).format(length=576)))["x"]
    assert learned.kind == "waveform" and "Fourier" not in learned.reason


CONV = "y = Conv(x, w)"
SIGNALS: dict[str, tuple[str, str, str, InputKind]] = {
    "samples of sound": ("N,1,16000", CONV, "float[4,1,80] w", "waveform"),
    "several electrodes": ("N,8,500", CONV, "float[4,8,9] w", "waveform"),
    "electrodes as rows": ("N,1,22,1125", CONV, "float[4,1,1,64] w", "waveform"),
    "a long vector": ("N,40000", "y = Relu(x)", "float[1] w", "waveform"),
    "a long row of features": ("N,8192", "y = MatMul(x, w)", "float[8192,2] w", "table"),
    "a row": ("N,42", "y = MatMul(x, w)", "float[42,2] w", "table"),
    "points": ("N,3,256", CONV, "float[4,3,1] w", "features"),
    "vectors": ("N,16,96", "f = Flatten(x) y = MatMul(f, w)", "float[1536,2] w", "features"),
    "frames of bands": ("N,100,80", "y = MatMul(x, w)", "float[80,2] w", "spectrogram"),
    "bands of frames": ("N,40,101", CONV, "float[4,40,3] w", "spectrogram"),
    "cepstra": ("N,1,49,10", CONV, "float[4,1,10,4] w", "spectrogram"),
    "cepstra, channels last": (
        "N,49,10,1",
        "t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w)",
        "float[4,1,3,3] w",
        "spectrogram",
    ),
    "mel bands": ("N,1,98,40", CONV, "float[4,1,3,3] w", "spectrogram"),
    "an odd number of frames": ("N,1,64,431", CONV, "float[4,1,3,3] w", "spectrogram"),
    "real and imaginary parts": ("N,2,257,100", CONV, "float[4,2,3,3] w", "spectrogram"),
    "digits": ("N,1,28,28", CONV, "float[4,1,3,3] w", "picture"),
    "a gray line of text": ("N,1,32,100", CONV, "float[4,1,3,3] w", "picture"),
    "a gray photograph": ("N,1,480,640", CONV, "float[4,1,3,3] w", "picture"),
    "a small gray photograph": ("N,1,120,160", CONV, "float[4,1,5,5] w", "picture"),
    "colours": ("N,3,64,40", CONV, "float[4,3,3,3] w", "picture"),
    "maps": ("N,12,16,16", CONV, "float[4,12,3,3] w", "features"),
}


@pytest.mark.parametrize("what", SIGNALS)
def test_data_by_shape_and_first_layer(look: Look, what: str) -> None:
    sizes, body, weight, kind = SIGNALS[what]
    dims = "A,B" if "Flatten" in body else ",".join("ABCD"[: sizes.count(",") + 1])
    found = look(parse(f"net (float[{sizes}] x) => (float[{dims}] y) <{weight}> {{ {body} }}"))["x"]
    assert found.kind == kind
    assert found.is_image == (kind == "picture")


@pytest.mark.parametrize(
    ("name", "sizes", "kind"),
    [
        ("mel", "N,1,64,64", "spectrogram"),
        ("log_mel_spectrogram", "N,3,128,64", "spectrogram"),
        ("image", "N,1,80,160", "picture"),
        ("speech", "N,3,64,64", "picture"),
    ],
)
def test_a_name_decides_where_the_graph_leaves_it_open(look: Look, name: str, sizes: str, kind: InputKind) -> None:
    channels = sizes.split(",")[1]
    text = f"net (float[{sizes}] {name}) => (float[A,B,C,D] y) <float[4,{channels},3,3] w> {{ y = Conv({name}, w) }}"
    assert look(parse(text))[name].kind == kind


def test_every_band_normalized_by_itself_makes_a_spectrogram(look: Look) -> None:
    text = """
        net (float[N,1,64,64] x) => (float[N,4,62,62] y)
        <float[64] scale, float[64] shift, float[64] mean, float[64] variance, float[4,1,3,3] w>
        { t = Transpose<perm=[0,3,2,1]>(x) n = BatchNormalization(t, scale, shift, mean, variance)
          u = Transpose<perm=[0,3,2,1]>(n) y = Conv(u, w) }
    """
    assert look(parse(text))["x"].kind == "spectrogram"


def test_whole_numbers_that_are_no_ids(look: Look) -> None:
    text = """
        net (int16[N,400] pcm, int64[N,5] counts, float[N,5] x, bool[N,2,2] flags)
            => (float[N,5] y, float[N,400] z, bool[N,2,2] f)
        { c = Cast<to=1>(counts) y = Add(c, x) z = Cast<to=1>(pcm) f = Not(flags) }
    """
    found = look(parse(text))
    assert {name: spec.kind for name, spec in found.items()} == {
        "pcm": "waveform",
        "counts": "table",
        "x": "table",
        "flags": "unknown",
    }
    assert all(spec.can_be_made for spec in found.values())


def test_the_mask_of_a_picture(look: Look) -> None:
    text = """
        net (float[N,3,16,16] image, float[N,1,16,16] mask) => (float[N,4,14,14] y) <float[4,4,3,3] w>
        { j = Concat<axis=1>(image, mask) y = Conv(j, w) }
    """
    found = look(parse(text))
    assert (found["mask"].kind, found["mask"].neutral, found["image"].kind) == ("mask", None, "picture")
