"""Build a package of a compiled model: the files that go to the device."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from backends.catalog import TargetError, load_target
from backends.ort_format import write_ort
from backends.session import RuntimeModelError, Session, open_session
from backends.target import Target
from passes.emit.check_target import target_violations
from zsq_compile.errors import ConfigError, LoadError, ValidationError
from zsq_compile.files import scratch_folder
from zsq_compile.frontend.read_onnx import is_quantized, opset_of, read_model
from zsq_compile.packaging.archive import pack
from zsq_compile.packaging.manifest import describe, write_manifest, write_samples
from zsq_compile.packaging.samples import expected_outputs, make_feeds
from zsq_compile.packaging.snippets import write_snippets
from zsq_compile.packaging.verify import PackageError, RunError, check_files, replay, sha256
from zsq_compile.stages.provenance import Origin, read_origin

_ARCHIVES = (".tar.gz", ".tgz")
_DEFAULT_TARGET = "ort_cpu"
_NARROW = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
_SIZES = 128  # bytes; what is smaller may be sizes or axes, which a runtime wants to find in the file itself
_UNPACKING = {"Cast", "Reshape"}  # what stands between packed weights and their DequantizeLinear


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Package:
    """A package that was written.

    Attributes:
        path: the folder or archive.
        manifest: the content of its manifest.json.
        notes: for the user.

    """

    path: Path
    manifest: Mapping[str, Any]
    notes: tuple[str, ...]


def build_package(
    model: Path,
    output: Path,
    *,
    target: str | None = None,
    samples: Mapping[str, NDArray[Any]] | None = None,
    count: int = 4,
    report: Path | None = None,
    json_report: Path | None = None,
    ort: bool | None = None,
) -> Package:
    """Pack a compiled model for a device. The same inputs give the same bytes, with the same versions installed.

    Args:
        model: a quantized ONNX file.
        output: an archive if the name ends in .tar.gz or .tgz, else a folder; an older package there is replaced.
        target: name or file of a target; None is the one that the model was compiled for.
        samples: inputs to be packed, (samples, ...) by name; None synthesizes them.
        count: how many runs are packed.
        report: an HTML page to be put in.
        json_report: output of ``zsq-compile --json``, for the origin of a model without metadata.
        ort: whether an .ort file is made; None makes one unless it would undo the packing of narrow weights.

    Raises:
        ConfigError: an argument is wrong, or does not fit the model.
        LoadError: the model cannot be read or run.
        ValidationError: a packed model does not give the expected outputs.

    """
    _require_replaceable(output)
    proto, origin = _read(model, json_report)
    chosen = _target(target, origin)
    _require_legal(model, chosen, origin)
    notes: list[str] = []
    with _scratch(output) as folder:
        _copy_model(model, proto, folder)
        _copy_reports(folder, {"report.html": report, "report.json": json_report})
        session = _session(folder / "model.onnx", chosen, notes)
        feeds = make_feeds(session, count, origin.contract, samples, sizes=origin.sizes, model=proto)
        runs, tolerances = expected_outputs(folder / "model.onnx", session, feeds)
        if _ort_wanted(ort, proto, notes):
            _write_ort(folder, chosen)
        described = describe(proto, origin, chosen, session, write_samples(runs, folder), tolerances)
        others = [path.name for path in folder.iterdir()]
        write_snippets(folder, described, runs, model_name=model.name, others=sorted(others))
        manifest = write_manifest(folder, described)
        _check_models(folder, manifest)
        _deliver(folder, output)
    return Package(path=output, manifest=manifest, notes=tuple(notes))


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """Make an empty folder beside the output: a killed run leaves no half package under its name."""
    with scratch_folder(output) as scratch:
        (scratch / "package").mkdir()
        yield scratch / "package"


def is_archive(path: Path) -> bool:
    """Whether a package of this name is one file."""
    return path.name.lower().endswith(_ARCHIVES)


def _require_replaceable(output: Path) -> None:
    if not output.parent.is_dir():
        raise ConfigError(f"the package must be in a folder that exists, got {output}")
    if is_archive(output):
        if output.is_dir():
            raise ConfigError(f"{output} is a folder: give another name with -o")
    elif output.exists():
        try:
            check_files(output)  # any other folder must not be lost
        except (PackageError, OSError) as error:
            raise ConfigError(
                f"{output} exists and is no whole package ({error}): give another name with -o, or move it away"
            ) from error


def _read(model: Path, json_report: Path | None) -> tuple[onnx.ModelProto, Origin]:
    proto = read_model(model)
    opset_of(proto, model)  # refuses a file that names none, which the runtime does in a page of C++
    origin = read_origin({entry.key: entry.value for entry in proto.metadata_props})
    if origin.target is None and not is_quantized(proto):
        raise ConfigError(
            f"{model} is a float model that zsq-compile did not write: wanted a quantized one; "
            f"compile it first (zsq-compile {model.name}), and pack what that writes"
        )
    return proto, origin if json_report is None else _with_report(origin, model, json_report)


def _with_report(origin: Origin, model: Path, json_report: Path) -> Origin:
    """Complete the origin in a model's metadata by that in a report."""
    try:
        report = json.loads(json_report.read_bytes())
        hashes, seed, contract = report["sha256"], report["seed"], report["contract"]
        source, target = hashes["model"], report["settings"]["target"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{json_report} is not what zsq-compile --json prints: {error!r}") from error
    if hashes.get("emitted") != sha256(model):
        raise ConfigError(f"{json_report} is the report of another file than {model}: their SHA-256 differ")
    return replace(
        origin,
        seed=seed if origin.seed is None else origin.seed,
        target=origin.target or target,
        source_sha256=origin.source_sha256 or source,
        contract=contract if origin.contract is None else origin.contract,
    )


def _target(given: str | None, origin: Origin) -> Target:
    name = given or origin.target or _DEFAULT_TARGET
    try:
        return load_target(name)
    except TargetError as error:
        hint = "" if given else " (the model says that it was compiled for it: give --target with the file)"
        raise ConfigError(f"{error}{hint}") from error


def _require_legal(model: Path, target: Target, origin: Origin) -> None:
    """Refuse a model that was compiled for another target and breaks a rule of this one."""
    if origin.target is None or origin.target == target.name:
        return
    found = target_violations(ir.load(model), target)
    if found:
        raise ConfigError(
            f"{model} was compiled for {origin.target} and is not legal on {target.name}: {found[0].op_type} "
            f"{found[0].where!r}: {found[0].reason}; compile it with --target {target.name}"
        )


def _copy_model(model: Path, proto: onnx.ModelProto, folder: Path) -> None:
    """Copy the file, or gather external data of any names in ``model.data``."""
    path = folder / "model.onnx"
    outside = onnx.load(model, load_external_data=False).graph.initializer
    if not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in outside):
        shutil.copyfile(model, path)
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)  # saving with external data empties the tensors of the model it is given
    onnx.save(copy, path, save_as_external_data=True, location="model.data", size_threshold=_SIZES)
    shutil.copymode(path, folder / "model.data")  # onnx keeps its data files from all other users


