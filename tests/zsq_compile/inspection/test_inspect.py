"""zsq-compile inspect: what it finds is there, what compiling then does, and on real models what the runtime did."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rich.console import Console

from tests import models
from zsq_compile import inspect_model
from zsq_compile.cli import entry as cli
from zsq_compile.cli.inspection_table import facts, print_inspection, time_words
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import given_preprocessing, usual_preprocessings
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import load_model
from zsq_compile.inspection.advice import advise
from zsq_compile.inspection.findings import FloatNodes, Inspection
from zsq_compile.stages.provenance import Origin, stamp

ROOT = Path(__file__).resolve().parents[3]
ASSETS = Path(os.environ.get("ZSQ_ASSETS", ROOT / "../shared/assets")) / "models"


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Inspection]:
    def run(model: onnx.ModelProto, **options: Any) -> Inspection:
        path = tmp_path / "net.onnx"
        onnx.save(model, path)
        return inspect_model(path, **options)

    return run


def test_outputs_mean_something_and_only_classifiers_are_promised_classes(look: Callable[..., Inspection]) -> None:
    classifier = look(models.residual())
    picture = look(models.conv_bn_relu())

    assert (classifier.task.kind, classifier.task.outputs[0].role) == ("classification", "class scores")
    assert ("task", "classification") in facts(classifier)
    assert any(label == "output" and text.startswith("logits: class scores, as ") for label, text in facts(classifier))
    assert picture.task.kind != "classification"
    assert picture.estimates and all(one.usual is None for one in picture.estimates)
    told = json.loads(json.dumps(picture.to_json()))["task"]
    assert (told["kind"], told["outputs"][0]["name"]) == (picture.task.kind, "y")


def test_the_facts_of_a_residual_network(look: Callable[..., Inspection]) -> None:
    found = look(models.residual())
    assert (found.opset, found.outputs) == (21, ("logits",))
    assert dict(found.operators) == {
        "Conv": 3,
        "BatchNormalization": 3,
        "Relu": 3,
        "Add": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    assert (found.inputs[0].shape, found.inputs[0].assumed) == (("?", 3, 8, 8), None)
    assert found.statistics.source == "from BN nodes"
    assert all(one.usual is not None for one in found.estimates)
    assert (found.statistics.layers, found.statistics.covered, found.statistics.advice) == (3, 3, None)
    assert (found.placement.layers, found.placement.integer, found.placement.left_float) == (4, 4, ())
    assert found.ranges == "measured on one synthetic sample"
    assert found.dead_channels == found.bias_risks == found.scale_conflicts == ()
    assert [one.bits for one in found.estimates] == [8, 4]
    assert found.estimates[1].bytes < found.estimates[0].bytes
    assert found.bytes == found.model.stat().st_size


def test_a_network_without_statistics_is_told_how_to_get_some(look: Callable[..., Inspection]) -> None:
    found = look(models.branches())
    assert found.statistics.source == "without statistics"
    assert "--checkpoint" in str(found.statistics.advice) and "--bn-stats" in str(found.statistics.advice)
    assert any("--checkpoint" in text for text in found.warnings)
    doubtful = replace(found, posteriors={"x": Posterior.certain(usual_preprocessings(1)[0])})  # source: assumed
    assert any("preprocessing of 'x' is uncertain" in text and "--input-range" in text for text in advise(doubtful))


def test_a_batch_normalisation_on_the_input_is_read(look: Callable[..., Inspection]) -> None:
    """Which layer it watches is then no node's output, but the input itself."""
    mean, deviation = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    model = models.parse(
        """
        net (float[N,3,16,16] x) => (float[N,4,14,14] y)
        <float[3] scale, float[3] shift, float[3] mean, float[3] variance, float[4,3,3,3] w>
        { [bn] n = BatchNormalization(x, scale, shift, mean, variance) [conv] y = Conv(n, w) }
        """,
        weights={"mean": mean, "variance": deviation**2},
    )
    (found,) = look(model).preprocessing.values()
    assert (found.name, found.source) == ("unit", "inferred")


