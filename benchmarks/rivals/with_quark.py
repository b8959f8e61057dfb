"""AMD Quark's quantizer for ONNX, run in Quark's own environment (its first start compiles operators of its own)."""

import sys

import numpy as np
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

BEST = QConfig(
    global_config=QLayerConfig(
        activation=UInt8Spec(calibration_method=CalibMethod.MinMax),
        weight=Int8Spec(calibration_method=CalibMethod.MinMax, quant_granularity=QuantGranularity.Channel),
    ),
    algo_config=[BiasCorrectionConfig()],
)
SETTINGS = {"preset A8W8": A8W8_QCONFIG, "best": BEST}


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
    ModelQuantizer(SETTINGS[setting]).quantize_model(model, output, ArrayReader(calibration))


if __name__ == "__main__":
    main()
