import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.checks import GraphInvariant, check
from passes.normalize.normalize import SimplifierError
from tests import models
from tests.zsq_compile.frontend.quick import load_quickly
from zsq_compile.errors import ConfigError, LoadError, UnsupportedModelError
from zsq_compile.files import file_bytes
from zsq_compile.frontend import load, settle_opset
from zsq_compile.frontend.load import LoadedModel, load_model

TOLERANCE = 1e-5  # of the output's magnitude


def save(model: onnx.ModelProto | str, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(onnx.parser.parse_model(model) if isinstance(model, str) else model, path)
    return path


def text(body: str, inputs: str = "float[N,3,8,8] x", outputs: str = "float[A,B,C,D] y", version: int = 21) -> str:
    return (
        f'<ir_version: 10, opset_import: ["" : {version}]> g ({inputs}) => ({outputs}) '
        f"<float[2,3,1,1] w = {{1.0,2.0,3.0,4.0,5.0,6.0}}> {{ {body} }}"
    )


CONV = "y = Conv(x, w)"


@pytest.mark.parametrize("make", [models.conv_bn_relu, models.residual, models.depthwise, models.branches])
def test_a_network_is_loaded_in_normal_form(make, tmp_path):
    before = make()
    loaded = load_model(save(before, tmp_path))
    assert isinstance(loaded, LoadedModel)
    check(loaded.model, GraphInvariant.NORMALIZED)
    (spec,) = loaded.inputs
    assert spec.name == "x" and spec.shape[0] is None and spec.dtype == np.float32
    assert loaded.outputs == tuple(value.name for value in before.graph.output)
    assert loaded.opset == 21 and loaded.notes == ()
    assert models.largest_difference(before, loaded.model) < TOLERANCE
    assert models.largest_difference(before, loaded.original) == 0.0


def test_statistics_survive_loading(tmp_path):
    loaded = load_model(save(models.residual(), tmp_path))
    assert harvest_batchnorm(loaded.model).coverage() == "BN found behind 3 of 3 convolutions"


def test_an_old_opset_is_raised_with_a_note(tmp_path):
    old = text('y = Upsample<mode="linear", scales=[1.0,1.0,2.0,2.0]>(x)', version=8)
    loaded = load_model(save(old, tmp_path))
    assert loaded.opset == 8 and loaded.original.opset_import[0].version == 21
    assert any("opset 8 was raised to 21" in note for note in loaded.notes)
    assert models.largest_difference(onnx.parser.parse_model(old), loaded.model) < TOLERANCE


@pytest.mark.parametrize("make", [models.residual, models.branches, models.padded])
def test_loading_without_verification_computes_what_the_file_computes(make, tmp_path):
    loaded = load_quickly(save(make(), tmp_path))
    assert models.largest_difference(make(), loaded.model) < TOLERANCE
    check(loaded.model, GraphInvariant.NORMALIZED)
    assert [spec.name for spec in loaded.inputs] == ["x"]


def test_large_weights_survive_an_old_opset(tmp_path):
    given = models.parse(
        """<ir_version: 8, opset_import: ["" : 11]>
        net (float[N,16,6,6] x) => (float[N,64,6,6] y) <float[64,16,3,3] w, float[64] b, float low = {0.0}>
        { c = Conv<pads=[1,1,1,1]>(x, w, b) y = Clip(c, low) }"""
    )
    loaded = load_quickly(save(given, tmp_path))
    assert models.largest_difference(given, loaded.original) < TOLERANCE
    before, after = ({t.name: t for t in m.graph.initializer} for m in (given, loaded.original))
    assert list(before) == list(after)
    np.testing.assert_array_equal(*(onnx.numpy_helper.to_array(tensors["w"]) for tensors in (before, after)))
    assert (loaded.opset, loaded.operators) == (11, {"Clip": 1, "Conv": 1})


def test_open_sizes_are_chosen(tmp_path):
    given = models.parse(
        "net (float[N,3,H,W] x, float[N,T] s) => (float[N,3,H,W] y, float[N,T] z) { y = Relu(x) z = Relu(s) }"
    )
    path = save(given, tmp_path)
    loaded = load_quickly(path)
    assert loaded.assumed == {"x": "?x3x32x32", "s": "?x128"}
    assert [spec.shape for spec in loaded.inputs] == [(None, 3, 32, 32), (None, 128)]
    complete = load_quickly(path, input_shapes={"x": (1, 3, 8, 8), "s": (1, 5)})
    assert complete.assumed == {}
    assert [spec.shape for spec in complete.inputs] == [(None, 3, 8, 8), (None, 5)]
    assert complete.face.inputs == {"x": ("N", 3, "H", "W"), "s": ("N", "T")}
    fixed = load_quickly(path, input_shapes={"x": (1, 3, 8, 8), "s": (1, 5)}, fix_shapes=True)
    assert fixed.face.inputs == {"x": (1, 3, 8, 8), "s": (1, 5)}


def test_a_graph_without_a_normal_form_is_simplified_after_all(tmp_path, monkeypatch):
    right, tried = load.normalize, []

    def odd(model: ir.Model, *, simplify: bool, **sizes: object) -> ir.Model:
        tried.append(simplify)
        made = right(model, simplify=simplify, **sizes)
        if not simplify:
            made.graph[0].name = None
        return made

    monkeypatch.setattr(load, "normalize", odd)
    assert any("had to be simplified" in note for note in load_quickly(save(models.residual(), tmp_path)).notes)
    assert tried == [False, True]


def test_initializers_are_no_inputs(tmp_path):
    proto = models.conv_bn_relu()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.ir_version = 3
    loaded = load_model(save(proto, tmp_path))
    assert [spec.name for spec in loaded.inputs] == ["x"]
    assert [value.name for value in loaded.original.graph.input] == ["x"]
    assert [value.name for value in loaded.model.graph.inputs] == ["x"]


def test_several_inputs_and_outputs(tmp_path):
    given = text(
        "y = Conv(x, w) z = Add(y, v)", "float[N,3,8,8] x, float[N,2,1,1] v", "float[N,2,8,8] y, float[N,2,8,8] z"
    )
    loaded = load_model(save(given, tmp_path))
    assert [spec.name for spec in loaded.inputs] == ["x", "v"] and loaded.outputs == ("y", "z")


def test_weights_in_external_files(tmp_path):
    before = models.residual()
    path = tmp_path / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(before)
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert models.largest_difference(before, load_model(path).model) < TOLERANCE
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(LoadError, match=r"keeps its weights in weights\.bin"):
        load_model(path)


def in_a_cache(folder: Path) -> Path:
    """Keep a model and its weights as the caches of model hubs do: as links to files that are named by a hash."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "main" / "onnx"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    onnx.save(models.residual(), blobs / "aaa", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (blobs / "weights.bin").rename(blobs / "bbb")
    (snapshot / "model.onnx").symlink_to("../../../blobs/aaa")
    (snapshot / "weights.bin").symlink_to("../../../blobs/bbb")
    return snapshot / "model.onnx"


def test_a_model_in_a_cache_of_links_is_loaded(tmp_path):
    path = in_a_cache(tmp_path)
    assert models.largest_difference(models.residual(), load_model(path).model) < TOLERANCE
    assert file_bytes(path) == sum((tmp_path / "blobs" / name).stat().st_size for name in ("aaa", "bbb"))


def test_weights_beside_the_file_that_a_model_is_a_link_to_are_read(tmp_path):
    path = in_a_cache(tmp_path)
    path.with_name("weights.bin").unlink()
    (tmp_path / "blobs" / "bbb").rename(tmp_path / "blobs" / "weights.bin")
    assert models.largest_difference(models.residual(), load_model(path).model) < TOLERANCE


@pytest.mark.parametrize("place", ["link", "../outside.bin", "{folder}/outside.bin"])
def test_weights_are_read_from_nowhere_else(place, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(models.residual(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").rename(tmp_path / "outside.bin")
    if place == "link":
        (folder / "weights.bin").symlink_to("../outside.bin")
    else:
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            tensor.external_data[0].value = place.format(folder=tmp_path)
        path.write_bytes(proto.SerializeToString())
    with pytest.raises(LoadError, match="keeps its weights in"):
        load_model(path)


def test_given_sizes_are_worked_with_and_written_where_asked(tmp_path):
    path = save(text(CONV, "float[N,3,h,w] x"), tmp_path)
    loaded = load_model(path, input_shapes={"x": (None, 3, 16, 12)})
    assert loaded.inputs[0].shape == (None, 3, 16, 12)
    assert loaded.face.inputs == {"x": ("N", 3, "h", "w")}
    assert list(loaded.model.graph[0].outputs[0].shape)[1:] == [2, 16, 12]
    fixed = load_model(path, input_shapes={"x": (4, 3, 16, 12)}, fix_shapes=True)
    assert fixed.face.inputs == {"x": (4, 3, 16, 12)}


def test_sizes_that_the_graph_does_not_run_at_are_refused(tmp_path):
    body = "f = Flatten(x) y = MatMul(f, m)"
    model = text(body, "float[N,3,h,w] x", "float[N,2] y").replace("<float[2", "<float[48,2] m, float[2")
    path = save(models.parse(model), tmp_path)
    with pytest.raises(ConfigError, match="does not run at those given"):
        load_model(path, input_shapes={"x": (None, 3, 5, 5)})
    loaded = load_model(path, input_shapes={"x": (None, 3, 4, 4)})
    assert loaded.inputs[0].shape == (None, 3, 4, 4)


def test_an_input_without_a_shape_gets_that_of_the_first_weight(tmp_path):
    proto = onnx.parser.parse_model(text(CONV))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    path = save(proto, tmp_path)
    assert load_model(path).inputs[0].shape == (None, 3, 32, 32)
    assert load_model(path, input_shapes={"x": (1, 3, 8, 8)}).inputs[0].shape == (None, 3, 8, 8)
    proto.graph.node[0].CopyFrom(onnx.helper.make_node("Relu", ["x"], ["y"]))
    with pytest.raises(ConfigError, match="has no shape"):
        load_model(save(proto, tmp_path))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"X": (1, 3, 8, 8)}, "names 'X', but the inputs of .* are 'x'"),
        ({"x": (1, 3, 8)}, "gives 'x' 3 sizes"),
        ({"x": (1, 1, 8, 8)}, "axis 1 of 'x' the size 1, but the file fixes it to 3"),
    ],
)
def test_shapes_that_contradict_the_file_are_refused(shapes, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        load_model(save(text(CONV), tmp_path), input_shapes=shapes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<html>not a model</html>", "no ONNX model"),
        (models.residual().SerializeToString()[:2000], "no ONNX model, or is cut off"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no nodes"),
    ],
)
def test_files_that_are_no_models(content, words, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    for loading in (load_model, load_quickly):
        with pytest.raises(LoadError, match=words):
            loading(path)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(LoadError, match="is not a file"):
        load_model(tmp_path)


def test_opsets_that_nobody_can_read(tmp_path):
    proto = models.residual()
    proto.opset_import[0].version = 6
    with pytest.raises(LoadError, match="opset 6; wanted 7 or later"):
        load_model(save(proto, tmp_path))
    proto.opset_import[0].version = 999
    with pytest.raises(LoadError, match="upgrade onnx"):
        load_model(save(proto, tmp_path))
    del proto.opset_import[:]
    with pytest.raises(LoadError, match="no opset_import"):
        load_model(save(proto, tmp_path))


def test_what_the_runtime_rejects(tmp_path):
    proto = models.residual()
    proto.graph.node[3].op_type = "NoSuchOperator"
    with pytest.raises(LoadError, match="cannot be run"):
        load_model(save(proto, tmp_path))


BRANCH = """y = If (c) <then_branch = t () => (float[N,2,8,8] a) { a = Conv(x, w) },
                        else_branch = e () => (float[N,2,8,8] b) { d = Conv(x, w) b = Relu(d) }>"""


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            text("a = FusedConv(x, w) y = Relu(a)")
            .replace("FusedConv", "com.microsoft.FusedConv")
            .replace('["" : 21]', '["" : 21, "com.microsoft" : 1]'),
            "com.microsoft.FusedConv",
        ),
        (text(BRANCH, "float[N,3,8,8] x, bool c"), r"1 x If\), which stays in float"),
        (text("y = Conv(x, x)", "double[3,3,1,1] x", "double[A,B,C,D] y"), "float64 .input 'x'"),
        (
            text(
                "n = BatchNormalization<spatial=0>(x, a, a, a, a) y = Conv(n, w)",
                "float[N,3,8,8] x, float[3,8,8] a",
                version=8,
            ),
            "opset 8 to 21",
        ),
        (
            text("n, y, v = BatchNormalization<training_mode=1>(x, s, s, s, s)", outputs="float[3] y").replace(
                "<float[2", "<float[3] s = {1.0,2.0,3.0}, float[2"
            ),
            "model.eval",
        ),
    ],
)
def test_models_that_cannot_be_compiled_are_refused_in_words(model, words, tmp_path):
    for loading in (load_model, load_quickly):
        with pytest.raises(UnsupportedModelError, match=words):
            loading(save(model, tmp_path))


def test_weights_that_are_only_stored_in_half_precision_are_fine(tmp_path):
    proto = onnx.parser.parse_model(text("f = Cast<to=1>(w) y = Conv(x, f)"))
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float16)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    loaded = load_model(save(proto, tmp_path))
    assert models.operators(loaded.model) == ["Conv"]


def test_a_misspelt_input_is_answered_with_the_nearest(tmp_path):
    path = save(text("y = Conv(image, w)", "float[N,3,h,w] image"), tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        load_model(path, input_shapes={"imag": (1, 3, 8, 8)})


def test_a_branch_that_is_decided_is_taken(tmp_path):
    model = text(f"c = Constant<value = bool {{1}}>() {BRANCH}")
    loaded = load_model(save(model, tmp_path))
    assert models.operators(loaded.model) == ["Conv"]


def test_training_mode_is_left_with_a_note(tmp_path):
    body = "c = Conv(x, w) y, m, v = BatchNormalization<training_mode=1>(c, s, s, s, s)"
    model = text(body).replace("<float[2", "<float[2] s = {1.0,2.0}, float[2")
    loaded = load_model(save(model, tmp_path))
    assert any("training mode" in note for note in loaded.notes)
    used = onnx.parser.parse_model(
        model.replace("y, m, v = BatchNormalization<training_mode=1>", "y = BatchNormalization")
    )
    assert models.largest_difference(used, loaded.model) < TOLERANCE


def test_a_batch_that_is_not_open_after_all_is_fixed(tmp_path):
    model = text("c = Conv(x, w) y = Reshape(c, s)", outputs="float[N,128] y").replace(
        "<float[2", "<int64[2] s = {1, 128}, float[2"
    )
    loaded = load_model(save(model, tmp_path))
    assert loaded.face.inputs == {"x": (1, 3, 8, 8)}
    assert loaded.inputs[0].shape == (None, 3, 8, 8)  # the constant is opened inside
    assert any("batch was fixed to 1" in note for note in loaded.notes)


def test_local_functions_are_written_out(tmp_path):
    model = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }"""
    assert models.operators(load_model(save(model, tmp_path)).model) == ["Add"]


def test_the_long_name_of_the_default_domain(tmp_path):
    proto = onnx.parser.parse_model(text(CONV))
    proto.opset_import[0].domain = proto.graph.node[0].domain = "ai.onnx"
    assert load_model(save(proto, tmp_path)).model.graph[0].domain == ""


def test_a_simplifier_that_lies_is_not_believed(tmp_path, monkeypatch):
    right = load.normalize

    def wrong(model: ir.Model, *, simplify: bool, **sizes: object) -> ir.Model:
        return right(ir.from_proto(models.residual(seed=1)) if simplify else model, simplify=simplify)

    monkeypatch.setattr(load, "normalize", wrong)
    loaded = load_model(save(models.residual(), tmp_path))
    assert any("simplified graph was not used: its outputs differ" in note for note in loaded.notes)
    assert models.largest_difference(models.residual(), loaded.model) < TOLERANCE


def test_a_simplifier_that_fails_is_done_without(tmp_path, monkeypatch):
    right = load.normalize

    def failing(model: ir.Model, *, simplify: bool, **sizes: object) -> ir.Model:
        if simplify:
            raise SimplifierError("onnxsim could not simplify the graph: bad luck")
        return right(model, simplify=False)

    monkeypatch.setattr(load, "normalize", failing)
    assert any("bad luck" in note for note in load_model(save(models.residual(), tmp_path)).notes)


def test_a_conversion_that_changes_the_outputs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(settle_opset, "convert_opset", lambda *_: models.residual(seed=1))
    with pytest.raises(UnsupportedModelError, match="computes something else once it is raised"):
        load_model(save(models.residual(), tmp_path))


ASSETS = Path(os.environ.get("ZSQ_ASSETS", Path(__file__).resolve().parents[3] / "../shared/assets")) / "models"


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the real models of ZSQ_ASSETS are not here")
@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("cifar10/resnet20_bn", "Conv BatchNormalization Relu Add Slice Pad GlobalAveragePool Flatten Gemm"),
        ("imagenet/mobilenetv1_075_bn", "Conv BatchNormalization Clip GlobalAveragePool Flatten Gemm"),
        ("wild/pfld_landmark", "Conv BatchNormalization Relu Add AveragePool Reshape Concat Gemm"),
        ("wild/ultraface_rfb320", None),
        ("wild/mnist_cntk", "Conv Relu MaxPool Reshape Gemm"),
    ],
)
def test_real_models_load(name, operators):
    loaded = load_model(ASSETS / f"{name}.onnx")
    check(loaded.model, GraphInvariant.NORMALIZED)
    assert operators is None or set(models.operators(loaded.model)) == set(operators.split())
    assert not any("simplified" in note for note in loaded.notes)