def test_what_stays_float_is_named_with_the_reason(look: Callable[..., Inspection]) -> None:
    text = """
    net (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,3,3] w0, float[4,4,3,3] w1>
    { [first] c = Conv<pads=[1,1,1,1]>(x, w0) [soft] s = Softplus(c) [last] y = Conv<pads=[1,1,1,1]>(s, w1) }
    """
    found = look(models.parse(text))
    reasons = {one.op_type: one for one in found.placement.float_nodes}
    assert reasons["Softplus"].nodes == ("soft",)
    assert "no integer kernel for Softplus" in reasons["Softplus"].reason
    assert found.placement.without_kernel == ("last",), (
        "the output of a Conv at the end stays float, and with it the Conv"
    )
    assert (found.placement.layers, found.placement.integer) == (2, 1)
    assert any("stored in integers and run in float" in text for text in found.warnings)


def test_dead_channels_and_bias_overflow_are_found(look: Callable[..., Inspection]) -> None:
    model = models.branches()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name == "w0":
            array[2] = 0.0
        if tensor.name == "b1":
            array[1] = 1e9
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    found = look(model)
    assert [(one.node, one.constant) for one in found.dead_channels] == [("left", (2,))]
    assert [(one.node, one.channels) for one in found.bias_risks] == [("right", (1,))]
    assert any(text.startswith("bias overflow: 1 channel of right") for text in found.warnings)
    assert any(text.startswith("1 dead channel in 1 layer") for text in found.warnings)


def test_a_scale_conflict_is_found(look: Callable[..., Inspection]) -> None:
    text = """
    net (float[N,2,8,8] x) => (float[N,4,8,8] y)
    <float[4,2,1,1] w0, int64[1] low = {0}, int64[1] mid = {2}, int64[1] axis = {1}, float[4,2,1,1] w1>
    { [first] c = Conv(x, w0) [cut] s = Slice(c, low, mid, axis) [last] d = Conv(s, w1) y = Tanh(d) }
    """
    weight = np.ones((4, 2, 1, 1))
    weight[2:] = 1000.0
    found = look(models.parse(text, weights={"w0": weight}))
    (conflict,) = found.scale_conflicts
    assert (conflict.widest, conflict.narrowest) == ("c", "s")
    assert 9.0 < conflict.bits_lost < 11.0, "a factor of about a thousand"
    assert any(text.startswith("scale conflict") for text in found.warnings)


def test_a_network_that_cannot_be_fed_or_quantized_is_told_so(look: Callable[..., Inspection]) -> None:
    found = look(models.parse("net (int64[N,4] x) => (float[N,4] y) { f = Cast<to=1>(x) y = Tanh(f) }"))
    assert (found.inputs[0].kind, found.inputs[0].takes_stand_ins) == ("table", True)
    assert found.estimates == ()
    assert any("nothing in this model can be quantized" in text for text in found.warnings)
    assert any("--calib FILE.npz" in text for text in found.warnings)
    assert found.preprocessing == {}


def test_open_sizes_are_chosen_and_how_to_give_others_is_told(look: Callable[..., Inspection]) -> None:
    model = models.parse(
        "net (float[N,3,H,W] x) => (float[N,4,H,W] y) <float[4,3,1,1] w> { c = Conv(x, w) y = Tanh(c) }"
    )
    found = look(model)
    assert found.inputs[0].assumed == "?x3x32x32"
    assert any('--input-shape "x:?x3x32x32"' in text for text in found.warnings)
    assert look(model, input_shapes={"x": (None, 3, 8, 8)}).inputs[0].assumed is None


