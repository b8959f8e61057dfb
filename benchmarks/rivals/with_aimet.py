"""Qualcomm AIMET-ONNX's quantization simulation, written as a QDQ graph; run in AIMET's own environment."""

import sys

import numpy as np
import onnx
import onnxsim
from aimet_onnx import QuantizationSimModel

FLOAT_OUTPUTS = ", float outputs"


def main() -> None:
    model, calibration, output, setting = sys.argv[1:]
    with np.load(calibration) as archive:
        arrays = dict(archive)
    starts = range(0, len(next(iter(arrays.values()))), 16)
    simplified, _ = onnxsim.simplify(onnx.load(model))
    outputs = [value.name for value in simplified.graph.output]
    simulation = QuantizationSimModel(
        simplified,
        param_type="int8",
        activation_type="int8",
        quant_scheme=setting.removesuffix(FLOAT_OUTPUTS),
        config_file="default",  # weights with a scale per channel
    )
    if setting.endswith(FLOAT_OUTPUTS):
        for name in outputs:
            simulation.qc_quantize_op_dict[name].enabled = False
    simulation.compute_encodings(
        [{name: array[start : start + 16] for name, array in arrays.items()} for start in starts]
    )
    # Integers instead of float values before a QuantizeLinear: the file is a quarter as large.
    onnx.save(simulation.to_onnx_qdq(prequantize_constants=True, export_int32_bias=True), output)


if __name__ == "__main__":
    main()
