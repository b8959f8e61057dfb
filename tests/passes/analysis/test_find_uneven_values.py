"""What is uneven has other sizes when other numbers are fed, and what is not has the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from backends.session import open_session
from passes.analysis.find_uneven_values import find_uneven_values
from passes.normalize.infer_shapes import InferShapes

_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64
_CONSTANTS: dict[str, NDArray[Any]] = {
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "last": np.array([-1], np.int64),
    "half": np.array([0.5], np.float32),
    "most": np.array([4], np.int64),
    "flat": np.array([-1, 4], np.int64),
    "nought": np.array(0, np.int64),
    "step": np.array(1, np.int64),
}


def _model(nodes: list[onnx.NodeProto], outputs: Mapping[str, int], batch: int | str = 1) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "uneven",
        [helper.make_tensor_value_info("x", _FLOAT, [batch, 8, 4])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in _CONSTANTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


_MASK = [_node("ReduceMax", "x", "best", axes=[2], keepdims=0), _node("Greater", "best half", "mask")]
_COUNT = [*_MASK, _node("Cast", "mask", "ones", to=_INT64), _node("ReduceSum", "ones", "count", keepdims=0)]
_VECTOR = [*_COUNT, _node("Unsqueeze", "count zero", "counted")]
_SCORES = [_node("Transpose", "x", "scores", perm=[0, 2, 1])]
CASES = {
    "suppressed": (
        [*_SCORES, _node("NonMaxSuppression", "x scores most half half", "y")],
        {"y": _INT64},
    ),
    "not zero": ([_node("Floor", "x", "whole"), _node("NonZero", "whole", "y")], {"y": _INT64}),
    "unique": (
        [
            _node("ReduceMean", "x", "mean", axes=[2], keepdims=0),
            _node("Floor", "mean", "whole"),
            _node("Unique", "whole", "y"),
        ],
        {"y": _FLOAT},
    ),
    "compressed": ([*_MASK, _node("Reshape", "mask last", "flags"), _node("Compress", "x flags", "y")], {"y": _FLOAT}),
    "the best k": ([*_VECTOR, _node("TopK", "x counted", "y at", axis=1)], {"y": _FLOAT, "at": _INT64}),
    "cut": ([*_VECTOR, _node("Slice", "x zero counted one", "y")], {"y": _FLOAT}),
    "counted up to": ([*_COUNT, _node("Range", "nought count step", "y")], {"y": _INT64}),
    "behind one": (
        [_node("Floor", "x", "whole"), _node("NonZero", "whole", "at"), _node("Neg", "at", "y")],
        {"y": _INT64},
    ),
    "shape of one": (
        [
            _node("Floor", "x", "whole"),
            _node("NonZero", "whole", "at"),
            _node("Shape", "at", "size"),
            _node("Gather", "size one", "many"),
            _node("ConstantOfShape", "many", "y"),
        ],
        {"y": _FLOAT},
    ),
    "the best two": ([_node("TopK", "x two", "y at", axis=1)], {}),
    "numbers, not sizes": ([*_COUNT, _node("Cast", "count", "number", to=_FLOAT), _node("Mul", "x number", "y")], {}),
    "first of what is not zero": (
        [_node("Floor", "x", "whole"), _node("NonZero", "whole", "at"), _node("Gather", "at zero", "y", axis=1)],
        {},
    ),
    "reshaped by its own shape": (
        [_node("Shape", "x", "size"), _node("Slice", "size zero one", "batch"), _node("Tile", "half batch", "y")],
        {},
    ),
    "reshaped": ([_node("Reshape", "x flat", "y")], {}),
}


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("name", CASES)
def test_uneven_outputs_are_those_whose_size_changes_with_the_numbers(name: str, batch: int | str) -> None:
    nodes, uneven = CASES[name]
    proto = _model(nodes, uneven or {"y": _INT64 if name == "first of what is not zero" else _FLOAT}, batch)
    session = open_session(proto)
    seen = {output: set[tuple[int, ...]]() for output in session.output_names}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        fed = rng.uniform(-1.0, 2.0, (1, 8, 4)).astype(np.float32)
        for output, array in session.run({"x": fed}).items():
            seen[output].add(array.shape)
    model = ir.from_proto(proto)
    InferShapes()(model)

    found = find_uneven_values(model)

    assert {output for output, shapes in seen.items() if len(shapes) > 1} == set(uneven)
    assert found.intersection(seen) == set(uneven)


def test_an_open_batch_without_a_name_makes_nothing_even() -> None:
    proto = _model([_node("NonZero", "x", "y")], {"y": _INT64}, "batch")
    model = ir.from_proto(proto)
    model.graph.inputs[0].shape = ir.Shape([None, 8, 4])
    model.graph.outputs[0].shape = ir.Shape([3, None])

    assert find_uneven_values(model) == {"y"}


def test_a_size_that_is_declared_is_fixed() -> None:
    nodes, _ = CASES["the best k"]
    model = ir.from_proto(_model(nodes, {"y": _FLOAT, "at": _INT64}))
    model.graph.outputs[0].shape = ir.Shape([1, 3, 4])

    assert find_uneven_values(model) == {"at"}
