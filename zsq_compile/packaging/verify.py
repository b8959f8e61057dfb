"""Check a package of zsq-compile on the device: every hash, the outputs for its samples, and the latency.

Needs Python 3.11, onnxruntime and numpy, but not zsq_compile: a copy of this file is in every package.

    python model.zsq/verify.py                   zsq-compile verify model.zsq.tar.gz

Hashes find accidents, not forgery: whoever can write a package can write its hashes.
Exit codes: 0 passed; 2 wrong usage; 3 the package is damaged or not one; 5 its models do not run correctly here.
"""

import argparse
import gzip
import hashlib
import json
import re
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
MANIFEST, MANIFEST_HASH = "manifest.json", "manifest.sha256"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_CHUNK = 1 << 20
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_LARGEST_MANIFEST = 16 << 20
_WORST_RATIO = 200  # weights do not compress like that; an archive that does is made to fill the disk
_WARM_UP, _SECONDS = 3, 1.0


class PackageError(Exception):
    """The package is damaged, or is none."""


class RunError(Exception):
    """The package is undamaged, but cannot be run here."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into an empty folder, and nowhere else.

    Raises:
        PackageError: it is damaged, too large, or a member is no plain file inside the folder.

    """
    tar = folder.with_name(f"{folder.name}.tar")
    try:
        _inflate(archive, tar)
        with tarfile.open(tar, "r:") as members:
            for member in members:
                _write_member(members, member, folder, archive)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise PackageError(f"{archive} is damaged, or is no .tar.gz archive ({error}): copy it again") from error
    finally:
        tar.unlink(missing_ok=True)


def _inflate(archive: Path, tar: Path) -> None:
    """Undo the compression, up to a size that no package has."""
    allowed = (16 << 20) + _WORST_RATIO * archive.stat().st_size
    with gzip.open(archive) as source, tar.open("wb") as sink:
        while data := source.read(_CHUNK):
            if sink.tell() + len(data) > allowed:
                raise PackageError(f"{archive} unpacks to more than {allowed} bytes: that is no model's package")
            sink.write(data)


