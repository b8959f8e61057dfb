"""Models of one node, for the tests of this folder."""

import numpy as np
import onnx
from onnx import helper

Arrays = dict[str, np.ndarray]


def build(
    op_type: str, opset: int, inputs: Arrays, constants: Arrays, outputs: int = 1, **attributes: object
) -> onnx.ModelProto:
    names = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op_type, [*inputs, *constants], names, name="the_node", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in names],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)
