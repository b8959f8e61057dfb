"""A float model and its quantized twin, the twin made by onnxruntime's own quantizer."""

from pathlib import Path

import numpy as np
import onnx

from tests.models import residual
from zsq_compile.comparison.onnxruntime_quantizer import BaselineSettings, quantize_with_onnxruntime


def samples(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def float_and_quantized(folder: Path) -> tuple[onnx.ModelProto, Path]:
    model, source, emitted = residual(), folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    quantize_with_onnxruntime(source, emitted, [{"x": samples(8)}], BaselineSettings())
    return model, emitted
