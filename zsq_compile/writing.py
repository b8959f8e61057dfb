"""Write a model so that a killed run never leaves a half file."""

import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from zsq_compile.errors import ConfigError

_PROTOBUF_LIMIT = 1_900_000_000  # one protobuf message ends at 2 GiB; the graph itself needs room too


def write_model(model: ir.Model, path: Path) -> None:
    """Write a model under a temporary name in the target folder and rename it.

    Weights go into ``<name>.data`` beside the model where one file cannot hold them.

    Raises:
        ConfigError: the folder cannot be written to.

    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > _PROTOBUF_LIMIT else None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", dir=path.parent))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}; choose another place with -o"
        ) from error
    try:
        ir.save(model, scratch / path.name, external_data=data)
        if data is not None:
            (scratch / data).replace(path.parent / data)
        (scratch / path.name).replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
