"""Names of what InsertQdq adds to a graph.

activation v   v -> v_QuantizeLinear -> [v_rounded -> v_Clip ->] v_quantized -> v_DequantizeLinear -> v_dequantized
constant w     w_quantized -> w_DequantizeLinear -> w_dequantized
               or w_quantized -> w_stored_Cast -> w_rounded -> w_stored_Mul -> w_dequantized
parameters     w_scale, w_zero_point; of activations under the name of their group
limits         v_lowest_code, v_highest_code, of a group; v_fill
output y       y_float -> ... -> y, where y is quantized itself

No input or output of a graph may have one of these names, or one that begins with it: see ``FreeNames``.
"""

from typing import Literal

import onnx_ir as ir

from passes.plan import ActivationSite

_DEQUANTIZED = "_dequantized"
_VALUE_ENDINGS = (
    "_quantized",
    "_rounded",
    _DEQUANTIZED,
    "_scale",
    "_zero_point",
    "_lowest",
    "_highest",
    "_fill",
    "_float",
)
_NODE_ENDINGS = (
    "_QuantizeLinear",
    "_DequantizeLinear",
    "_Clip",
    "_scale_Mul",
    "_stored_Cast",
    "_stored_Mul",
    "_stored_Transpose",
)


def codes_name(value: str | None) -> str:
    """Name of the codes of an activation, or of the initializer with the codes of a weight or bias."""
    return f"{value}_quantized"


def rounded_name(value: str) -> str:
    """Name of the codes of an activation in front of the Clip to fewer bits."""
    return f"{value}_rounded"


def dequantized_name(value: str | None) -> str:
    """Name of the value that DequantizeLinear makes."""
    return f"{value}{_DEQUANTIZED}"


def float_name(dequantized: str | None) -> str:
    """Name of the float value behind the name of a dequantized one; other names are returned as they are."""
    return (dequantized or "").removesuffix(_DEQUANTIZED)


def scale_name(owner: str | None) -> str:
    """Name of the scale of a weight, a bias or a group of activations."""
    return f"{owner}_scale"


def zero_point_name(owner: str) -> str:
    """Name of the zero point of a weight or a group of activations."""
    return f"{owner}_zero_point"


def end_code_name(group: str, end: Literal["lowest", "highest"]) -> str:
    """Name of the lowest or highest code of a group of activations of fewer bits."""
    return f"{group}_{end}_code"


def fill_name(value: str) -> str:
    """Name of the code that a Pad fills in."""
    return f"{value}_fill"


def undone_name(output: str | None) -> str:
    """Name of the float value behind a graph output that is quantized itself."""
    return f"{output}_float"


def quantized_values(model: ir.Model) -> set[str]:
    """Names of the values of a QDQ graph that a DequantizeLinear makes floats of; graph outputs among them."""
    made = {str(value.name) for node in model.graph for value in node.outputs}
    return {float_name(name) for name in made if name.endswith(_DEQUANTIZED)} | {
        str(value.name) for value in model.graph.outputs if undone_name(value.name) in made
    }


def owners_of(name: str) -> set[str]:
    """Names of the values whose quantizers would take this name for a value, or begin one with it."""
    return {name[:at] for ending in _VALUE_ENDINGS for at in range(1, len(name)) if name.startswith(ending, at)}


def node_owner(name: str) -> str | None:
    """Name of the value whose quantizers would give a node this name."""
    ending = next((ending for ending in _NODE_ENDINGS if name.endswith(ending)), None)
    return None if ending is None else name.removesuffix(ending)


def node_name(value: str, op_type: str) -> str:
    """Name of the node of that operator which is added for a value."""
    return f"{value}_{op_type}"


class QdqNames:
    """Names in a QDQ graph of values of the float graph that it was made from."""

    def __init__(self, quantized: ir.Model) -> None:
        self._nodes = {node.name: node for node in quantized.graph}

    def result(self, node: str) -> str:
        """First output of a node of the float graph."""
        return str(self._nodes[node].outputs[0].name)

    def before_grid(self, site: ActivationSite) -> str:
        """Value to feed so that a site is quantized: in front of a Clip that its quantizer replaces."""
        quantize = self._nodes.get(node_name(site.value, "QuantizeLinear"))
        if quantize is None:
            return site.value
        assert quantize.inputs[0] is not None
        return str(quantize.inputs[0].name)

    def behind_grid(self, site: ActivationSite) -> str:
        """Value to feed so that a site stays as it is fed."""
        dequantize = self._nodes.get(node_name(site.value, "DequantizeLinear"))
        return site.value if dequantize is None else str(dequantize.outputs[0].name)
