"""The int32 codes of a bias that several layers share, computed where a layer reads them.

    b (float)  ->  Div(scale(data) * scale(weight)) -> Round -> Cast(to=INT32)  ->  DequantizeLinear -> layer

The bias is stored once; its codes are not the same in every layer, because the scales of their data differ. A runtime
folds the three nodes when it opens the model, and then fuses the integer kernel as for codes that are stored.
"""

import onnx_ir as ir

from passes.surgery import is_standard, set_type


def bias_codes(bias: ir.Value, scale: ir.Value, name: str) -> list[ir.Node]:
    """Make the nodes from a float bias to its codes of this scale, ``name`` being that of the codes.

    Division and rounding are those of float32: a code beyond 2^24 has the precision that the bias itself has.
    """
    nodes: list[ir.Node] = []
    for op_type, others in (("Div", [scale]), ("Round", []), ("Cast", [])):
        attributes = {"to": ir.DataType.INT32.value} if op_type == "Cast" else {}
        source = nodes[-1].outputs[0] if nodes else bias
        nodes.append(ir.node(op_type, [source, *others], attributes, name=f"{name}_{op_type}"))
        made = nodes[-1].outputs[0]
        made.name = name if op_type == "Cast" else f"{name}_{op_type}"
        set_type(made, ir.DataType.INT32 if op_type == "Cast" else ir.DataType.FLOAT, bias.shape)
    return nodes


def bias_behind(codes: ir.Value) -> ir.Value | None:
    """Return the float bias that codes are computed from; None where they are stored."""
    value: ir.Value | None = codes
    for op_type in ("Cast", "Round", "Div"):
        maker = None if value is None else value.producer()
        if maker is None or not is_standard(maker, op_type):
            return None
        value = maker.inputs[0]
    return value
