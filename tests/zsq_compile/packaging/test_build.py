"""What lies in a package, and that the same inputs give the same bytes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import zsq_compile
from backends.session import open_session
from tests import models
from tests.storing import recurrent
from tests.zsq_compile.packaging.packages import CONTRACT, quantized
from zsq_compile import CompileConfig, compile_model
from zsq_compile.cli import entry as cli
from zsq_compile.config.compile import InputConfig
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ConfigError, LoadError
from zsq_compile.packaging.build import build_package
from zsq_compile.packaging.manifest import scales_digest
from zsq_compile.packaging.verify import MANIFEST, check_files, main, sha256

DOCUMENT = Path(zsq_compile.__file__).resolve().parent.parent / "docs" / "reference" / "package-format.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quantized(tmp_path_factory.mktemp("models") / "net.onnx")


@pytest.fixture(scope="module")
def package(model, tmp_path_factory):
    return build_package(model, tmp_path_factory.mktemp("packages") / "net.zsq", count=2)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_model_gives_the_same_bytes_in_another_process(model, package, tmp_path):
    code = (
        "import sys; from pathlib import Path; import tests.conftest\n"
        "from zsq_compile.packaging.build import build_package\n"
        "for name in ('again.zsq', 'again.tar.gz'): build_package(Path(sys.argv[1]), Path(name), count=2)"
    )
    environment = {**os.environ, "PYTHONPATH": str(DOCUMENT.parents[2]), "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, str(model)], cwd=tmp_path, env=environment, check=True)
    assert tree(tmp_path / "again.zsq") == tree(package.path)
    build_package(model, tmp_path / "here.tar.gz", count=2)
    assert (tmp_path / "here.tar.gz").read_bytes() == (tmp_path / "again.tar.gz").read_bytes()


def test_the_manifest_tells_the_origin_the_contract_and_the_interface(model, package):
    told = package.manifest
    assert (told["seed"], told["compiled_for"], told["source_sha256"]) == (7, "ort_cpu", "ab" * 32)
    assert told["input_contract"] == {
        "name": "given",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "channel_order": "bgr",
        "inferred": False,
    }
    assert told["inputs"] == [{"name": "x", "shape": [None, 3, 8, 8], "dtype": "float32"}]
    assert [output["name"] for output in told["outputs"]] == ["logits"]
    assert (told["opset"], told["models"]) == (21, ["model.onnx", "model.ort"])
    assert told["files"]["model.onnx"] == {"bytes": model.stat().st_size, "sha256": sha256(model)}
    assert told["versions"]["onnxruntime"] == told["versions"]["onnxruntime"].strip()
    assert json.loads((package.path / MANIFEST).read_text(encoding="utf-8")) == told


def test_every_entry_of_the_manifest_is_documented(package):
    words = set(re.findall(r"`([a-z_0-9]+)`", DOCUMENT.read_text(encoding="utf-8")))
    keys = {*package.manifest, *package.manifest["tool"], *package.manifest["session"], *package.manifest["scales"]}
    keys |= {key for part in ("inputs", "outputs", "samples") for entry in package.manifest[part] for key in entry}
    keys |= {key for entry in package.manifest["files"].values() for key in entry}
    assert keys - words == set()


def test_expected_outputs_are_the_runtimes(model, package):
    session = open_session(model, threads=1)
    for sample in package.manifest["samples"]:
        feeds = {name: np.load(package.path / file) for name, file in sample["inputs"].items()}
        outputs = {name: np.load(package.path / file) for name, file in sample["outputs"].items()}
        np.testing.assert_array_equal(session.run(feeds)["logits"], outputs["logits"])


def test_the_tolerance_covers_float_kernels_and_no_wrong_scale(model, package):
    allowed = package.manifest["outputs"][0]["atol"]
    sample = package.manifest["samples"][0]
    feed = {"x": np.load(package.path / sample["inputs"]["x"])}
    wanted = np.load(package.path / sample["outputs"]["logits"])
    plain = open_session(model, threads=1, optimize="none").run(feed)["logits"]
    assert np.abs(plain - wanted).max() <= allowed
    assert np.abs(1.2 * wanted - wanted).max() > allowed


def test_the_pictures_are_made_as_the_contract_says(package):
    feed = np.load(package.path / package.manifest["samples"][0]["inputs"]["x"])
    contract = Preprocessing.from_json(CONTRACT)
    pixels = contract.decode(torch.from_numpy(feed))
    assert float(pixels.min()) > -1e-5 and float(pixels.max()) < 1 + 1e-5
    assert float(pixels.std()) > 0.05


def test_samples_of_the_users_are_packed(model, tmp_path):
    given = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    made = build_package(model, tmp_path / "net.zsq", samples={"x": given}, count=8)
    assert len(made.manifest["samples"]) == 3
    last = made.manifest["samples"][2]["inputs"]["x"]
    np.testing.assert_array_equal(np.load(made.path / last), given[2:])


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros((2, 3, 9, 8))}, {"x": np.zeros((2, 8, 8))}, {"x": np.zeros(0)}])
def test_samples_that_do_not_fit_are_refused(model, tmp_path, arrays):
    with pytest.raises(ConfigError, match="samples"):
        build_package(model, tmp_path / "net.zsq", samples=arrays)
    assert not any(tmp_path.iterdir())


def test_a_fixed_batch_is_fed_whole(tmp_path):
    proto = models.parse(
        """
        fixed (float[4,3,8,8] x) => (float[4,2] y)
        <float[2,3,8,8] w, float[2] b>
        { [conv] c = Conv(x, w, b) [flat] y = Flatten(c) }
        """
    )
    made = build_package(quantized(tmp_path / "f.onnx", model=proto), tmp_path / "f.zsq", count=2)
    shapes = {np.load(made.path / sample["inputs"]["x"]).shape for sample in made.manifest["samples"]}
    assert shapes == {(4, 3, 8, 8)}
    assert main([str(made.path)]) == 0


def test_integer_inputs_need_samples_and_integer_outputs_may_differ_little(tmp_path):
    proto = models.parse(
        """
        words (int64[N,4] ids) => (int64[N] best)
        <float[6,8] table, int8[8,5] codes, float step, int64[1] axis>
        {
            [scale] w = DequantizeLinear(codes, step)
            [look] e = Gather<axis=0>(table, ids)
            [mul] m = MatMul(e, w)
            [mean] p = ReduceMean<keepdims=0>(m, axis)
            [max] best = ArgMax<axis=1, keepdims=0>(p)
        }
        """,
        weights={
            "axis": np.array([1]),
            "codes": np.arange(-20, 20, dtype=np.int8).reshape(8, 5),
            "step": np.array(0.1, np.float32),
        },
    )
    path = tmp_path / "words.onnx"
    onnx.save(proto, path)
    drawn = build_package(path, tmp_path / "drawn.zsq", count=3)
    made_up = [np.load(drawn.path / sample["inputs"]["ids"]) for sample in drawn.manifest["samples"]]
    assert len(made_up) == 3 and all(one.min() >= 0 and one.max() < 6 for one in made_up)
    ids = np.random.default_rng(0).integers(0, 6, (3, 4))
    made = build_package(path, tmp_path / "words.zsq", samples={"ids": ids})
    assert made.manifest["outputs"] == [{"name": "best", "may_differ": 1}]
    assert made.manifest["input_contract"] is None and made.manifest["seed"] is None
    assert main([str(made.path)]) == 0


def test_whole_numbers_that_nothing_tells_the_meaning_of_need_samples(tmp_path):
    proto = models.parse(
        """
        net (int64[N,4] counts, float[N,4] x) => (float[N,3] y) <int8[4,3] codes, float step>
        { w = DequantizeLinear(codes, step) f = Cast<to=1>(counts) s = Add(f, x) y = MatMul(s, w) }
        """,
        weights={"codes": np.arange(12, dtype=np.int8).reshape(4, 3), "step": np.array(0.1, np.float32)},
    )
    onnx.save(proto, tmp_path / "counts.onnx")
    with pytest.raises(ConfigError, match="cannot be synthesized: give them with --samples"):
        build_package(tmp_path / "counts.onnx", tmp_path / "counts.zsq")


def test_the_contract_of_a_signal_is_told_and_fed(tmp_path):
    proto = models.parse(
        "net (float[N,16,96] x) => (float[N,3] y) <float[1536,3] w> { f = Flatten(x) y = MatMul(f, w) }"
    )
    onnx.save(proto, tmp_path / "m.onnx")
    given = InputConfig(mean=(5.0,), std=(16.0,))
    config = CompileConfig(samples=16, effort="fast", speed_trials=False, input=given, target="ort_cpu_avx2")
    made = compile_model(tmp_path / "m.onnx", tmp_path / "q.onnx", config)
    package = build_package(made.path, tmp_path / "q.zsq", count=40)
    told = package.manifest["input_contract"]
    assert (told["name"], told["input"], told["layout"], told["mean"]) == ("given", "x", None, [-0.3125])
    samples = np.stack([np.load(package.path / one["inputs"]["x"]) for one in package.manifest["samples"]])
    assert samples.mean() == pytest.approx(5.0, abs=2.0) and samples.std() == pytest.approx(16.0, rel=0.25)
    readme = (package.path / "README.md").read_text(encoding="utf-8")
    assert "times 16" in readme and "given when it was compiled" in readme
    assert "def prepare" not in (package.path / "run.py").read_text(encoding="utf-8")
    assert main([str(package.path)]) == 0


def test_packed_weights_get_an_ort_file_only_when_asked(tmp_path):
    narrow = quantized(tmp_path / "narrow.onnx", bits=4)
    made = build_package(narrow, tmp_path / "narrow.zsq")
    assert made.manifest["models"] == ["model.onnx"]
    assert any("would hold the packed weights in 8 bits" in note for note in made.notes)
    asked = build_package(narrow, tmp_path / "asked.zsq", ort=True)
    assert asked.manifest["models"] == ["model.onnx", "model.ort"]
    assert build_package(quantized(tmp_path / "w.onnx"), tmp_path / "w.zsq", ort=False).manifest["models"] == [
        "model.onnx"
    ]


@pytest.mark.parametrize("bits", [8, 3])
def test_constants_that_would_become_float_get_none_either(tmp_path, bits):
    stored = quantized(tmp_path / "stored.onnx", bits=bits, model=recurrent())
    made = build_package(stored, tmp_path / "stored.zsq", samples={"x": np.ones((7, 4, 24), np.float32)})
    assert made.manifest["models"] == ["model.onnx"]
    assert any("in float" in note for note in made.notes)


def test_the_ort_file_comes_with_its_operators(package):
    listed = (package.path / "model.required_operators.config").read_text(encoding="utf-8")
    assert "QLinearConv" in listed and "#" not in listed


def test_reports_are_packed_and_tell_what_the_model_does_not(tmp_path):
    path = quantized(tmp_path / "net.onnx")
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, path)
    told = {
        "sha256": {"model": "cd" * 32, "emitted": sha256(path)},
        "seed": 3,
        "contract": CONTRACT,
        "settings": {"target": "ort_cpu"},
    }
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    report.write_text(json.dumps(told), encoding="utf-8")
    page.write_text("<p>good</p>", encoding="utf-8")
    made = build_package(path, tmp_path / "net.zsq", report=page, json_report=report)
    assert (made.manifest["seed"], made.manifest["source_sha256"]) == (3, "cd" * 32)
    assert {"report.html", "report.json"} <= set(made.manifest["files"])
    assert "report.html" in (made.path / "README.md").read_text(encoding="utf-8")
    told["sha256"]["emitted"] = "00" * 32
    report.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ConfigError, match="report of another file"):
        build_package(path, tmp_path / "other.zsq", json_report=report)
    report.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not what zsq-compile --json prints"):
        build_package(path, tmp_path / "other.zsq", json_report=report)


def test_weights_outside_of_the_file_come_along(tmp_path):
    (tmp_path / "many").mkdir()
    path = tmp_path / "many" / "net.onnx"
    proto = onnx.load(quantized(tmp_path / "net.onnx"))
    onnx.save(
        proto, path, save_as_external_data=True, location="odd name.bin", size_threshold=100
    )  # above sizes, which a checker reads
    made = build_package(path, tmp_path / "net.zsq", ort=False)
    assert {"model.onnx", "model.data"} <= set(made.manifest["files"])
    data = made.path / "model.data"  # another user of the device must be able to read it too
    assert data.stat().st_mode == (made.path / "model.onnx").stat().st_mode
    assert main([str(made.path)]) == 0


def test_a_package_is_replaced_and_anything_else_is_not(model, tmp_path):
    out = tmp_path / "net.zsq"
    build_package(model, out, count=1)
    build_package(model, out, count=2)
    assert len(check_files(out)["samples"]) == 2
    (out / "mine.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists and is no whole package"):
        build_package(model, out)
    assert (out / "mine.txt").read_text(encoding="utf-8") == "precious"
    with pytest.raises(ConfigError, match="folder that exists"):
        build_package(model, tmp_path / "absent" / "net.zsq")


def test_a_file_that_is_no_model_and_a_target_that_is_none_are_refused(model, tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(LoadError, match="is no ONNX model, or is cut off"):
        build_package(tmp_path / "no.onnx", tmp_path / "no.zsq")
    with pytest.raises(LoadError, match=r"there is no file .*absent\.onnx$"):
        build_package(tmp_path / "absent.onnx", tmp_path / "no.zsq")
    with pytest.raises(ConfigError, match="there is no target 'ort_cup'"):
        build_package(model, tmp_path / "no.zsq", target="ort_cup")
    assert [path.name for path in tmp_path.iterdir()] == ["no.onnx"]


def test_a_float_model_and_one_without_a_version_are_refused_in_words(model, tmp_path):
    onnx.save(models.residual(), tmp_path / "float.onnx")
    with pytest.raises(ConfigError, match=r"is a float model .*compile it first \(zsq-compile float\.onnx\)"):
        build_package(tmp_path / "float.onnx", tmp_path / "no.zsq")
    proto = onnx.load(model)
    del proto.opset_import[:]
    (tmp_path / "old.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(LoadError, match="no opset_import"):
        build_package(tmp_path / "old.onnx", tmp_path / "no.zsq")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float.onnx", "old.onnx"]


def test_a_model_is_packed_for_another_target_only_if_it_is_legal_there(model, tmp_path):
    signed = quantized(tmp_path / "signed.onnx", written_for="ort_cpu")
    made = build_package(signed, tmp_path / "net.zsq", target="openvino", ort=False)
    assert made.manifest["session"]["providers"][0] == "OpenVINOExecutionProvider"
    assert any("come from the processor" in note for note in made.notes)
    assert main([str(made.path), "--provider", "CPUExecutionProvider"]) == 0
    assert 'AppendExecutionProvider("OpenVINO"' in (made.path / "run.cpp").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not legal on tensorrt: .*; compile it with --target tensorrt"):
        build_package(model, tmp_path / "other.zsq", target="tensorrt")


def test_the_digest_of_scales_sees_scales_and_nothing_else(model):
    proto = onnx.load(model)
    digest, count = scales_digest(proto)
    names = {name for node in proto.graph.node if node.op_type.endswith("quantizeLinear") for name in node.input[1:]}
    names |= {name for node in proto.graph.node if node.op_type == "QuantizeLinear" for name in node.input[1:]}
    assert count >= len(names & {tensor.name for tensor in proto.graph.initializer}) > 0
    proto.metadata_props.add(key="a", value="b")
    weight = next(one for one in proto.graph.initializer if one.name.endswith("w1_quantized"))
    weight.raw_data = bytes(reversed(weight.raw_data))
    assert scales_digest(proto) == (digest, count)
    scale = next(one for one in proto.graph.initializer if one.name.endswith("_scale"))
    array = onnx.numpy_helper.to_array(scale)
    scale.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(array, np.float32(9)), scale.name))
    assert scales_digest(proto)[0] != digest


def test_the_python_program_runs_and_prepares_as_the_contract_does(package, tmp_path):
    done = subprocess.run(
        [sys.executable, str(package.path / "run.py")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "logits float32 (1, 5)" in done.stdout
    names = {"__name__": "run", "__file__": str(package.path / "run.py")}
    exec((package.path / "run.py").read_text(encoding="utf-8"), names)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    wanted = Preprocessing.from_json(CONTRACT).encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0).numpy()
    np.testing.assert_allclose(names["prepare"](pixels), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float", "uint8"])
def test_channels_come_last_where_the_contract_says_so(tmp_path, dtype):
    proto = models.parse(
        f"""
        net ({dtype}[N,8,8,3] x) => (float[N,4,6,6] y) <float[4,3,3,3] w>
        {{ [cast] c = Cast<to=1>(x) [turn] t = Transpose<perm=[0,3,1,2]>(c) [conv] y = Conv(t, w) }}
        """
    )
    contract = {**CONTRACT, "mean": (0.0,) * 3, "std": (1 / 255,) * 3, "layout": "NHWC", "channel_order": "rgb"}
    made = build_package(quantized(tmp_path / "net.onnx", model=proto, contract=contract), tmp_path / "net.zsq")
    feed = np.load(made.path / made.manifest["samples"][0]["inputs"]["x"])
    assert feed.shape == (1, 8, 8, 3) and feed.dtype == np.dtype({"float": "float32"}.get(dtype, dtype))
    assert 20.0 < feed.std() < 120.0 and feed.min() >= 0 and feed.max() <= 255.01
    names = {"__name__": "run", "__file__": str(made.path / "run.py")}
    exec((made.path / "run.py").read_text(encoding="utf-8"), names)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    prepared = names["prepare"](pixels)
    assert prepared.dtype == feed.dtype
    np.testing.assert_allclose(prepared, pixels, atol=1e-4)


@pytest.mark.skipif(
    shutil.which("g++") is None or "ORT_ROOT" not in os.environ,
    reason="needs g++ and, in ORT_ROOT, an unpacked onnxruntime with include/ and lib/",
)
def test_the_cpp_program_gives_the_expected_outputs(package, tmp_path):
    ort = os.environ["ORT_ROOT"]
    command = ["g++", "-std=c++17", "run.cpp", f"-I{ort}/include", f"-L{ort}/lib", "-lonnxruntime"]
    subprocess.run([*command, "-o", str(tmp_path / "run")], cwd=package.path, check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{ort}/lib"}
    done = subprocess.run(
        [str(tmp_path / "run")], cwd=package.path, env=environment, capture_output=True, text=True, check=True
    )
    wanted = np.load(package.path / package.manifest["samples"][0]["outputs"]["logits"]).reshape(-1)
    np.testing.assert_allclose([float(word) for word in done.stdout.split()[1:]], wanted[:5], rtol=1e-4)


def test_the_command_packs_and_says_so(model, tmp_path, capsys):
    for words, said in ((["--quiet"], "n.tar.gz"), (["--json"], '"exit_code": 0'), ([], "2 files")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["package", str(model), "-o", str(tmp_path / "n.tar.gz"), "--no-ort", *words])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert said in out or "files, " in out
    assert main([str(tmp_path / "n.tar.gz")]) == 0


def test_the_command_ends_in_words_and_a_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["package", str(tmp_path / "absent.onnx")])
    assert ended.value.code == 3
    assert "there is no file" in capsys.readouterr().err
