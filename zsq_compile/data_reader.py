"""Synthetic data for ONNX Runtime's own quantizer, in the shape that it reads calibration data in."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from zsq_compile.compiler import synthesize
from zsq_compile.config.compile import CompileConfig
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Progress


class SyntheticDataReader:
    """A CalibrationDataReader for ``onnxruntime.quantization`` that needs no data.

        quantize_static("model.onnx", "model.int8.onnx", SyntheticDataReader("model.onnx"))

    onnxruntime recognises a reader by its ``get_next``, so nothing is inherited and no runtime is loaded here.

    Args:
        model: path of the float ONNX model; batch normalisation left in it makes better data.
        config: what is known of the input, and which generator, how many samples and which seed to use.
        batch_size: samples in one batch. None takes the model's own fixed batch, or 1 where the batch is dynamic.
        progress: receives the stages of the synthesis.

    Raises:
        ConfigError: ``batch_size`` contradicts the model's fixed batch, or leaves no full batch of samples.
        LoadError, UnsupportedModelError, SynthesisError: see ``zsq_compile.synthesize``.

    """

    def __init__(
        self,
        model: str | Path,
        config: CompileConfig | None = None,
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        made = synthesize(model, config, progress=progress)
        self._take(Path(model), {name: tensor.numpy() for name, tensor in made.inputs.items()}, batch_size)

    @classmethod
    def of_samples(
        cls, model: str | Path, samples: Mapping[str, NDArray[Any]], *, batch_size: int | None = None
    ) -> Self:
        """Read out samples that were synthesized before, (count, ...) by input name, such as an .npz file of ``synth``.

        Arrays that are no input of the model, such as labels, are passed over.

        Raises:
            ConfigError: no array is an input, or ``batch_size`` contradicts the model's fixed batch or leaves no full
                batch of samples.

        """
        reader = cls.__new__(cls)
        reader._take(Path(model), samples, batch_size)
        return reader

    def _take(self, model: Path, inputs: Mapping[str, NDArray[Any]], batch_size: int | None) -> None:
        signature = _signature(model)
        fixed = {batch for name, (batch, _) in signature.items() if name in inputs and batch is not None}
        self._batch = batch_size or (min(fixed) if fixed else 1)
        if fixed - {self._batch}:
            raise ConfigError(f"batch_size must be {min(fixed)}, the model's fixed batch, got {batch_size}")
        self._inputs: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(inputs[name].astype(dtype))
            for name, (_, dtype) in signature.items()
            if name in inputs
        }
        if not self._inputs:
            raise ConfigError(f"the samples hold {', '.join(inputs)}; the model needs {', '.join(signature)}")
        samples = min(len(array) for array in self._inputs.values())
        # Entropy and percentile calibration stack what the batches gave, so the last one must not be shorter.
        self._count = samples // self._batch
        if self._count == 0:
            raise ConfigError(f"batch_size must be at most the number of samples, {samples}, got {self._batch}")
        self._stop = self._count
        self._next = 0

    def __len__(self) -> int:
        """Count the batches."""
        return self._count

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Go over the batches that are left."""
        while (batch := self.get_next()) is not None:
            yield batch

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch by input name, None after the last one."""
        if self._next >= self._stop:
            return None
        rows = slice(self._next * self._batch, (self._next + 1) * self._batch)
        self._next += 1
        return {name: array[rows] for name, array in self._inputs.items()}

    def rewind(self) -> None:
        """Start again from the first batch."""
        self.set_range(0, self._count)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go over the batches from ``start_index`` up to, not including, ``end_index``."""
        self._next, self._stop = start_index, min(end_index, self._count)


def _signature(path: Path) -> dict[str, tuple[int | None, np.dtype[Any]]]:
    """Read the batch size (None: dynamic) and element type of each graph input."""
    graph = onnx.load(path, load_external_data=False).graph
    signature = {}
    for value in graph.input:
        kind = value.type.tensor_type
        batch = kind.shape.dim[0].dim_value if kind.shape.dim else 0
        signature[value.name] = (batch or None, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return signature
