"""AMD Quark's quantizer for ONNX, run in Quark's own environment (its first start compiles operators of its own)."""

import sys

import numpy as np
import onnx
from quark.onnx import (
    A8W8_QCONFIG,
    BiasCorrectionConfig,
    CalibMethod,
    CalibrationDataReader,
    Int8Spec,
    ModelQuantizer,
    QConfig,
    QLayerConfig,
    QuantGranularity,
    UInt8Spec,
)

FLOAT_OUTPUTS = ", float outputs"


def best(unquantized: list[str]) -> QConfig:
    """Scales per channel and corrected biases; what operators of the types that are named make stays float."""
    return QConfig(
        global_config=QLayerConfig(
            activation=UInt8Spec(calibration_method=CalibMethod.MinMax),
            weight=Int8Spec(calibration_method=CalibMethod.MinMax, quant_granularity=QuantGranularity.Channel),
        ),
        algo_config=[BiasCorrectionConfig()],
        OpTypesToExcludeOutputQuantization=unquantized,
    )


def output_types(path: str) -> list[str]:
    """Operators that make the graph's outputs."""
    graph = onnx.load(path).graph
    names = {value.name for value in graph.output}
    return sorted({node.op_type for node in graph.node if names & set(node.output)})


class ArrayReader(CalibrationDataReader):
    """Gives the samples of an .npz file, in batches of 16."""

    def __init__(self, path: str) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        starts = range(0, len(next(iter(arrays.values()))), 16)
        self._batches = [{name: array[start : start + 16] for name, array in arrays.items()} for start in starts]
        self._next = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by input name, None after the last one."""
        self._next += 1
        return self._batches[self._next - 1] if self._next <= len(self._batches) else None

    def reset_iter(self) -> None:
        """Start again from the first batch."""
        self._next = 0


def main() -> None:
    model, calibration, output, setting = sys.argv[1:]
    careful = best(output_types(model) if setting.endswith(FLOAT_OUTPUTS) else [])
    config = A8W8_QCONFIG if setting == "preset A8W8" else careful
    ModelQuantizer(config).quantize_model(model, output, ArrayReader(calibration))


if __name__ == "__main__":
    main()