def load_both_ways(path: Path) -> list[LoadedModel]:
    """As a compilation loads a file, and as inspect does."""
    return [load_model(path), load_quickly(path)]


def test_names_of_nodes_that_come_twice_are_separated(tmp_path):
    given = models.residual()
    for node in given.graph.node:
        node.name = "node" if node.op_type == "Conv" else ""
    before = models.residual()
    for loaded in load_both_ways(save(given, tmp_path)):
        assert len({node.name for node in loaded.model.graph}) == len(loaded.model.graph)
        assert models.largest_difference(before, loaded.model) < TOLERANCE
        assert any("had the name of another one" in note for note in loaded.notes)


RANDOM_BODIES = [
    "c = Conv(x, w) n = RandomNormalLike(c) y = Add(c, n)",
    "c = Conv(x, w) n = RandomUniform<shape=[1]>() y = Mul(c, n)",
    "c = Conv(x, w) s = Sigmoid(c) n = Bernoulli(s) y = Mul(c, n)",
]


@pytest.mark.parametrize("body", RANDOM_BODIES)
def test_random_numbers_are_refused_by_name(body, tmp_path):
    path = save(text(body), tmp_path)
    operator = next(name for name in ("RandomNormalLike", "RandomUniform", "Bernoulli") if name in body)
    for load_one in (load_model, load_quickly):
        with pytest.raises(UnsupportedModelError, match=f"{operator} .*in every run"):
            load_one(path)