def test_json_holds_everything_and_the_page_shows_it(look: Callable[..., Inspection]) -> None:
    found = look(models.residual())
    told = found.to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["statistics"]["coverage"] == found.statistics.coverage
    assert told["estimates"][0]["bytes"] == found.estimates[0].bytes
    stream = io.StringIO()
    print_inspection(Console(file=stream, width=200, color_system=None), found)
    page = stream.getvalue()
    for label, text in facts(found):
        assert label in page and " ".join(text.split())[:60] in " ".join(page.split())
    assert "8 bits" in page and "4 bits" in page


@pytest.mark.parametrize(("count", "words"), [(9, "1 more reason, see --json"), (10, "2 more reasons, see --json")])
def test_reasons_that_do_not_fit_are_counted(look: Callable[..., Inspection], count: int, words: str) -> None:
    found = look(models.residual())
    one = FloatNodes(op_type="Exp", reason="no kernel", nodes=("e",))
    crowded = replace(found, placement=replace(found.placement, float_nodes=(one,) * count))
    assert ("stays float", words) in facts(crowded)


def test_names_with_brackets_are_shown_as_they_are(look: Callable[..., Inspection]) -> None:
    model = models.branches()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "y[bold]"
    stream = io.StringIO()
    print_inspection(Console(file=stream, width=200, color_system=None), look(model))
    assert "y[bold]" in stream.getvalue()


def test_times_are_told_without_false_precision() -> None:
    assert [time_words(seconds) for seconds in (0.4, 31.0, 100.0, 5399.0, 9000.0)] == [
        "5 s",
        "35 s",
        "2 min",
        "90 min",
        "2.5 h",
    ]


