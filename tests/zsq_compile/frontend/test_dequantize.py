"""Quantized files, made by onnxruntime's quantizer and by ours, as the float models that they stand for."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from backends.session import open_session
from tests import models
from tests.zsq_compile.frontend.quick import load_quickly
from zsq_compile import CompileConfig, InputConfig, QuantizationConfig, compile_model, inspect_model
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend import dequantize
from zsq_compile.frontend.equivalence import Reference
from zsq_compile.frontend.load import load_model

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
DIGITS = EXAMPLES / "digits.onnx"
LAYERS = 10
# What was lost is one rounding of activations: 8 bits of digits give 33 to 37 dB here, and 9 is another function.
LEAST_DB = 22.0  # sums of int8 activations saturate on processors without VNNI


def images() -> np.ndarray:
    with np.load(EXAMPLES / "digits_test.npz") as archive:
        return (archive["images"].astype(np.float32) / 255).transpose(0, 3, 1, 2)


class _Images(CalibrationDataReader):
    def __init__(self) -> None:
        self._batches = iter([{"image": images()[start : start + 32]} for start in range(0, 128, 32)])

    def get_next(self):
        return next(self._batches, None)


def logits(model) -> np.ndarray:
    return open_session(model).run({"image": images()})["logits"]


def ratio_db(signal: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.square(signal).sum() / max(np.square(signal - other).sum(), 1e-30)))


def layer_names() -> list[str]:
    return [node.name for node in onnx.load(DIGITS).graph.node if node.op_type in ("Conv", "Gemm")]


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR)  # onnxruntime's quantizer advises its users to prepare the graph


STATIC = {
    "QDQ": {"quant_format": QuantFormat.QDQ},
    "QDQ of int8 activations, per channel": {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QInt8,
    },
    "operators": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
    "operators, per channel": {
        "quant_format": QuantFormat.QOperator,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
    },
    "16 bits": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt16},
    "4-bit weights": {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt4,
    },
}


@pytest.mark.parametrize("kind", STATIC)
def test_what_onnxruntime_quantized(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    quantize_static(DIGITS, path, _Images(), **{"weight_type": QuantType.QInt8, **STATIC[kind]})
    loaded = load_model(path)
    assert ratio_db(logits(path), logits(loaded.original)) > LEAST_DB
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(models.operators(loaded.model))
    notes = "\n".join(loaded.notes)
    assert f"the file is quantized and was turned back into a float model: weights of {LAYERS} of its {LAYERS}" in notes
    assert "quantizers of activations became clipping" in notes
    assert "with an SQNR of" in notes
    (warning,) = loaded.warnings
    assert str(path) in warning
    assert loaded.restored_bytes == pytest.approx(DIGITS.stat().st_size, rel=0.25)


def test_a_network_quantized_in_part(tmp_path: Path) -> None:
    path, left = tmp_path / "part.onnx", layer_names()[3:5]
    quantize_static(DIGITS, path, _Images(), per_channel=True, nodes_to_exclude=left)
    loaded = load_model(path)
    assert ratio_db(logits(path), logits(loaded.original)) > LEAST_DB
    assert "the file is quantized in part" in loaded.notes[0]
    assert f"weights of {LAYERS - len(left)} of its {LAYERS} layers" in loaded.notes[0]
    assert loaded.warnings == ()


@pytest.mark.parametrize("per_channel", [False, True])
def test_what_was_quantized_as_it_comes(per_channel: bool, tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    kind = QuantType.QInt8 if per_channel else QuantType.QUInt8
    quantize_dynamic(DIGITS, path, per_channel=per_channel, weight_type=kind)
    loaded = load_model(path)
    assert ratio_db(logits(path), logits(loaded.original)) > LEAST_DB
    assert f"({LAYERS} of them with dynamic quantization)" in loaded.notes[0]
    assert set(models.operators(loaded.model)) <= {
        "Conv", "BatchNormalization", "Relu", "Clip", "Add", "GlobalAveragePool", "Flatten", "MatMul", "Gemm",
    }  # fmt: skip


@pytest.mark.parametrize(("bits", "act_bits"), [(8, 8), (4, 8), (3, 4)])
def test_our_own_files_compile_again(bits: int, act_bits: int, tmp_path: Path) -> None:
    widths = QuantizationConfig(bits=bits, act_bits=act_bits)
    quick = CompileConfig(effort="fast", speed_trials=False, quantization=widths)
    first = compile_model(DIGITS, tmp_path / "first.onnx", quick)
    loaded = load_model(first.path)
    float_logits = logits(loaded.original)
    assert ratio_db(logits(first.path), float_logits) > (LEAST_DB if act_bits == 8 else 15.0)
    operators = models.operators(loaded.model)
    assert "Cast" not in operators and "Mod" not in operators  # packed weights are unpacked
    config = CompileConfig(
        effort="fast", speed_trials=False, quantization=widths, input=InputConfig(mean=(0.0,), std=(1.0,))
    )
    again = compile_model(first.path, tmp_path / "again.onnx", config)
    assert again.report.validation.failures == ()
    assert (again.report.validation.fusion.fused, again.report.validation.fusion.unfused) == (LAYERS, ())
    agreement = np.mean(logits(DIGITS).argmax(1) == logits(again.path).argmax(1))
    assert agreement >= 0.98
    assert set(loaded.warnings) <= set(again.report.notes) and loaded.warnings
    assert again.report.validation.float_bytes == loaded.restored_bytes
    assert again.report.validation.float_bytes > 2 * first.path.stat().st_size


def test_a_network_quantized_in_part_ends_with_all_its_layers_in_integers(tmp_path: Path) -> None:
    prepared, path = tmp_path / "prepared.onnx", tmp_path / "part.onnx"
    compile_ready = load_model(DIGITS)
    onnx.save(_folded(compile_ready.original), prepared)
    left = [node.name for node in onnx.load(prepared).graph.node if node.op_type in ("Conv", "Gemm")][2:5]
    quantize_static(prepared, path, _Images(), per_channel=True, nodes_to_exclude=left)
    result = compile_model(path, tmp_path / "done.onnx", CompileConfig(effort="fast", speed_trials=False))
    onnx.checker.check_model(onnx.load(result.path), full_check=True)
    fusion = result.report.validation.fusion
    assert (fusion.fused, fusion.unfused) == (LAYERS, ())
    assert result.report.validation.failures == ()
    assert np.mean(logits(DIGITS).argmax(1) == logits(result.path).argmax(1)) >= 0.98


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_ir as ir

    from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
    from passes.normalize.normalize import normalize
    from passes.quantize.prepare_float import prepare_float

    normal = normalize(ir.from_proto(model))
    return ir.to_proto(prepare_float(normal, harvest_batchnorm(normal), equalize=False))


def test_codes_at_the_border_stay_and_the_inside_is_quantized(tmp_path: Path) -> None:
    text = """
        g (uint8[N,3,8,8] x) => (uint8[N,4] y)
        <float s = {0.02}, uint8 z = {128}, float t = {0.05}, uint8 u = {100}, float[8,3,3,3] w0, float[8] b0,
         float[8,8,3,3] w1, float[8] b1, float[4,8] w2, float[4] b2>
        {
            d = DequantizeLinear(x, s, z)
            c = Conv<pads=[1,1,1,1]>(d, w0, b0)
            q = QuantizeLinear(c, t)
            e = DequantizeLinear(q, t)
            k = Conv<pads=[1,1,1,1]>(e, w1, b1)
            r = Relu(k)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            [last] l = Gemm<transB=1>(f, w2, b2)
            [l_QuantizeLinear] y = QuantizeLinear(l, t, u)
        }
    """
    path = tmp_path / "codes.onnx"
    onnx.save(models.parse(text), path)
    samples = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8)).astype(np.uint8)
    config = CompileConfig(effort="fast", speed_trials=False, keep_quality="off")
    result = compile_model(path, tmp_path / "out.onnx", config, calibration={"x": samples})
    assert any(note.endswith("with their quantizers: 'x', 'y'") for note in result.report.notes)
    assert result.report.validation.fusion.fused == 3
    before, after = (open_session(each).run({"x": samples})["y"].astype(int) for each in (path, result.path))
    assert np.abs(before - after).max() <= 2 and len(np.unique(before)) > 10


def test_inspect_tells_the_same(tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    quantize_static(DIGITS, path, _Images(), per_channel=True)
    loaded, quick, found = load_model(path), load_quickly(path), inspect_model(path)
    assert quick.notes[:2] == loaded.notes[:2]
    assert quick.warnings == loaded.warnings
    assert quick.operators == loaded.operators and "DequantizeLinear" in quick.operators
    assert found.notes == quick.notes
    assert found.warnings[0] == loaded.warnings[0]
    # behind the limits of a quantizer each of the nine normalisations is a layer of its own
    assert (found.placement.layers, found.placement.integer) == (2 * LAYERS - 1, 2 * LAYERS - 1)


def quantized_text(middle: str) -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3,8,8] x) => (float[A,B,C,D] y)
        <float s = {{0.1}}, uint8 z = {{3}}, float[2,3,1,1] w = {{1.0,2.0,3.0,4.0,5.0,6.0}}> {{ {middle} }}
    """