def test_random_numbers_that_reach_no_output_do_not_matter(tmp_path):
    path = save(text("c = Conv(x, w) n = RandomNormalLike(c) d = Add(c, n) y = Relu(c)"), tmp_path)
    for loaded in load_both_ways(path):
        assert "RandomNormalLike" not in models.operators(loaded.model)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("y = MaxRoiPool<pooled_shape=[2,2]>(x, box)", "MaxRoiPool"),
        ("s = SplitToSequence<axis=1>(x) y = ConcatFromSequence<axis=1>(s)", "SplitToSequence"),
    ],
)
def test_operators_without_a_kernel_in_torch_are_refused_by_name(body, operator, tmp_path):
    path = save(
        text(body).replace("<float[2,3,1,1] w", "<float[1,5] box = {0, 0, 0, 3, 3}, float[2,3,1,1] w"), tmp_path
    )
    for load_one in (load_model, load_quickly):
        with pytest.raises(UnsupportedModelError, match=f"no torch kernel for {operator}"):
            load_one(path)


def test_an_input_that_is_an_output_without_a_type_keeps_its_own(tmp_path):
    given = onnx.parser.parse_model(text(CONV, inputs="float[N,3,8,8] x"))
    given.graph.output.add().name = "x"
    for loaded in load_both_ways(save(given, tmp_path)):
        assert loaded.outputs == ("y", "x")
        assert loaded.model.graph.outputs[1].dtype is not None and loaded.inputs[0].shape == (None, 3, 8, 8)
