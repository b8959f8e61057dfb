import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.session import open_session
from passes.quantizer_grid import Grid, code_range, constant_codes, constants_of, grid_of
from tests import models

TYPES = {
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int16": ir.DataType.INT16,
    "uint16": ir.DataType.UINT16,
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
}
LIMITS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int4": (-8, 7),
    "uint4": (0, 15),
}


@st.composite
def grids(draw):
    """A grid of any type, per tensor, per index of an axis, or per block, and the shape of what lies on it."""
    name = draw(st.sampled_from(sorted(TYPES)))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    form = draw(st.sampled_from(["tensor", "axis", "block"]))
    block = draw(st.integers(2, 4)) if form == "block" else 0
    if block and np.prod(shape) == shape[axis] <= block:
        form, block = "tensor", 0  # the runtime takes no single block
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block) if block else shape[axis]
    size = {"tensor": (), "axis": (shape[axis],), "block": tuple(blocks)}[form]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    low, high = LIMITS[name]
    grid = Grid(
        scale=np.asarray(2.0 ** rng.uniform(-12, 4, size), np.float32),
        zero_point=np.asarray(rng.integers(low, high + 1, size), np.int32),
        dtype=TYPES[name],
        axis=axis,
        block=block,
    )
    return grid, shape, seed


def runtime_model(grid, shape, op_type):
    """The same quantizer for ONNX Runtime, as a judge."""
    kinds = {"QuantizeLinear": (onnx.TensorProto.FLOAT, grid.dtype.value)}
    source, result = kinds.get(op_type, (grid.dtype.value, onnx.TensorProto.FLOAT))
    attributes = {} if grid.scale.ndim == 0 else {"axis": grid.axis}
    if grid.block:
        attributes["block_size"] = grid.block
    zero = onnx.helper.make_tensor("z", grid.dtype.value, grid.zero_point.shape, grid.zero_point.reshape(-1).tolist())
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(op_type, ["x", "s", "z"], ["y"], **attributes)],
            "g",
            [onnx.helper.make_tensor_value_info("x", source, shape)],
            [onnx.helper.make_tensor_value_info("y", result, shape)],
            [onnx.numpy_helper.from_array(grid.scale, "s"), zero],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )


def in_runtime(model, array):
    """Codes of 4 bits cannot be fed or fetched: they travel through a Cast."""
    graph = model.graph
    narrow = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    if graph.input[0].type.tensor_type.elem_type in narrow:
        kind = graph.input[0].type.tensor_type.elem_type
        graph.node[0].input[0] = "n"
        graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["n"], to=kind))
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
        array = array.astype(np.int32)
    if graph.output[0].type.tensor_type.elem_type in narrow:
        graph.node[0].output[0] = "n"
        graph.node.append(onnx.helper.make_node("Cast", ["n"], ["y"], to=onnx.TensorProto.INT32))
        graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    return open_session(model, threads=1, optimize="none").run({"x": array})["y"]


@given(grids())
def test_numbers_of_codes_are_those_of_the_runtime(drawn):
    grid, shape, seed = drawn
    low, high = code_range(grid.dtype)
    codes = np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.int32).astype(grid.dtype.numpy())
    got = grid.real(codes)
    assert got.dtype == np.float32 and got.shape == shape
    np.testing.assert_array_equal(got, in_runtime(runtime_model(grid, shape, "DequantizeLinear"), codes))


@given(grids())
def test_codes_of_numbers_are_those_of_the_runtime(drawn):
    grid, shape, seed = drawn
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    got = grid.codes(numbers)
    assert got.dtype == grid.dtype.numpy()
    wanted = in_runtime(runtime_model(grid, shape, "QuantizeLinear"), numbers)
    np.testing.assert_array_equal(got.astype(np.int32), wanted.astype(np.int32))