@pytest.mark.parametrize("load", [load_model, load_quickly])
def test_what_cannot_be_turned_back_is_refused_in_words(load, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(quantized_text("[odd] q = QuantizeLinear(x, s, z) y = Cast<to=1>(q)")), path)
    with pytest.raises(
        UnsupportedModelError, match=r"QuantizeLinear 'odd': .* reads its codes .* give the float model"
    ):
        load(path)


def test_a_float_form_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "quantized.onnx"
    quantize_static(DIGITS, path, _Images(), per_channel=True)
    right = dequantize.RestoreFloat

    class Wrong(right):
        def call(self, model):
            restored = super().call(model)
            conv = next(
                node for node in model.graph if node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1
            )
            weight = conv.inputs[1].const_value.numpy()
            conv.inputs[1].const_value = dequantize.ir.tensor(-weight, name=conv.inputs[1].name)
            return restored

    monkeypatch.setattr(dequantize, "RestoreFloat", Wrong)
    with pytest.raises(UnsupportedModelError, match=r"SQNR -\d+\.\d dB .* at least 10"):
        load_model(path)


def test_few_levels_for_an_activation_are_noted_instead(tmp_path: Path) -> None:
    text = """
        g (float[N,3,8,8] x) => (float[N,2,8,8] y) <float s = {120.0}, uint4 z = {8}, float[2,3,1,1] w>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv(d, w) }
    """
    path = tmp_path / "coarse.onnx"
    onnx.save(models.parse(text), path)
    notes = "\n".join(load_model(path).notes)
    assert "16 levels for an activation are few" in notes
    assert "1 quantizer of activations became clipping" in notes
    assert "the file is quantized" not in notes