def _copy_reports(folder: Path, reports: Mapping[str, Path | None]) -> None:
    for name, path in reports.items():
        if path is not None:
            try:
                shutil.copyfile(path, folder / name)
            except OSError as error:
                raise ConfigError(f"the report {path} cannot be read: {error.strerror or error}") from error


def _session(model: Path, target: Target, notes: list[str]) -> Session:
    """Open the model with the target's providers, or on the processor where they are not installed."""
    first_error: RuntimeModelError | None = None
    for providers in (target.providers, ("CPUExecutionProvider",)):
        try:
            session = open_session(
                model,
                providers=providers,
                threads=1,
                config=target.session_config,
                provider_options=target.provider_options,
            )
        except RuntimeModelError as error:
            first_error = first_error or error
            continue
        if first_error is not None:
            notes.append(f"the expected outputs come from the processor, not from {target.name}: {first_error}")
        return session
    raise LoadError(str(first_error)) from first_error


def _ort_wanted(asked: bool | None, proto: onnx.ModelProto, notes: list[str]) -> bool:
    makers = {name: node.op_type for node in proto.graph.node for name in node.output}
    codes = {node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    packed = any(makers.get(name) in _UNPACKING for name in codes) or any(
        tensor.data_type in _NARROW for tensor in proto.graph.initializer
    )
    widened = _has_widened(proto)
    if asked is None and (packed or widened):
        bits = "in float" if widened else "in 8 bits"
        notes.append(f"no .ort file was made: it would hold the packed weights {bits}; --ort asks for it all the same")
    return not (packed or widened) if asked is None else asked


def _has_widened(proto: onnx.ModelProto) -> bool:
    """Tell whether the file has integer constants that become float when it is opened."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    integers = {one.name for one in proto.graph.initializer if one.data_type != onnx.TensorProto.FLOAT}

    def is_constant(name: str) -> bool:
        while name in makers and makers[name].input:
            name = makers[name].input[0]
        return name in integers

    casts = (node for node in proto.graph.node if node.op_type == "Cast")
    return any(node.attribute[0].i == onnx.TensorProto.FLOAT and is_constant(node.input[0]) for node in casts)


def _write_ort(folder: Path, target: Target) -> None:
    try:
        write_ort(
            folder / "model.onnx",
            folder / "model.ort",
            folder / "model.required_operators.config",
            platform=target.ort_platform,
        )
    except RuntimeModelError as error:
        raise LoadError(f"{error}; --no-ort leaves it out") from error


def _check_models(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Run every model file of the package as the device will, here on the processor."""
    for name in manifest["models"]:
        try:
            found = replay(folder, dict(manifest), name, provider="CPUExecutionProvider", threads=1, timed=False)
        except RunError as error:
            raise LoadError(str(error)) from error
        if found["faults"]:
            raise ValidationError(f"{name} does not give the expected outputs: {found['faults'][0]}")


def _deliver(folder: Path, output: Path) -> None:
    if is_archive(output):
        part = folder.parent / "package.tar.gz"
        pack(folder, part)
        part.replace(output)
        return
    if output.exists():
        shutil.rmtree(output)
    folder.replace(output)
