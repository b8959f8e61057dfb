"""The manifest of a package: plain values in a fixed order. docs/reference/package-format.md explains every entry."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from backends.session import Session
from backends.target import Target
from zsq_compile.packaging.samples import Sample, Tolerance
from zsq_compile.packaging.verify import MANIFEST, MANIFEST_HASH, SCHEMA, sha256
from zsq_compile.reporting.report import installed_versions
from zsq_compile.stages.provenance import Origin
from zsq_compile.version import VERSION

_UNRELATED = ("torch", "onnxsim", "onnx-ir", "zsq-compile")  # packing does not depend on them


def write_samples(samples: Sequence[Sample], folder: Path) -> list[dict[str, Any]]:
    """Write every array into a file of its own, and return the manifest's list of them."""
    listed = []
    for number, sample in enumerate(samples):
        entry: dict[str, Any] = {}
        for role, arrays in (("input", sample.inputs), ("output", sample.outputs)):
            entry[f"{role}s"] = {}
            for index, (name, array) in enumerate(arrays.items()):
                file = f"samples/{number}/{role}_{index}.npy"
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                np.save(folder / file, array, allow_pickle=False)
                entry[f"{role}s"][name] = file
        listed.append(entry)
    return listed


def describe(
    model: onnx.ModelProto,
    origin: Origin,
    target: Target,
    session: Session,
    samples: Sequence[Mapping[str, Any]],
    tolerances: Mapping[str, Tolerance],
) -> dict[str, Any]:
    """Return the manifest without the list of files; ``samples`` come from ``write_samples``."""
    digest, count = scales_digest(model)
    return {
        "schema": SCHEMA,
        "tool": {"name": "zsq-compile", "compiled_by": origin.version, "packed_by": VERSION},
        "seed": origin.seed,
        "source_sha256": origin.source_sha256,
        "compiled_for": origin.target,
        "target": {"name": target.name, "description": target.description},
        "session": session_settings(target),
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "ir_version": model.ir_version,
        "input_contract": None if origin.contract is None else dict(origin.contract),
        "inputs": [_described(session, name) for name in session.input_names],
        "outputs": [{"name": name, **_limits(tolerances[name])} for name in session.output_names],
        "scales": {"sha256": digest, "count": count},
        "samples": list(samples),
        "versions": {name: text for name, text in installed_versions().items() if name not in _UNRELATED},
    }


def write_manifest(folder: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """Add the list of all files in ``folder`` to the manifest; write it, and its hash beside it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    complete = {
        **described,
        "models": [name for name in ("model.onnx", "model.ort") if name in names],
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names},
    }
    text = json.dumps(complete, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    (folder / MANIFEST_HASH).write_text(f"{sha256(folder / MANIFEST)}  {MANIFEST}\n", encoding="utf-8", newline="\n")
    return complete


def session_settings(target: Target) -> dict[str, Any]:
    """Return the session options of ONNX Runtime for a target, as plain values."""
    return {
        "providers": list(target.providers),
        "provider_options": {name: dict(options) for name, options in target.provider_options.items()},
        "config": dict(target.session_config),
    }


def scales_digest(model: onnx.ModelProto) -> tuple[str, int]:
    """SHA-256 over names, types, shapes and bytes of all stored scales and zero points, by name; and their number.

    Two files with the same digest quantize alike, whatever their metadata and storage are.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {
        name
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in list(node.input)[1:3]
        if name in initializers
    }
    digest = hashlib.sha256()
    for name in sorted(names):
        array = onnx.numpy_helper.to_array(initializers[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest(), len(names)


def _described(session: Session, name: str) -> dict[str, Any]:
    dtype = session.input_dtypes.get(name)
    return {"name": name, "shape": list(session.input_shapes[name]), "dtype": None if dtype is None else dtype.name}


def _limits(tolerance: Tolerance) -> dict[str, Any]:
    return {"atol": tolerance.atol} if tolerance.atol is not None else {"may_differ": tolerance.may_differ}
