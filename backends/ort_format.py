"""The .ort form of a model, which minimal builds of ONNX Runtime load, with reproducible bytes.

ONNX Runtime writes the table from operators to the types of their kernels in the order of a hash map, which differs
from run to run. Here that table is sorted. A flatbuffer is built from its end, and its references are relative: the
model at the end of the file stays as it is, and only what stands in front of it is written anew.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from backends.session import RuntimeModelError

Platform = Literal["arm", "any"]
_FBS = "onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs"
_IDENTIFIER = b"ORTM"


def write_ort(model: Path, ort: Path, config: Path, *, platform: Platform = "any") -> None:
    """Convert a model with all of the runtime's optimizations, and list the operators that a minimal build needs.

    Args:
        model: an ONNX file.
        ort: the .ort file to write.
        config: the list to write, for ``build.sh --include_ops_by_config``.
        platform: "arm" keeps int8 quantizers as they are, which only such processors have fast kernels for.

    Raises:
        RuntimeModelError: the runtime cannot convert the model.

    """
    converter = import_module("onnxruntime.tools.convert_onnx_models_to_ort")
    made = ort.parent / f"{model.stem}.ort"
    listed = ort.parent / f"{model.stem}.required_operators.config"
    try:
        # the converter prints and logs; errors are exceptions
        with contextlib.redirect_stdout(io.StringIO()), _silence_logging():
            converter.convert_onnx_models_to_ort(
                model,
                output_dir=ort.parent,
                optimization_styles=[converter.OptimizationStyle.Fixed],
                target_platform=None if platform == "any" else platform,
            )
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise RuntimeModelError(f"ONNX Runtime cannot make an .ort file of {model}: {error}") from error
    ort.write_bytes(_sorted_resolver(made.read_bytes()))
    lines = [line for line in listed.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in {made, listed} - {ort, config}:
        path.unlink()


@contextlib.contextmanager
def _silence_logging() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the converter leaves a file open
            yield
    finally:
        logging.disable(previous)


def _sorted_resolver(data: bytes) -> bytes:
    """Sort the table of kernel types, in front of the model as it is."""
    flatbuffers, session = import_module("flatbuffers"), import_module(f"{_FBS}.InferenceSession")
    old = session.InferenceSession.GetRootAs(data, 0)
    model = old.Model()._tab
    # the table of the model is the last part of it that was written, or the list of its fields right in front of it
    start = min(model.Pos, model.Pos - model.Get(flatbuffers.number_types.SOffsetTFlags, model.Pos))
    builder = flatbuffers.Builder(len(data))
    builder.Bytes[start:] = data[start:]
    builder.head, builder.minalign = start, 16
    resolver = _write_resolver(builder, old.KernelTypeStrResolver())
    version = builder.CreateString(old.OrtVersion())
    session.Start(builder)
    session.AddOrtVersion(builder, version)
    session.AddModel(builder, len(data) - model.Pos)
    session.AddKernelTypeStrResolver(builder, resolver)
    builder.Finish(session.End(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _write_resolver(builder: Any, old: Any) -> int:
    """Write ``operator -> type name -> [(kind of argument, index)]``, sorted by operator and by type name."""
    resolver = import_module(f"{_FBS}.KernelTypeStrResolver")
    entry = import_module(f"{_FBS}.OpIdKernelTypeStrArgsEntry")
    unsorted = [old.OpKernelTypeStrArgs(i) for i in range(old.OpKernelTypeStrArgsLength())]
    offsets = []
    for operator in sorted(unsorted, key=lambda one: bytes(one.OpId())):
        types = [operator.KernelTypeStrArgs(i) for i in range(operator.KernelTypeStrArgsLength())]
        made = [_write_type(builder, one) for one in sorted(types, key=lambda one: bytes(one.KernelTypeStr()))]
        entry.StartKernelTypeStrArgsVector(builder, len(made))
        arguments = _vector(builder, made)
        name = builder.CreateString(operator.OpId())
        entry.Start(builder)
        entry.AddOpId(builder, name)
        entry.AddKernelTypeStrArgs(builder, arguments)
        offsets.append(entry.End(builder))
    resolver.StartOpKernelTypeStrArgsVector(builder, len(offsets))
    vector = _vector(builder, offsets)
    resolver.Start(builder)
    resolver.AddOpKernelTypeStrArgs(builder, vector)
    return int(resolver.End(builder))


def _write_type(builder: Any, old: Any) -> int:
    module, argument = import_module(f"{_FBS}.KernelTypeStrArgsEntry"), import_module(f"{_FBS}.ArgTypeAndIndex")
    made = []
    for index in range(old.ArgsLength()):
        one = old.Args(index)
        argument.Start(builder)
        argument.AddArgType(builder, one.ArgType())
        argument.AddIndex(builder, one.Index())
        made.append(argument.End(builder))
    module.StartArgsVector(builder, len(made))
    arguments = _vector(builder, made)
    name = builder.CreateString(old.KernelTypeStr())
    module.Start(builder)
    module.AddKernelTypeStr(builder, name)
    module.AddArgs(builder, arguments)
    return int(module.End(builder))


def _vector(builder: Any, offsets: list[int]) -> int:
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