def test_sqnr_is_that_of_the_worst_output() -> None:
    def model(body: str) -> onnx.ModelProto:
        return models.parse(
            "g (float[N,4] x) => (float[N,4] y, float[N,4] z, int64[N,1] k) "
            f"<float half = {{0.5}}, float most = {{0.9}}, float none = {{0.0}}> {{ {body} k = ArgMax<axis=1>(y) }}"
        )

    (spec,) = load_like(model("y = Identity(x) z = Identity(x)"))
    reference = Reference(model("y = Identity(x) z = Identity(x)"), [spec])
    assert reference.sqnr(model("y = Identity(x) z = Identity(x)")) == np.inf
    # one tenth less than what it should be: 0.9 of signal against 0.1 of noise
    assert reference.sqnr(model("y = Identity(x) z = Mul(x, most)")) == pytest.approx(20 * np.log10(9))
    assert reference.sqnr(model("y = Mul(x, half) z = Mul(x, most)")) == pytest.approx(0.0)
    assert reference.sqnr(model("y = Identity(x) z = Mul(x, none)")) == np.inf  # zeros are ignored


def test_a_batch_outside_the_quantization_range_does_not_count() -> None:
    def model(body: str) -> onnx.ModelProto:
        return models.parse(f"g (float[N,4] x) => (float[N,4] y) <float step = {{64.0}}> {{ {body} }}")

    exact = model("y = Identity(x)")
    reference = Reference(exact, load_like(exact))
    # normal numbers are rounded away, numbers from 0 to 255 are not
    rounded = model("d = Div(x, step) r = Round(d) y = Mul(r, step)")
    assert 10.0 < reference.sqnr(rounded) < 30.0


def load_like(model: onnx.ModelProto):
    from zsq_compile.frontend.input_shapes import settle_inputs

    return settle_inputs(model, Path("model.onnx"), {})
