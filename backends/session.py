"""ONNX Runtime sessions; importing this module does not import onnxruntime."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.detach_weights import has_large_weights, save_apart
from backends.memory import giving_back

Optimize = Literal["all", "basic", "none"]

# Type strings of ONNX Runtime that numpy can hold. Strings arrive as objects.
_DTYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(string)": np.dtype(np.object_),
}


class RuntimeModelError(ValueError):
    """ONNX Runtime rejected a model, or failed while it ran one; the message has its own."""


class Session:
    """A loaded model.

    Attributes:
        input_names: in order.
        output_names: in order.
        input_shapes: by name; an open size is None.
        input_dtypes: by name; an input that is no tensor is missing.

    """

    def __init__(self, handle: Any, *, label: str, scratch: Path | None = None, lean: bool = False) -> None:
        self._handle = handle
        self._lean = lean
        self._label = label
        if scratch is not None:  # weights of a model above 2 GB are mapped from here, so it lives as long as we do
            weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        inputs = handle.get_inputs()
        self.input_names: tuple[str, ...] = tuple(value.name for value in inputs)
        self.output_names: tuple[str, ...] = tuple(value.name for value in handle.get_outputs())
        self.input_shapes: dict[str, tuple[int | None, ...]] = {
            value.name: tuple(size if isinstance(size, int) else None for size in value.shape) for value in inputs
        }
        self.input_dtypes: dict[str, np.dtype[np.generic]] = {
            value.name: _DTYPES[value.type] for value in inputs if value.type in _DTYPES
        }

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once and return the outputs (default: all) by name.

        Raises:
            RuntimeModelError: an input or output name is unknown, an input is missing, or the runtime failed.

        """
        wanted = list(self.output_names if outputs is None else outputs)
        self._check_names("input", feeds, self.input_names)
        self._check_names("output", wanted, self.output_names)
        try:
            with giving_back() if self._lean else nullcontext():
                values = self._handle.run(wanted, dict(feeds))
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's errors share no base but Exception
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            raise RuntimeModelError(f"ONNX Runtime failed while it ran {self._label} on {shapes}: {error}") from error
        return dict(zip(wanted, values, strict=True))

    def end_profile(self) -> Path:
        """Stop profiling, and return the file (JSON, Chrome's trace format); see ``open_session``."""
        return Path(self._handle.end_profiling())

    def _check_names(self, role: str, given: Mapping[str, object] | Sequence[str], known: tuple[str, ...]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            raise RuntimeModelError(f"{self._label} has no {role} {unknown[0]!r}; its {role}s are {', '.join(known)}")


def open_session(
    model: onnx.ModelProto | Path,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int | None = None,
    optimize: Optimize = "all",
    optimized_path: Path | None = None,
    config: Mapping[str, str] | None = None,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
    profile_prefix: Path | None = None,
    lean: bool = False,
) -> Session:
    """Load a model into ONNX Runtime.

    Args:
        model: a model in memory or its file; a large model in memory is written to a temporary folder first.
        providers: execution providers, in order of preference; one that is not installed is an error.
        threads: threads inside an operator; None leaves the choice to the runtime.
        optimize: graph optimizations, "all" being the runtime's own default.
        optimized_path: where to save the optimized graph; larger weights go into ``NAME.data`` there.
        config: entries of the runtime's session options.
        provider_options: by execution provider.
        weights: of the initializers that a model in memory calls external, by name; these are not copied, as a whole
            model is, several times.
        profile_prefix: of a file with every node's time in every run, until ``Session.end_profile``; None for no file.
        lean: give memory back after every run; else the runtime keeps what its largest run took, and up to as much
            again, which is faster, for as long as the session lives.

    Raises:
        RuntimeModelError: the runtime cannot load the model, or lacks a provider.

    """
    import onnxruntime as ort

    label = str(model) if isinstance(model, Path) else f"the graph {model.graph.name!r}"
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        raise RuntimeModelError(
            f"{label} is to run on {missing[0]}, but this onnxruntime has only "
            f"{', '.join(ort.get_available_providers())}; install the build that has it (onnxruntime-gpu for CUDA)"
        )
    source, scratch = _as_source(model)
    try:
        options = _options(threads, optimize, optimized_path)
        options.enable_cpu_mem_arena = not lean
        if profile_prefix is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile_prefix)
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        given = [dict((provider_options or {}).get(name, {})) for name in providers]
        shared = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in (weights or {}).items()}
        if shared:
            options.add_external_initializers(list(shared), list(shared.values()))
        handle = ort.InferenceSession(source, options, providers=list(providers), provider_options=given)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's errors share no base but Exception
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        raise RuntimeModelError(f"ONNX Runtime cannot load {label}: {error}") from error
    return Session(handle, label=label, scratch=scratch, lean=lean)


def usable_providers(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted providers where all are installed, else that of the CPU, which always is."""
    return tuple(wanted) if set(wanted) <= set(available_providers()) else ("CPUExecutionProvider",)


def available_providers() -> tuple[str, ...]:
    """Name the execution providers of the installed onnxruntime, in its order of preference."""
    import onnxruntime as ort

    return tuple(ort.get_available_providers())


def _options(threads: int | None, optimize: Optimize, optimized_path: Path | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: everything else arrives as an exception
    if threads is not None:
        options.intra_op_num_threads = threads
    # idle workers would spin for milliseconds after a run and slow down what is measured next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    levels = {
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    options.graph_optimization_level = levels[optimize]
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
        # with weights beside the graph a model above 2 GB can be saved, and reading only the graph is quick
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized_path.name}.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return options


def _as_source(model: onnx.ModelProto | Path) -> tuple[str | bytes, Path | None]:
    """Return the argument of InferenceSession, and the folder that must outlive it, if any."""
    if isinstance(model, Path):
        if not model.is_file():
            raise RuntimeModelError(f"there is no file {model}")
        return str(model), None
    if has_large_weights(model):
        scratch = Path(tempfile.mkdtemp(prefix="zsq_"))
        return str(save_apart(model, scratch)), scratch
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < onnx.checker.MAXIMUM_PROTOBUF:
        try:
            return model.SerializeToString(), None
        except Exception:  # the protobuf back ends raise different types above 2 GB
            pass
    scratch = Path(tempfile.mkdtemp(prefix="zsq_"))
    path = scratch / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving with external data empties the tensors of the model it is given
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin")
    return str(path), scratch
