"""Imports only go down, and files stay small: the rules of CONTRIBUTING, read off the source with ``ast``."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zsq_compile", "passes", "backends")
LONGEST_FILE, LONGEST_FUNCTION = 350, 50

# From the ground up. A part may import parts below its own floor, and itself.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("backends",),
    ("passes",),
    (
        "zsq_compile.data.contract_words",
        "zsq_compile.data.conventions",
        "zsq_compile.errors",
        "zsq_compile.reporting.evidence",
        "zsq_compile.quantization.layer_metrics.layer_quality",
        "zsq_compile.inspection.natural_images",
        "zsq_compile.packaging.verify",
        "zsq_compile.reporting.plain",
        "zsq_compile.progress",
        "zsq_compile.shares",
        "zsq_compile.data.input_spec",
        "zsq_compile.version",
    ),
    ("zsq_compile.inspection.usual_agreement",),
    (
        "zsq_compile.frontend.equivalence",
        "zsq_compile.clock",
        "zsq_compile.frontend.input_shapes",
        "zsq_compile.frontend.opset",
        "zsq_compile.inspection.estimates",
        "passes.analysis.count_bytes",
        "zsq_compile.frontend.half_precision",
        "zsq_compile.frontend.read_onnx",
        "zsq_compile.config.checks",
        "zsq_compile.inspection.runtime_probe",
    ),
    (
        "zsq_compile.config.generators",
        "zsq_compile.config.conditional_generators",
        "zsq_compile.config.genie",
        "zsq_compile.config.units",
    ),
    ("zsq_compile.config.distillation", "zsq_compile.frontend.dequantize", "zsq_compile.config.units"),
    (
        "zsq_compile.config.compile",
        "passes.quantize.prepare_float",
        "zsq_compile.frontend.load",
        "zsq_compile.inspection.preprocessing",
        "zsq_compile.frontend.quick_loading",
        "zsq_compile.differentiable",
        "zsq_compile.writing",
    ),
    ("zsq_compile.synthesis", "zsq_compile.quantization", "zsq_compile.verification"),
    (
        "zsq_compile.files",
        "zsq_compile.stages.calibration_data",
        "zsq_compile.comparison.result",
        "zsq_compile.config.file",
        "zsq_compile.differentiable.device",
        "zsq_compile.reporting.gallery",
        "zsq_compile.inspection.findings",
        "zsq_compile.stages.provenance",
        "zsq_compile.quantization.plan_file",
        "zsq_compile.quantization.mixed_precision.trials",
    ),
    (
        "zsq_compile.batchnorm.checkpoint",
        "zsq_compile.stages.gallery",
        "zsq_compile.stages.evidence",
        "zsq_compile.inspection.advice",
        "zsq_compile.stages.live_samples",
        "zsq_compile.quantization.planning",
        "zsq_compile.batchnorm.statistics_file",
    ),
    ("zsq_compile.packaging",),
    ("zsq_compile.batchnorm.find_statistics",),
    ("zsq_compile.inspection.inspect",),
    (
        "zsq_compile.batchnorm.known_statistics",
        "zsq_compile.quantization.mixed_precision.search",
        "zsq_compile.stages.provisional_student",
    ),
    ("zsq_compile.stages.estimate_agreement", "zsq_compile.stages.quantize"),
    (
        "zsq_compile.comparison.measure",
        "zsq_compile.stages.faster_variants",
        "zsq_compile.comparison.confident_samples",
    ),
    ("zsq_compile.stages.export",),
    ("zsq_compile.compiler",),
    ("zsq_compile.data_reader", "zsq_compile.cli.console", "zsq_compile.cli.options"),
    (
        "zsq_compile.comparison.calibration_sources",
        "zsq_compile.cli.overrides",
        "zsq_compile.cli.comparison_table",
        "zsq_compile.cli.command",
        "zsq_compile.cli.inspection_table",
        "zsq_compile.reporting.charts",
    ),
    ("zsq_compile.comparison.onnxruntime_variants",),
    ("zsq_compile.comparison.compare", "zsq_compile.reporting.figures"),
    ("zsq_compile.cli.package", "zsq_compile.reporting.view"),
    ("zsq_compile.reporting.html",),
    ("zsq_compile",),  # the public face: what its __init__ imports
    ("zsq_compile.cli.compare", "zsq_compile.cli.inspect"),
    ("zsq_compile.cli.compile",),
    ("zsq_compile.cli.entry",),
    ("zsq_compile.__main__",),
)
TORCH = (
    "zsq_compile.differentiable",
    "zsq_compile.synthesis",
    "zsq_compile.quantization",
    "zsq_compile.stages.calibration_data",
    "zsq_compile.batchnorm.checkpoint",
    "zsq_compile.compiler",
    "zsq_compile.stages.estimate_agreement",
    "zsq_compile.differentiable.device",
    "zsq_compile.stages.gallery",
    "zsq_compile.stages.evidence",
    "zsq_compile.packaging.samples",
    "zsq_compile.stages.export",
    "zsq_compile.stages.provisional_student",
    "zsq_compile.stages.quantize",
    "zsq_compile.comparison.confident_samples",
    "zsq_compile.quantization.mixed_precision.trials",
)
# The program on the device is one file, so it opens its own session.
ONNXRUNTIME = ("backends.session", "zsq_compile.packaging.verify", "zsq_compile.comparison.onnxruntime_quantizer")
FOREIGN_TO_PASSES = frozenset({"onnx", "onnx_ir", "onnxsim", "numpy"})
VAGUE_NAMES = frozenset({"utils", "util", "common", "helpers", "base", "misc", "manager"})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, part: str) -> bool:
    # The face alone stands for itself; every other part stands for all that is below it.
    return module == part or (part != "zsq_compile" and module.startswith(f"{part}."))


def place(module: str) -> tuple[int, str]:
    """Floor and part of a module; an unknown one is named, so that it gets a place in FLOORS."""
    for floor, parts in enumerate(FLOORS):
        for part in parts:
            if within(module, part):
                return floor, part
    raise AssertionError(f"{module} has no floor: add it to FLOORS in test_floors.py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that a source imports anywhere in it, late imports and those for type checkers included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            # `from package import module` reaches the module, not only the package.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if is_ours(inner) else str(node.module)


def is_ours(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def violations(module: str, source: str) -> list[str]:
    """What a module's imports break."""
    floor, part = place(module)
    found = []
    for name in imported(ast.parse(source)):
        top = name.split(".")[0]
        if top in PACKAGES:
            other_floor, other = place(name)
            if part != other and other_floor >= floor:
                found.append(f"{module} imports {name}, which is not below it")
        elif top == "torch" and not any(within(module, allowed) for allowed in TORCH):
            found.append(f"{module} imports torch")
        elif top == "onnxruntime" and module not in ONNXRUNTIME:
            found.append(f"{module} imports onnxruntime")
        elif part == "passes" and top not in FOREIGN_TO_PASSES and top not in sys.stdlib_module_names:
            found.append(f"{module} imports {top}, which passes may not")
    return found


