"""OpenVINO NNCF's post-training quantization of an ONNX model, run in NNCF's own environment."""

import sys

import nncf
import numpy as np
import onnx
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

BEST = {
    "preset": nncf.QuantizationPreset.MIXED,
    "fast_bias_correction": False,
    # Weights of 8 bits instead of 7: the machine has integer instructions that cannot overflow.
    "advanced_parameters": AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
}
SETTINGS = {"defaults": {}, "best": BEST}


def main() -> None:
    model, calibration, output, setting = sys.argv[1:]
    with np.load(calibration) as archive:
        arrays = dict(archive)
    count = len(next(iter(arrays.values())))
    samples = [{name: array[index : index + 1] for name, array in arrays.items()} for index in range(count)]
    quantized = nncf.quantize(onnx.load(model), nncf.Dataset(samples), subset_size=count, **SETTINGS[setting])
    onnx.save(quantized, output)


if __name__ == "__main__":
    main()