def _write_member(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    # Stricter than tarfile's filter "data", which Python has from 3.11.4 on and devices with an older 3.11 lack.
    where, path = f"{archive}: the member {member.name!r}", folder / member.name
    if member.type not in _PLAIN or member.issparse():
        raise PackageError(f"{where} is a link, device or folder, and a package has only plain files: do not use it")
    if not is_safe(member.name):
        raise PackageError(f"{where} would be written outside of the package's folder: do not use it")
    if path.exists():
        raise PackageError(f"{where} is there twice: do not use it")
    data = members.extractfile(member)
    assert data is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as sink:
        shutil.copyfileobj(data, sink, _CHUNK)


def is_safe(name: str) -> bool:
    """Whether a name is a plain relative path: words of letters, digits, ``._-``, none of which begins with a dot."""
    return _NAME.fullmatch(name) is not None


def check_files(folder: Path) -> dict[str, Any]:
    """Compare every file of an unpacked package with its hash, and return the manifest.

    Raises:
        PackageError: a file is missing, changed, not listed, or no plain file; or the manifest is not one.

    """
    manifest = _manifest(folder)
    listed: dict[str, Any] = manifest["files"]
    for name, entry in listed.items():
        path, size = folder / name, int(entry["bytes"])
        if not is_safe(name):
            raise PackageError(f"{folder}: the manifest lists {name!r}, which is no plain path inside the package")
        if not path.is_file() or any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents):
            raise PackageError(f"{folder}: the file {name} is missing, or is a link: copy the package again")
        if path.stat().st_size != size or sha256(path) != entry["sha256"]:
            raise PackageError(f"{folder}: {name} was changed or cut off, its SHA-256 differs: copy the package again")
    there = {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    strangers = sorted({path.relative_to(folder).as_posix() for path in there} - {*listed, MANIFEST, MANIFEST_HASH})
    if strangers:
        raise PackageError(f"{folder}: {strangers[0]} does not belong to the package: move it away")
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    path, beside = folder / MANIFEST, folder / MANIFEST_HASH
    for file in (path, beside):
        if not file.is_file() or file.is_symlink() or file.stat().st_size > _LARGEST_MANIFEST:
            raise PackageError(f"{folder} has no {file.name}: it is no package of zsq-compile, or was copied in part")
    if beside.read_bytes() != f"{sha256(path)}  {MANIFEST}\n".encode():
        raise PackageError(f"{folder}: {MANIFEST} or {MANIFEST_HASH} was changed: copy the package again")
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise PackageError(f"{path} is no manifest: {error}") from error
    if schema != SCHEMA:
        raise PackageError(
            f"{path} has schema {schema}, and this program reads {SCHEMA}: use the verify.py in the package"
        )
    _require_complete(manifest, path)
    return dict(manifest)


def _require_complete(manifest: dict[str, Any], path: Path) -> None:
    """Refuse a manifest that lacks an entry, or names a file that it does not list."""
    try:
        named = [
            *manifest["models"],
            *(file for run in manifest["samples"] for io in run.values() for file in io.values()),
        ]
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        [manifest["session"][key] for key in ("config", "providers", "provider_options")]
        manifest["target"]["name"], [output["name"] for output in manifest["outputs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{path} lacks an entry ({error!r}): pack the model again") from error
    missing = [name for name in named if name not in listed]
    if missing:
        raise PackageError(f"{path} names {missing[0]!r}, which it does not list: pack the model again")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def replay(
    folder: Path, manifest: dict[str, Any], model: str, *, provider: str | None, threads: int | None, timed: bool = True
) -> dict[str, Any]:
    """Run a model file of the package on its samples, and if ``timed`` a second longer; returns plain figures.

    Raises:
        RunError: the file cannot be loaded or run here.

    """
    session = _session(folder / model, manifest, provider, threads)
    names = [output["name"] for output in manifest["outputs"]]
    outputs = {name: {"largest_error": 0.0, "differing": 0} for name in names}
    faults: list[str] = []
    feeds: dict[str, Any] = {}
    for sample in manifest["samples"]:
        feeds = {name: _array(folder / file) for name, file in sample["inputs"].items()}
        try:
            made = dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise RunError(f"{model} was loaded, but fails on its samples: {error}") from error
        for output in manifest["outputs"]:
            wanted = _array(folder / sample["outputs"][output["name"]])
            faults += _compare(output, made[output["name"]], wanted, outputs[output["name"]])
    return {
        "model": model,
        "providers": session.get_providers(),
        "samples": len(manifest["samples"]),
        "outputs": outputs,
        "faults": faults,
        "latency_ms": _latency(session, names, feeds) if timed and feeds else None,
    }


def _session(path: Path, manifest: dict[str, Any], provider: str | None, threads: int | None) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RunError(f"onnxruntime is not installed here ({error}): pip install onnxruntime numpy") from error
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: everything else arrives as an exception
    for key, value in manifest["session"]["config"].items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    wanted = [provider] if provider else manifest["session"]["providers"]
    missing = [name for name in wanted if name not in ort.get_available_providers()]
    if missing:
        raise RunError(
            f"the package is to run on {missing[0]}, but this onnxruntime has only "
            f"{', '.join(ort.get_available_providers())}: install the build that has it, or give --provider"
        )
    given = manifest["session"]["provider_options"]
    try:
        return ort.InferenceSession(
            str(path), options, providers=wanted, provider_options=[given.get(name, {}) for name in wanted]
        )
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise RunError(f"onnxruntime {ort.__version__} cannot load {path.name}: {error}") from error


def _array(path: Path) -> Any:
    import numpy as np

    return np.load(path, allow_pickle=False)


def _compare(output: dict[str, Any], made: Any, wanted: Any, figures: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of one output of one sample, and add its error to ``figures``."""
    import numpy as np

    name = output["name"]
    if made.shape != wanted.shape or made.dtype != wanted.dtype:
        yield f"{name} is {made.dtype}{list(made.shape)}, wanted {wanted.dtype}{list(wanted.shape)}"
    elif "atol" in output:
        both_nan, same = np.isnan(made) & np.isnan(wanted), made == wanted
        with np.errstate(invalid="ignore"):
            error = np.where(both_nan | same, 0.0, np.abs(made.astype(np.float64) - wanted))
        largest = float(np.nan_to_num(error, nan=np.inf).max(initial=0.0))
        figures["largest_error"] = max(figures["largest_error"], largest)
        if largest > output["atol"]:
            yield f"{name} is off by {largest:.6g}, allowed are {output['atol']:.6g}"
    else:
        differing = int(np.count_nonzero(made != wanted))
        figures["differing"] = max(figures["differing"], differing)
        if differing > output["may_differ"]:
            yield f"{differing} elements of {name} differ, allowed are {output['may_differ']}"


def _latency(session: Any, names: list[str], feeds: dict[str, Any]) -> dict[str, float]:
    import numpy as np

    for _ in range(_WARM_UP):
        session.run(names, feeds)
    times: list[float] = []
    while len(times) < 5 or sum(times) < _SECONDS:
        start = time.perf_counter()
        session.run(names, feeds)
        times.append(time.perf_counter() - start)
    low, median, high = (float(1000.0 * value) for value in np.percentile(times, (10, 50, 90)))
    return {"median": median, "p10": low, "p90": high, "runs": len(times)}


def verify(package: Path, *, only: str | None, provider: str | None, threads: int | None) -> dict[str, Any]:
    """Check a folder or an archive, and run its models; returns plain figures. PackageError, RunError as above."""
    with tempfile.TemporaryDirectory(prefix="zsq_") as scratch:
        folder = package
        if package.is_file():
            folder = Path(scratch) / "package"
            folder.mkdir()
            unpack(package, folder)
        elif not package.is_dir():
            raise PackageError(f"there is no package {package}")
        manifest = check_files(folder)
        models = [name for name in manifest["models"] if only in (None, name.rpartition(".")[2])]
        if not models:
            raise RunError(f"{package} has no .{only} file, only {', '.join(manifest['models'])}")
        runs = [replay(folder, manifest, name, provider=provider, threads=threads) for name in models]
    return {
        "package": str(package),
        "files": len(manifest["files"]),
        "target": manifest["target"]["name"],
        "runs": runs,
    }


def _describe(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['package']}: {found['files']} files, all hashes correct; made for {found['target']}"
    for run in found["runs"]:
        errors = [f"{name} {figures['largest_error']:.3g}" for name, figures in run["outputs"].items()]
        yield f"{run['model']} on {run['providers'][0]}: {run['samples']} samples, largest error: {', '.join(errors)}"
        if run["latency_ms"] is not None:
            latency = run["latency_ms"]
            yield f"  latency {latency['median']:.3g} ms (p10 {latency['p10']:.3g}, p90 {latency['p90']:.3g})"
        yield from (f"  FAILED: {fault}" for fault in run["faults"])


def main(arguments: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run the command line and return its exit code; ``arguments`` None takes those of the process."""
    parser = argparse.ArgumentParser(prog=program, description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "package", nargs="?", type=Path, help="folder or .tar.gz; by default the folder of this program"
    )
    parser.add_argument("--only", choices=("onnx", "ort"), help="run only the model file of this ending")
    parser.add_argument("--provider", help="execution provider to use instead of the package's own")
    parser.add_argument("--threads", type=int, help="threads inside an operator; by default the runtime decides")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args(arguments)
    package = given.package or Path(__file__).resolve().parent
    try:
        found = verify(package, only=given.only, provider=given.provider, threads=given.threads)
    except (PackageError, RunError, OSError) as error:
        code = 5 if isinstance(error, RunError) else 3
        if given.json:
            print(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}, "exit_code": code}))
        print(f"error: {error}", file=sys.stderr)
        return code
    code = 5 if any(run["faults"] for run in found["runs"]) else 0
    print(json.dumps({**found, "exit_code": code}, indent=2) if given.json else "\n".join(_describe(found)))
    return code


if __name__ == "__main__":
    sys.exit(main())