@given(
    st.sampled_from(sorted(TYPES)),
    st.floats(2.0**-12, 16.0, width=32),
    st.floats(0.0, 1.0),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
)
def test_the_range_is_what_quantizing_cuts_to(name, scale, place, numbers):
    low, high = LIMITS[name]
    zero = low + round(place * (high - low))
    grid = Grid(scale=np.float32(scale).reshape(()), zero_point=np.asarray(zero, np.int32), dtype=TYPES[name])
    assert code_range(grid.dtype) == (low, high)
    assert grid.range == (np.float32(np.float32(low - zero) * grid.scale), np.float32(high - zero) * grid.scale)
    x = np.array(numbers, np.float32)
    rounded, clipped = grid.real(grid.codes(x)), np.clip(x, *(np.float32(end) for end in grid.range))
    # half a step, and what float32 cannot hold of numbers that many steps large
    slack = grid.scale * 0.5 + np.abs(clipped) * 2.0**-22
    assert (np.abs(rounded - clipped) <= slack).all()


def test_a_grid_is_read_off_a_node():
    model = models.graph(
        """
        g (float[2,3] x) => (float[2,3] y) <float[1] s = {0.5}, int8[1] z = {3}>
        { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }
        """
    )
    for node in model.graph:
        grid = grid_of(node)
        assert grid.key == (0.5, 3, ir.DataType.INT8)  # a single scale in brackets is one for all
        assert grid.range == (-65.5, 62.0)


@pytest.mark.parametrize(
    ("body", "zero", "wanted"),
    [
        ("y = QuantizeLinear(x, s)", "uint8 z = {0}", ir.DataType.UINT8),
        ("y = QuantizeLinear<output_dtype=3>(x, s)", "uint8 z = {0}", ir.DataType.INT8),
        ("y = QuantizeLinear(x, s, z)", "uint16 z = {7}", ir.DataType.UINT16),
    ],
)
def test_the_type_of_codes_without_a_zero_point(body, zero, wanted):
    kind = {ir.DataType.UINT8: "uint8", ir.DataType.INT8: "int8", ir.DataType.UINT16: "uint16"}[wanted]
    model = models.graph(f"g (float[3] x) => ({kind}[3] y) <float s = {{0.5}}, {zero}> {{ {body} }}")
    assert grid_of(model.graph[0]).dtype == wanted


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ("float s = {0.0}, uint8 z = {0}", "must be positive"),
        ("float[3] s = {0.5, 0.5, 0.5}, uint8[2] z = {0, 1}", "its zero point has shape"),
    ],
)
def test_grids_that_are_none(declared, reason):
    parsed = onnx.parser.parse_model(
        f"{models.HEADER} g (float[2,3] x) => (uint8[2,3] y) <{declared}> {{ y = QuantizeLinear(x, s, z) }}"
    )
    assert reason in grid_of(ir.from_proto(parsed).graph[0])


def test_a_scale_that_is_computed():
    text = "g (float[3] x, float s) => (uint8[3] y) <uint8 z = {0}> { y = QuantizeLinear(x, s, z) }"
    assert "scale is computed at run time" in grid_of(models.graph(text).graph[0])
    text = "g (float[3] x, uint8 z) => (uint8[3] y) <float s = {1.0}> { y = QuantizeLinear(x, s, z) }"
    assert "zero point is computed at run time" in grid_of(models.graph(text).graph[0])


def test_codes_of_a_constant_are_constant():
    model = models.graph(
        """
        g (float[4] x) => (float[4] y) <float[4] w, float s = {0.1}, uint8 z = {128}>
        { q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = Add(x, d) }
        """
    )
    codes = model.graph[0].outputs[0]
    assert codes in constants_of(model.graph)
    assert model.graph[2].outputs[0] not in constants_of(model.graph)
    weight = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(constant_codes(codes), np.clip(np.rint(weight / np.float32(0.1)) + 128, 0, 255))


def test_int4_codes_have_a_type_of_their_own():
    grid = Grid(scale=np.float32(0.5).reshape(()), zero_point=np.asarray(0, np.int32), dtype=ir.DataType.INT4)
    assert grid.codes(np.float32([9.0, -9.0])).dtype == ml_dtypes.int4
    assert grid.codes(np.float32([9.0, -9.0])).astype(int).tolist() == [7, -8]
