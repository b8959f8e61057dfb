"""onnxruntime's own static quantizer, in any environment that has onnxruntime and onnx."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CAREFUL = {
    "quant_format": QuantFormat.QDQ,
    "per_channel": True,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
}
FLOAT_OUTPUTS = ", float outputs"
METHODS = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}


class ArrayReader(CalibrationDataReader):
    """Gives the samples of an .npz file, in batches of 16."""

    def __init__(self, path: str) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        # Entropy calibration stacks what the batches gave, so the last one must not be shorter.
        count = len(next(iter(arrays.values()))) // 16
        self._batches = iter(
            [{name: array[16 * index : 16 * (index + 1)] for name, array in arrays.items()} for index in range(count)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by input name, None after the last one."""
        return next(self._batches, None)


def output_types(path: str) -> list[str]:
    """Operators that make the graph's outputs."""
    graph = onnx.load(path).graph
    names = {value.name for value in graph.output}
    return sorted({node.op_type for node in graph.node if names & set(node.output)})


def main() -> None:
    model, calibration, output, setting = sys.argv[1:]
    reader = ArrayReader(calibration)
    if setting == "defaults":
        quantize_static(model, output, reader)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        method = METHODS[setting.removesuffix(FLOAT_OUTPUTS)]
        extra = {"OpTypesToExcludeOutputQuantization": output_types(model)} if setting.endswith(FLOAT_OUTPUTS) else {}
        quantize_static(prepared, output, reader, calibrate_method=method, extra_options=extra, **CAREFUL)


if __name__ == "__main__":
    main()