def test_an_unknown_target_is_refused(look: Callable[..., Inspection]) -> None:
    with pytest.raises(ConfigError, match="ort_cpus"):
        look(models.residual(), target="ort_cpus")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.branches(), path)

    def call(*words: str) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", *words])
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call(str(path), "--json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["placement"]["target"]) == (0, 0, "ort_cpu")
    assert call(str(path), "-q")[1].splitlines() == told["warnings"]
    assert "layers in integers" in call(str(path))[1]
    code, out, _ = call(str(tmp_path / "none.onnx"), "--json")
    assert (code, json.loads(out)["exit_code"]) == (3, 3)
    assert list(tmp_path.iterdir()) == [path], "nothing is written"


def test_torch_and_the_simplifier_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    code = (
        f"import sys; from zsq_compile import inspect_model; inspect_model({str(path)!r}); "
        "print(sorted({'torch', 'onnxsim', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# What the runtime fused of the quantized file: benchmarks/results/wild.md; of two compiled again with
# --keep-quality off: since then four ConvTranspose of prisma are written as convolutions
# (passes/quantize/write_in_parts.py), and the four layers that make ultraface's boxes stay float, too (target row
# "decode_tail").
FUSED = {
    "ultraface_rfb320": (44, 8),
    "pfld_landmark": (45, 0),
    "deeplab_mnv2_dm05_513": (54, 1),
    "prisma_portrait_seg": (101, 1),
    "fastestdet_352": (67, 3),
}


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the real models of ZSQ_ASSETS are not here")
@pytest.mark.parametrize("name", FUSED)
def test_what_is_said_to_fuse_is_what_the_runtime_fused(name: str) -> None:
    placement = inspect_model(ASSETS / "wild" / f"{name}.onnx").placement
    assert (placement.integer, placement.layers - placement.integer) == FUSED[name]


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the real models of ZSQ_ASSETS are not here")
def test_the_graph_that_is_looked_at_is_planned_like_the_one_that_is_compiled() -> None:
    from backends.catalog import load_target
    from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
    from passes.quantize.place_quantizers import place_quantizers
    from passes.quantize.prepare_float import prepare_float
    from tests.zsq_compile.frontend.quick import load_quickly

    path, target = ASSETS / "imagenet" / "mobilenetv1_075_bn.onnx", load_target("ort_cpu")
    plans = []
    for model in (load_quickly(path).model, load_model(path).model):
        plan = place_quantizers(prepare_float(model, harvest_batchnorm(model), equalize=False), target)
        plans.append((len(plan.activations), [(site.axis, site.number_format) for site in plan.weights], plan.refusals))
    assert plans[0] == plans[1]


def test_a_checkpoint_is_looked_into_as_compiling_does() -> None:
    if not ASSETS.is_dir():
        pytest.skip("the real models of ZSQ_ASSETS are not here")
    folder = ASSETS / "cifar10"
    bare, found = (
        inspect_model(folder / "resnet20_folded.onnx", checkpoint=file)
        for file in (None, folder / "resnet20-12fca82f.th")
    )
    assert (bare.statistics.source, bare.statistics.covered) == ("without statistics", 0)
    assert found.statistics.source == "from checkpoint resnet20-12fca82f.th"
    assert (found.statistics.covered, found.statistics.advice) == (19, None)
    assert [one.source for one in found.preprocessing.values()] == ["inferred"]
    with pytest.raises(ConfigError, match=r"resnet20-12fca82f\.th .*none of its 28 layers"):
        inspect_model(ASSETS / "imagenet/mobilenetv1_075_folded.onnx", checkpoint=folder / "resnet20-12fca82f.th")


TABLE = """
net (float[N,4] row) => (float[N,3] y)
<float[4] scale, float[4] shift, float[4] mean, float[4] variance, float[4,3] w>
{ n = BatchNormalization(row, scale, shift, mean, variance) y = MatMul(n, w) }
"""


def test_the_scale_of_a_signal_is_found_without_torch(look: Callable[..., Inspection]) -> None:
    moments = {"mean": np.array([48.0, 50.0, 51.0, 52.0]), "variance": np.array([90.0, 100.0, 110.0, 95.0])}
    found = look(models.parse(TABLE, weights=moments))
    assert (found.inputs[0].kind, found.inputs[0].is_signal) == ("table", True)
    one = found.preprocessing["row"]
    assert one.source == "inferred"
    np.testing.assert_allclose(1.0 / np.array(one.std), np.sqrt(moments["variance"]), rtol=1e-4)
    np.testing.assert_allclose(-np.array(one.mean) / one.std, moments["mean"], rtol=1e-4)
    assert found.to_json()["posteriors"]["row"]["hypotheses"][0]["probability"] == 1.0
    assert not any("row" in text for text in found.warnings)


def test_a_signal_that_nothing_tells_the_scale_of_is_advised_on(look: Callable[..., Inspection]) -> None:
    found = look(models.parse("net (float[N,16,96] x) => (float[N,16,3] y) <float[96,3] w> { y = MatMul(x, w) }"))
    assert found.inputs[0].kind == "features"
    if "x" in found.posteriors:  # all scales alike: what nothing tells is open
        assert found.posteriors["x"].is_open and any("'x' is uncertain" in text for text in found.warnings)
    told = advise(replace(found, posteriors={}))
    assert any("'x' (features)" in text and "--like" in text for text in told)


def test_what_the_file_remembers_is_not_looked_for(look: Callable[..., Inspection]) -> None:
    contract = given_preprocessing(3, input_range=(0.0, 7.0)).to_json()
    found = look(ir.to_proto(stamp(ir.from_proto(models.residual()), Origin(contract=contract))))
    (one,) = found.preprocessing.values()
    assert (one.source, one.std) == ("read", pytest.approx((1 / 7.0,) * 3))


def test_the_table_says_kinds_and_what_is_plausible(look: Callable[..., Inspection]) -> None:
    found = look(models.residual())
    unit, symmetric, *_ = usual_preprocessings(3)
    doubt = Posterior.of([unit, symmetric], [0.7, 0.3])
    rows = facts(replace(found, posteriors={"x": doubt}))
    assert ("takes", f"pictures: {found.inputs[0].reason}") in rows
    told = [text for name, text in rows if name == "may be"]
    assert len(told) == 1 and "symmetric" in told[0] and "30%" in told[0]
    advice = advise(replace(found, posteriors={"x": doubt}))
    assert any("'x' is uncertain" in text and told[0] in text for text in advice)
