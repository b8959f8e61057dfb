"""zsq-compile: a trained float ONNX model in, a validated quantized one out, and no data needed.

    from zsq_compile import CompileConfig, QuantizationConfig, compile_model

    result = compile_model("model.onnx", config=CompileConfig(quantization=QuantizationConfig(bits=4)))
    print(result.path, result.report.summary())

Importing this package loads neither torch nor a runtime; the first use of a name that needs them does.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zsq_compile.config.compile import CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.config.generators import DsgConfig, IntraqConfig, NoiseConfig, PixelsConfig, PriorConfig, ZeroqConfig
from zsq_compile.config.genie import GenieConfig
from zsq_compile.errors import (
    BudgetError,
    ConfigError,
    LoadError,
    QuantizationError,
    SynthesisError,
    UnsupportedModelError,
    ValidationError,
    ZsqError,
)
from zsq_compile.version import VERSION

if TYPE_CHECKING:
    from zsq_compile.comparison.compare import compare_models
    from zsq_compile.comparison.result import ComparedModel, Comparison
    from zsq_compile.compiler import CompileResult, compile_model, synthesize
    from zsq_compile.config.file import read_config
    from zsq_compile.data_reader import SyntheticDataReader
    from zsq_compile.inspection.findings import Inspection
    from zsq_compile.inspection.inspect import inspect_model

__version__ = VERSION

__all__ = [
    "BudgetError",
    "ComparedModel",
    "Comparison",
    "CompileConfig",
    "CompileResult",
    "ConfigError",
    "DistillConfig",
    "DsgConfig",
    "GenieConfig",
    "InputConfig",
    "Inspection",
    "IntraqConfig",
    "LoadError",
    "NoiseConfig",
    "PixelsConfig",
    "PriorConfig",
    "QuantizationConfig",
    "QuantizationError",
    "SynthesisError",
    "SyntheticDataReader",
    "UnsupportedModelError",
    "ValidationError",
    "ZeroqConfig",
    "ZsqError",
    "__version__",
    "compare_models",
    "compile_model",
    "inspect_model",
    "read_config",
    "synthesize",
]

_LATE = {
    "ComparedModel": "zsq_compile.comparison.result",
    "Comparison": "zsq_compile.comparison.result",
    "CompileResult": "zsq_compile.compiler",
    "Inspection": "zsq_compile.inspection.findings",
    "SyntheticDataReader": "zsq_compile.data_reader",
    "compare_models": "zsq_compile.comparison.compare",
    "compile_model": "zsq_compile.compiler",
    "inspect_model": "zsq_compile.inspection.inspect",
    "read_config": "zsq_compile.config.file",
    "synthesize": "zsq_compile.compiler",
}


def __getattr__(name: str) -> object:
    """Import what needs torch, or just takes a while, when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _check_neighbours() -> None:
    """Refuse a stranger's `passes` or `backends`: the names are common, and the first on sys.path wins."""
    here = Path(__file__).resolve().parent.parent
    for name in ("passes", "backends"):
        spec = find_spec(name)
        found = [Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
        if here / name not in found:
            came = f"was found in {found[0]}" if found else "was not found as a package"
            raise ImportError(
                f"zsq_compile needs its own package {name!r} beside it, in {here}, but {name!r} {came}. Another "
                "package or folder of that name comes first on sys.path: install zsq-compile into its own environment, "
                "and from a folder that holds such a name run the command zsq-compile, not python -m zsq_compile."
            )


_check_neighbours()
