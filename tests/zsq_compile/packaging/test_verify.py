"""The program on the device: what is damaged is found, what is hostile stays out, what is whole runs."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.zsq_compile.packaging.packages import archive_of, quantized
from zsq_compile.packaging import verify
from zsq_compile.packaging.archive import pack
from zsq_compile.packaging.build import build_package
from zsq_compile.packaging.verify import PackageError, check_files, unpack

ROOT = Path(verify.__file__).resolve().parent.parent.parent
FORBIDDEN = ("torch", "onnx", "onnx_ir", "onnxsim", "typer", "rich", "cattrs", "safetensors", "PIL")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    model = quantized(folder / "net.onnx")
    build_package(model, folder / "net.zsq", count=2)
    build_package(model, folder / "net.tar.gz", count=1, ort=False)
    return folder


@pytest.fixture
def package(built, tmp_path):
    return Path(shutil.copytree(built / "net.zsq", tmp_path / "net.zsq"))


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    return folder


def rehash(package, manifest):
    """Write a manifest as whoever wants to deceive would."""
    (package / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    digest = verify.sha256(package / "manifest.json")
    (package / "manifest.sha256").write_text(f"{digest}  manifest.json\n", encoding="utf-8")


def test_a_whole_package_passes(package, capsys):
    assert verify.main([str(package)]) == 0
    out = capsys.readouterr().out
    assert "all hashes correct" in out
    assert "model.onnx on CPUExecutionProvider: 2 samples" in out
    assert "model.ort on CPUExecutionProvider" in out


def test_the_json_has_errors_and_latency(package, capsys):
    assert verify.main([str(package), "--json", "--only", "ort", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    (run,) = found["runs"]
    assert (run["model"], run["faults"], found["exit_code"]) == ("model.ort", [], 0)
    assert run["latency_ms"]["runs"] >= 5
    assert run["latency_ms"]["median"] > 0.0


def test_any_changed_byte_of_any_file_is_found(package):
    rng = np.random.default_rng(0)
    files = [path for path in sorted(package.rglob("*")) if path.is_file()]
    assert len(files) > 10
    for path in files:
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()}
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            with pytest.raises(PackageError, match=r"changed|hash|schema|manifest"):
                check_files(package)
        path.write_bytes(whole)
    check_files(package)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "manifest.sha256", "samples/1/input_0.npy"])
def test_a_missing_file_is_named(package, name):
    (package / name).unlink()
    with pytest.raises(PackageError, match=name):
        check_files(package)


@pytest.mark.parametrize("name", ["model.onnx", "samples/0/input_0.npy"])
def test_a_shortened_file_is_found(package, name):
    path = package / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PackageError, match=name):
        check_files(package)


def test_a_file_that_is_not_listed_is_found(package):
    (package / "samples" / "0" / "more.npy").touch()
    with pytest.raises(PackageError, match=r"samples/0/more\.npy does not belong to the package"):
        check_files(package)


def test_a_link_in_place_of_a_file_is_found(package, tmp_path):
    (package / "run.py").rename(tmp_path / "outside.py")
    (package / "run.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(PackageError, match=r"run.py is missing, or is a link"):
        check_files(package)


def test_a_linked_folder_is_found(package, tmp_path):
    (package / "samples").rename(tmp_path / "outside")
    (package / "samples").symlink_to(tmp_path / "outside")
    with pytest.raises(PackageError, match="is missing, or is a link"):
        check_files(package)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../outside.txt", ".hidden", "a\\b"])
def test_a_manifest_cannot_point_outside(package, tmp_path, name):
    (tmp_path / "outside.txt").write_text("x", encoding="utf-8")
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"bytes": 1, "sha256": verify.sha256(tmp_path / "outside.txt")}
    rehash(package, manifest)
    with pytest.raises(PackageError, match="no plain path inside"):
        check_files(package)


def test_a_manifest_cannot_name_samples_that_it_does_not_list(package):
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    manifest["samples"][0]["inputs"]["x"] = "../outside.npy"
    rehash(package, manifest)
    with pytest.raises(PackageError, match="which it does not list"):
        check_files(package)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "has schema 2, and this program reads 1"),
        ({"files": None}, "lacks an entry"),
        ({"session": {}}, "lacks an entry"),
        ({"samples": [3]}, "lacks an entry"),
    ],
)
def test_a_manifest_of_another_form_is_refused(package, change, words):
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    rehash(package, {**manifest, **change})
    with pytest.raises(PackageError, match=words):
        check_files(package)


def test_an_archive_passes(built, capsys):
    assert verify.main([str(built / "net.tar.gz")]) == 0
    assert "model.onnx on" in capsys.readouterr().out


def test_an_archive_is_one_that_tar_reads(built, tmp_path):
    with tarfile.open(built / "net.tar.gz", "r:gz") as members:
        names = members.getnames()
        members.extractall(tmp_path / "out", filter="data")
    assert names[:2] == ["manifest.json", "manifest.sha256"]
    assert names[2:] == sorted(names[2:])
    check_files(tmp_path / "out")


def test_a_changed_bit_of_an_archive_is_found_or_changes_no_file(built, tmp_path):
    """Gzip has no checksum over its own header; the files inside are under the hashes of the manifest."""
    whole = (built / "net.tar.gz").read_bytes()
    rng = np.random.default_rng(1)
    found, places = 0, [*range(10), *range(len(whole) - 8, len(whole)), *rng.integers(10, len(whole), 150).tolist()]
    for number, place in enumerate(places):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path, folder = tmp_path / "changed.tar.gz", tmp_path / f"f{number}"
        path.write_bytes(changed)
        folder.mkdir()
        try:
            unpack(path, folder)
        except PackageError:
            found += 1
            assert not any(folder.iterdir())
        else:
            check_files(folder)
    assert found >= 150, "what is not found is in the ten bytes of the header"


@pytest.mark.parametrize("kept", [0, 5, 20, 60, 0.3, 0.9, -9, -8, -1])
def test_a_cut_archive_is_refused(built, target, tmp_path, kept):
    whole = (built / "net.tar.gz").read_bytes()
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(PackageError, match=r"cut\.tar\.gz is damaged"):
        unpack(path, target)
    assert not any(target.iterdir())


def test_bytes_behind_an_archive_are_found(built, target, tmp_path):
    path = tmp_path / "more.tar.gz"
    path.write_bytes((built / "net.tar.gz").read_bytes() + b"more")
    with pytest.raises(PackageError, match="is damaged"):
        unpack(path, target)


def test_what_is_no_archive_is_refused(target, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no archive")
    with pytest.raises(PackageError, match=r"is no \.tar\.gz archive"):
        unpack(tmp_path / "net.onnx", target)


def test_an_archive_of_another_program_is_held_to_the_same_rules(built, target, tmp_path):
    path, files = tmp_path / "other.tar.gz", sorted(path for path in (built / "net.zsq").rglob("*") if path.is_file())
    with tarfile.open(path, "w:gz") as members:
        for file in files:
            members.add(file, file.relative_to(built / "net.zsq").as_posix())
    unpack(path, target)
    check_files(target)


def member(name, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/zsq_escaped",
        "../escaped",
        "a/../../escaped",
        "a/./b",
        "..",
        "a\\..\\b",
        "C:escaped",
        ".bashrc",
        "a//b",
        "a b",
    ],
)
def test_no_member_leaves_the_folder(tmp_path, target, name):
    path = archive_of([(member("fine.txt"), b"x"), (member(name), b"x")], tmp_path / "bad.tar.gz")
    with pytest.raises(PackageError, match="outside of the package's folder: do not use it"):
        unpack(path, target)
    assert {entry.name for entry in tmp_path.iterdir()} == {"bad.tar.gz", "inside"}
    assert not Path("/tmp/zsq_escaped").exists()
    assert [entry.name for entry in target.iterdir()] == ["fine.txt"]


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        tarfile.CONTTYPE,
    ],
)
def test_only_plain_files_are_unpacked(tmp_path, target, kind):
    path = archive_of([(member("way", kind, "../outside"), b"")], tmp_path / "bad.tar.gz")
    with pytest.raises(PackageError, match="only plain files: do not use it"):
        unpack(path, target)
    assert not any(target.iterdir())


def test_a_member_is_not_written_through_an_earlier_link(tmp_path, target):
    members = [(member("way", tarfile.SYMTYPE, ".."), b""), (member("way/escaped"), b"x")]
    with pytest.raises(PackageError, match="'way' is a link"):
        unpack(archive_of(members, tmp_path / "bad.tar.gz"), target)
    assert not (tmp_path / "escaped").exists()


def test_a_member_that_is_there_twice_is_refused(tmp_path, target):
    path = archive_of([(member("a"), b"x"), (member("a"), b"y")], tmp_path / "bad.tar.gz")
    with pytest.raises(PackageError, match="is there twice"):
        unpack(path, target)


def test_a_sparse_member_is_refused(tmp_path, target):
    info = member("holes")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "holes"}
    info.pax_headers |= {"GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"}
    path = tmp_path / "bad.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as members:
        info.size = 1
        members.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(PackageError, match="only plain files"):
        unpack(path, target)
    assert not any(target.iterdir())


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, target):
    path = archive_of([(member("zeros"), bytes(40 << 20))], tmp_path / "bomb.tar.gz")
    with pytest.raises(PackageError, match="unpacks to more than"):
        unpack(path, target)
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".tar"] == []


def test_wrong_outputs_are_found_and_exit_with_5(package, capsys):
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    name = manifest["samples"][1]["outputs"]["logits"]
    allowed = manifest["outputs"][0]["atol"]
    right = np.load(package / name)
    np.save(package / name, right + np.float32(1.5 * allowed))
    manifest["files"][name] |= {"sha256": verify.sha256(package / name), "bytes": (package / name).stat().st_size}
    rehash(package, manifest)
    assert verify.main([str(package), "--only", "onnx"]) == 5
    assert f"allowed are {allowed:.6g}" in capsys.readouterr().out


def test_outputs_within_the_tolerance_pass(package):
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    name = manifest["samples"][0]["outputs"]["logits"]
    np.save(package / name, np.load(package / name) + np.float32(0.9 * manifest["outputs"][0]["atol"]))
    manifest["files"][name]["sha256"] = verify.sha256(package / name)
    rehash(package, manifest)
    assert verify.main([str(package), "--only", "onnx"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--provider", "NoSuchExecutionProvider"], 5, "NoSuchExecutionProvider, but this onnxruntime has only"),
        (["--only", "tflite"], 2, "invalid choice"),
    ],
)
def test_what_cannot_run_here_is_said(package, capsys, words, code, said):
    try:
        ended = verify.main([str(package), *words])
    except SystemExit as error:
        ended = error.code
    assert ended == code
    assert said in capsys.readouterr().err


def test_what_is_no_package_exits_with_3(tmp_path, capsys):
    assert verify.main([str(tmp_path / "absent"), "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["type"] == "PackageError"
    assert "there is no package" in captured.err
    assert verify.main([str(tmp_path)]) == 3


BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError(f"{{name}} is not installed on the device")
sys.meta_path.insert(0, Blocker())
"""


def test_the_command_needs_nothing_but_onnxruntime_and_numpy(built, tmp_path):
    code = f"{BLOCKER}\nfrom zsq_compile.cli.entry import main\nmain(['verify', {str(built / 'net.tar.gz')!r}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "all hashes correct" in done.stdout


def test_the_copy_in_the_package_runs_by_itself(package, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(package / "verify.py"), "--only", "onnx"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_files(package)  # it left nothing behind


def test_packing_gives_the_same_bytes_whatever_the_files_times_are(package, tmp_path):
    pack(package, tmp_path / "a.tar.gz")
    for path in package.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack(package, tmp_path / "b.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