def oversized(path: Path, source: str) -> list[str]:
    found = [f"{path} has {n} lines"] if (n := len(source.splitlines())) > LONGEST_FILE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The docstring is not counted: a full contract must not be what makes a function too long.
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            if length > LONGEST_FUNCTION:
                found.append(f"{path}: {node.name} has {length} lines")
    return found


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def open_doors(path: Path, source: str) -> list[str]:
    """Functions that take any keyword: a misspelt option would pass in silence."""
    return [
        f"{path}: {node.name} takes **{node.args.kwarg.arg}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg is not None
    ]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def readable(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=readable)
def test_imports_only_go_down(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


# Tests are not held to it: a test file belongs to one source file and has as many cases as that one needs.
@pytest.mark.parametrize("path", sources(*PACKAGES, "examples", "benchmarks"), ids=readable)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert oversized(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=readable)
def test_no_function_takes_any_keyword(path: Path) -> None:
    assert open_doors(path, path.read_text(encoding="utf-8")) == []


def test_no_file_is_named_for_what_it_might_hold() -> None:
    assert [readable(path) for path in sources(*PACKAGES) if path.stem in VAGUE_NAMES] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("passes.plan", "import torch"),
        ("passes.plan", "from zsq_compile.errors import ZsqError"),
        ("passes.plan", "import pandas"),
        ("backends.target", "from passes.plan import QuantizationPlan"),
        ("zsq_compile.config.compile", "def late():\n    import torch"),
        ("zsq_compile.metrics", "import torch"),
        ("zsq_compile.metrics", "import onnxruntime"),
        ("zsq_compile.synthesis.generators.pixels", "from zsq_compile.quantization import scales"),
        ("zsq_compile.differentiable.module", "from zsq_compile.compiler import compile_model"),
        ("zsq_compile.compiler", "from zsq_compile import compile_model"),
    ],
)
def test_a_broken_rule_is_seen(module: str, source: str) -> None:
    assert violations(module, source)


def test_a_long_function_a_long_file_and_an_open_door_are_seen() -> None:
    body = "\n".join(["    pass"] * LONGEST_FUNCTION)
    assert oversized(Path("a.py"), f"def long():\n{body}")
    assert oversized(Path("a.py"), "\n" * (LONGEST_FILE + 1))
    assert open_doors(Path("a.py"), "def f(**options): ...")
