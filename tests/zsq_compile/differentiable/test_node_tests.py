"""ONNX's own backend node tests, run through TorchGraph.

Oracle: the outputs that the ONNX project states. Tolerance: relative 1e-3 (ONNX's own) and absolute 1e-6; for half
precision two units in the last place (relative 2**-9 for float16, 2**-6 for bfloat16).
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

import zsq_compile.differentiable
from zsq_compile.differentiable.arguments import TORCH_TYPES
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.table import OPERATORS

README = Path(zsq_compile.differentiable.__file__).parent / "README.md"
SUPPORTED = sorted({op_type for _, op_type, _ in OPERATORS})

OTHERS = "functions outside the table, expanded into operators of the table"

CONTAINERS = "sequences, optionals, strings, images"
TYPES = "element types without tensors here (8-bit and 4-bit floats)"
DOMAINS = "other domains (ai.onnx.ml, training, preview)"
TRAINING = "training mode, random numbers"
OLD = "Scan before opset 9, which loading raises"
INTEGER = "integer operators of models that are quantized already"
UNSIGNED = "torch has no arithmetic for unsigned 16, 32 and 64 bit"
RUNTIME = "we follow ONNX Runtime, which differs from the test (align_corners with a fractional output size)"
RARE = "operators outside the table"

OPERATOR_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty"), CONTAINERS),
    **dict.fromkeys(("SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence"), CONTAINERS),
    **dict.fromkeys(("OptionalGetElement", "OptionalHasElement", "ImageDecoder", "TfIdfVectorizer"), CONTAINERS),
    **dict.fromkeys(("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch"), CONTAINERS),
    **dict.fromkeys(("Bernoulli", "RandomUniformLike"), TRAINING),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"), INTEGER),
}
_UNSIGNED = {ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}
# what torch cannot compute in those types; it can multiply them, compare for equality, and, or, xor
_SIGNED_ONLY = {"Add", "Sub", "Div", "Max", "Min", "Mod", "BitShift", "BitwiseNot"} | {
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
}
NAME_REASONS: Mapping[str, str] = {
    r"test_training_dropout_(default|mask|default_mask)$|test_training_dropout$": TRAINING,
    r"test_batchnorm_\w+_training_mode$": TRAINING,
    r"test_scan_sum$": OLD,
    r"test_resize_downsample_scales_(linear|cubic)_align_corners$": RUNTIME,
}


def _dtypes(case: TestCase) -> set[ir.DataType]:
    values = (*case.model.graph.input, *case.model.graph.output)
    return {ir.DataType(value.type.tensor_type.elem_type) for value in values if value.type.HasField("tensor_type")}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def is_float(case: TestCase) -> bool:
    """Whether floats of 16 bits or more go in or come out."""
    kinds = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    return bool(kinds & _dtypes(case)) and why_not(case) != DOMAINS


def why_not(case: TestCase) -> str | None:
    """Why this test is not run; None when it must run and pass."""
    graph = case.model.graph
    if any(node.domain not in ("", "ai.onnx") for node in graph.node):
        return DOMAINS
    values = (*graph.input, *graph.output)
    kinds = _dtypes(case)
    if ir.DataType.STRING in kinds or not all(value.type.HasField("tensor_type") for value in values):
        return CONTAINERS
    for node in _nodes(graph):
        if node.op_type not in SUPPORTED:
            return OPERATOR_REASONS.get(node.op_type, RARE)
    if not kinds <= TORCH_TYPES.keys():
        return TYPES
    if kinds & _UNSIGNED and any(node.op_type in _SIGNED_ONLY for node in graph.node):
        return UNSIGNED
    return next((reason for pattern, reason in NAME_REASONS.items() if re.match(pattern, case.name)), None)


@pytest.fixture(scope="module")
def cases() -> dict[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases provoke overflows on purpose
        return {case.name: case for case in collect_testcases(None)}


def family(case: TestCase, cases: Mapping[str, TestCase]) -> str:
    """Operator that the test is about; an expanded function belongs to the function."""
    base = cases.get(re.sub(r"_expanded(_ver\d+)?$", "", case.name), case)
    op_type = str(base.model.graph.node[-1].op_type)
    return op_type if op_type in SUPPORTED else OTHERS


def to_torch(value: np.ndarray | np.generic | onnx.TensorProto) -> torch.Tensor:
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.name in ("int4", "int2"):
        array = array.astype(np.int8)
    if array.dtype.name in ("uint4", "uint2"):
        array = array.astype(np.uint8)
    return torch.from_numpy(array.copy())


def check(case: TestCase) -> None:
    graph = TorchGraph(ir.from_proto(case.model))
    for inputs, outputs in case.data_sets:
        feeds = {value.name: to_torch(array) for value, array in zip(case.model.graph.input, inputs, strict=True)}
        got = graph.run(feeds)
        for name, array in zip(graph.output_names, outputs, strict=True):
            expected = to_torch(array)
            relative = {torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}.get(expected.dtype, 1e-3)
            torch.testing.assert_close(got[name], expected, rtol=relative, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("op_type", [*SUPPORTED, OTHERS])
def test_supported_operator_passes_its_node_tests(op_type: str, cases: dict[str, TestCase]) -> None:
    failures = []
    mine = [case for case in cases.values() if family(case, cases) == op_type and why_not(case) is None]
    for case in mine:
        try:
            check(case)
        except Exception as error:
            failures.append(f"{case.name}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    assert mine or op_type == "GlobalLpPool"  # ONNX has no node test of it; test_older_versions.py has one


def test_the_check_can_fail(cases: dict[str, TestCase]) -> None:
    case = replace(cases["test_relu"], model=cases["test_abs"].model)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check(case)


def test_most_float_node_tests_are_run(cases: dict[str, TestCase]) -> None:
    reasons = Counter(why_not(case) for case in cases.values() if is_float(case))
    left = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common() if reason)
    assert reasons[None] / reasons.total() >= 0.85, (
        f"only {reasons[None]} of {reasons.total()} are run; left out: {left}"
    )


def test_readme_states_how_many_node_tests_run(cases: dict[str, TestCase]) -> None:
    reasons = Counter(why_not(case) for case in cases.values())
    lines = [f"| run, all pass | {reasons.pop(None)} |"]
    lines += [f"| {reason} | {count} |" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])]
    lines.append(f"| total | {len(cases)} |")
    text = README.read_text(encoding="utf-8")
    if f"onnx {onnx.__version__}" not in text:
        pytest.skip(f"README counts the node tests of another onnx than {onnx.__version__}")
    missing = [line for line in lines if line not in text]
    assert not missing, "README.md should say:\n" + "\n".join(lines)
