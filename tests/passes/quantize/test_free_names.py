from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from backends.catalog import load_target
from passes.emit.emit import emit
from passes.quantize.free_names import FreeNames
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from tests.models import largest_difference, parse
from tests.quantizing import execute, inserted, prepare, simulate, sqnr, with_scales

TARGET = load_target("ort_cpu")
EQUAL = 60.0  # dB; a code may flip where a sum lands on the edge between two, and nothing else may differ
ENDINGS = ("quantized", "rounded", "dequantized", "scale", "zero_point", "lowest_code", "highest_code", "fill", "float")
OWNERS = ("x", "r", "w", "b", "y")

NETWORK = """
g (float[N,2,4,4] x, float[N,1,4,4] {given}) => (float[N,2,4,4] r, float[N,2,1,1] y, float[N,2,4,4] {made})
<int64[8] pads = {{0,0,1,1,0,0,1,1}}, float fill = {{0.5}}, float[2,2,3,3] w, float[2] b, float[2,2,1,1] w1>
{{
    [pad] p = Pad(x, pads, fill)
    [first] c = Conv(p, w, b)
    [{node}] r = Relu(c)
    [third] s = Conv(r, w1)
    [join] j = Add(s, {given})
    [second] t = Conv(j, w1)
    [pool] y = GlobalAveragePool(t)
    [other] {made} = Tanh(r)
}}
"""


def compared(text: str, **options: Any) -> tuple[ir.Model, ir.Model]:
    """The freed float graph, and the file that is written from it, which computes what numpy simulates."""
    model = prepare(parse(text))
    free = model.clone()
    FreeNames()(free)
    assert largest_difference(model, free) == 0.0
    assert [value.name for value in free.graph.outputs] == [value.name for value in model.graph.outputs]
    feeds: dict[str, NDArray[Any]] = {
        str(value.name): np.random.default_rng(0).standard_normal([4, *value.shape.numpy()[1:]]).astype(np.float32)
        if value.shape is not None and value.shape.is_static()
        else np.random.default_rng(1).standard_normal((4, 1 if "_" in str(value.name) else 2, 4, 4)).astype(np.float32)
        for value in model.graph.inputs
    }
    plan = with_scales(place_quantizers(free, TARGET, **options), free, feeds)
    written = inserted(free, plan)
    assert {node.op_type for node in written.graph} >= {"QuantizeLinear", "DequantizeLinear"}
    assert len([node for node in written.graph if node.op_type == "QuantizeLinear"]) >= 4
    emit(written, plan, TARGET)
    wanted, got = simulate(free, plan, feeds), execute(written, feeds)
    for name in wanted:
        assert sqnr(wanted[name], got[name]) > EQUAL, name
    return free, written


@pytest.mark.parametrize(
    "options", [{}, {"act_bits": 4, "added_bits": 4, "edge_bits": 4, "quantize_outputs": True}], ids=str
)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("owner", OWNERS)
def test_names_of_inputs_and_outputs_stay(owner: str, ending: str, options: dict[str, Any]) -> None:
    name = f"{owner}_{ending}"
    given, made = (name, "z_z") if owner in ("r", "w") else ("x_z", name)
    written = compared(NETWORK.format(given=given, made=made, node="relu"), **options)[1]
    assert [value.name for value in written.graph.inputs] == ["x", given]
    assert [value.name for value in written.graph.outputs] == ["r", "y", made]


@pytest.mark.parametrize(
    "name", ["x_QuantizeLinear", "r_DequantizeLinear", "j_Clip", "b_scale_Mul", "w_DequantizeLinear"]
)
def test_nodes_do_not_stand_in_the_way(name: str) -> None:
    plain = compared(NETWORK.format(given="x_z", made="z_z", node="relu"), act_bits=4, added_bits=4)[1]
    written = compared(NETWORK.format(given="x_z", made="z_z", node=name), act_bits=4, added_bits=4)[1]
    assert [node.op_type for node in written.graph] == [node.op_type for node in plain.graph]


def test_a_graph_without_collisions_stays_as_it_is() -> None:
    model = prepare(parse(NETWORK.format(given="x_z", made="scale_of_x", node="relu")))
    before = onnx.printer.to_text(ir.to_proto(model))
    assert FreeNames()(model).modified is False
    assert onnx.printer.to_text(ir.to_proto(model)) == before


def test_a_second_run_changes_nothing() -> None:
    model = prepare(parse(NETWORK.format(given="x_scale", made="y_quantized", node="x_Clip")))
    assert FreeNames()(model).modified is True
    assert FreeNames()(model).modified is False


def test_a_weight_whose_name_is_taken_is_quantized_all_the_same() -> None:
    text = """
    g (float[N,2] x) => (float[N,2] y) <float[2,2] x_scale, float[2] x_zero_point, float[2,2] first_quantized>
    { [first] a = Gemm(x, x_scale, x_zero_point) [second] y = Gemm(a, first_quantized) }
    """
    model = prepare(parse(text))
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)}
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    written = inserted(model, plan)
    kinds = [node.inputs[1].producer() for node in written.graph if node.op_type == "Gemm"]  # type: ignore[union-attr]
    assert [kind.op_type for kind in kinds if kind is not None] == ["DequantizeLinear"] * 2
    assert sqnr(simulate(model, plan, feeds)["y"], execute(written, feeds)["y"]) > EQUAL
    assert InsertQdq(plan)(written).modified is False
