"""Tell a broken file from a mistake of ours: what is wrong with a model, asked of ONNX and of its runtime."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from backends.session import RuntimeModelError, open_session
from zsq_compile.errors import LoadError, ZsqError
from zsq_compile.frontend.opset import detach_weights
from zsq_compile.frontend.read_onnx import read_model, separate_names


def graph_fault(proto: onnx.ModelProto) -> str | None:
    """Say why the runtime does not load a graph, its large weights left out; None where it does."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    detach_weights(skeleton.graph)
    try:
        open_session(skeleton, optimize="none", threads=1)
    except RuntimeModelError as error:
        return str(error)
    return None


@contextmanager
def blamed_on_file(path: Path) -> Iterator[None]:
    """Raise LoadError with what is wrong with a model that our own code stumbles over, where anything is."""
    try:
        yield
    except (ZsqError, MemoryError):
        raise
    except Exception as error:
        proto = read_model(path)
        separate_names(proto)
        if fault := graph_fault(proto) or _checked(proto):
            raise LoadError(f"{path} is no valid model: {fault}") from error
        raise


def _checked(proto: onnx.ModelProto) -> str | None:
    detach_weights(proto.graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # type inference raises other errors than the checker
        return str(error).strip().splitlines()[0]
    return None
