"""A small quantized model with an origin, and what packs it."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from backends.catalog import load_target
from passes.emit.emit import emit
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, prepare, random_feeds, with_scales
from zsq_compile.stages.provenance import Origin, stamp

CONTRACT = {
    "name": "given",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "channel_order": "bgr",
    "inferred": False,
    "margin": None,
}


def quantized(
    path: Path,
    *,
    bits: int = 8,
    model: onnx.ModelProto | None = None,
    contract: Mapping[str, Any] = CONTRACT,
    written_for: str = "ort_cpu_avx2",  # whose sums other processes compute exactly on every processor
) -> Path:
    """Write a quantized network of three convolutions, with an origin, and return its path."""
    target = load_target(written_for)
    origin = Origin(version="0.1.0", seed=7, target="ort_cpu", source_sha256="ab" * 32, contract=contract)
    working = stamp(prepare(models.residual() if model is None else model), origin)
    plan = place_quantizers(working, target, bits=bits, edge_bits=bits)
    plan = with_scales(plan, working, random_feeds(working))
    made = inserted(working, plan)
    emit(made, plan, target)
    ir.save(made, path)
    return path


def archive_of(members: list[tuple[tarfile.TarInfo, bytes]], path: Path) -> Path:
    """Write an archive with members of any kind."""
    with tarfile.open(path, mode="w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
