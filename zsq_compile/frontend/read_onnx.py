"""Read an ONNX file, and refuse what cannot be compiled, with the reason."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner

from passes.operators import INTEGER, QUANTIZERS, RANDOM, STANDARD_DOMAINS, WEIGHTED
from zsq_compile.errors import LoadError, UnsupportedModelError
from zsq_compile.files import external_file

OLDEST_OPSET = 7
_BITS: dict[int, int] = {
    **dict.fromkeys((onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((onnx.TensorProto.INT2, onnx.TensorProto.UINT2), 2),
}


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, its local functions inlined.

    Raises:
        LoadError: there is no such file, it is not ONNX, it is cut off, or its external data is missing.

    """
    if not path.is_file():
        raise LoadError(f"there is no file {path}" if not path.exists() else f"{path} is not a file")
    start = _first_bytes(path)
    if not start:
        raise LoadError(f"{path} is empty: wanted an ONNX model")
    if start.startswith(b"version https://git-lfs"):
        raise LoadError(f"{path} is a Git LFS pointer, not the model itself: fetch it with `git lfs pull`")
    try:
        proto = onnx.load_model(path, format="protobuf", load_external_data=False)
    except Exception as error:  # the protobuf back ends raise different types
        raise LoadError(f"{path} is no ONNX model, or is cut off: {error}") from error
    if not proto.graph.node:
        raise LoadError(f"{path} is no ONNX model, or an empty one: it has no nodes")
    if not proto.graph.output:
        raise LoadError(f"{path} has no outputs: export it again, with what it is to compute")
    _read_external_data(proto, path)
    if fault := next((fault for tensor in _tensors(proto) if (fault := _tensor_fault(tensor))), None):
        raise LoadError(f"{path} is damaged: {fault}")
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    for holder in (*proto.opset_import, *walk_nodes(proto.graph)):
        if holder.domain == "ai.onnx":  # the long name of the same domain
            holder.domain = ""
    return proto


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_external_data(proto: onnx.ModelProto, path: Path) -> None:
    try:
        for tensor in _tensors(proto):
            if onnx.external_data_helper.uses_external_data(tensor):
                _read_external_tensor(tensor, path)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        files = sorted({entry.value for tensor in _external(proto) for entry in tensor if entry.key == "location"})
        raise LoadError(
            f"{path} keeps its weights in {', '.join(files) or 'other files'}, "
            f"which must be complete and in its folder: {error}"
        ) from error


def _read_external_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    place = next(entry for entry in tensor.external_data if entry.key == "location")
    folder, found = path.parent, external_file(path, place.value)
    if found != folder / place.value:
        folder, place.value = found.parent, found.name
    onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a model, at any depth, and of its functions."""
    for graph in walk_graphs(proto.graph):
        yield from graph.initializer
    inside = (node for function in proto.functions for node in function.node)
    for node in (*walk_nodes(proto.graph), *inside):
        for attribute in node.attribute:
            yield from (attribute.t,) if attribute.HasField("t") else attribute.tensors


def _tensor_fault(tensor: onnx.TensorProto) -> str | None:
    """Say why a tensor in memory cannot be what it declares; None where its bytes are as many as they should be."""
    if tensor.data_type == onnx.TensorProto.STRING or not tensor.raw_data:
        return None
    kind = tensor.data_type
    try:
        bits = _BITS[kind] if kind in _BITS else 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, ValueError):
        return f"the tensor '{tensor.name}' has the unknown element type {kind}"
    wanted, held = (math.prod(tensor.dims) * bits + 7) // 8, len(tensor.raw_data)
    return None if held == wanted else f"the tensor '{tensor.name}' holds {held} bytes instead of {wanted}"


def _external(proto: onnx.ModelProto) -> list[list[onnx.StringStringEntryProto]]:
    return [list(tensor.external_data) for tensor in proto.graph.initializer if tensor.external_data]


def opset_of(proto: onnx.ModelProto, path: Path) -> int:
    """Opset of ONNX's own operators.

    Raises:
        LoadError: there is none, or one that is older than 7 or newer than this program's ONNX.

    """
    versions = [int(entry.version) for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS]
    newest = int(onnx.defs.onnx_opset_version())
    if not versions:
        raise LoadError(
            f"{path} has no opset_import, so the version of its operators is unknown: export it again, or add the "
            "opset that it was exported with"
        )
    if versions[0] < OLDEST_OPSET:
        raise LoadError(f"{path} uses opset {versions[0]}; wanted {OLDEST_OPSET} or later: export it again")
    if versions[0] > newest:
        raise LoadError(
            f"{path} uses opset {versions[0]}, and the installed onnx {onnx.__version__} knows opsets up to {newest}: "
            "upgrade onnx, or export with an older opset"
        )
    return versions[0]


def require_supported(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse what the compiler cannot work on, in a model without quantizers (see ``dequantize``).

    Raises:
        UnsupportedModelError: operators of other domains, float64 weights or inputs, or inputs or outputs that are no tensors.

    """
    foreign = Counter(f"{node.domain}.{node.op_type}" for node in walk_nodes(proto.graph) if node.domain)
    if foreign:
        raise UnsupportedModelError(
            f"{path} uses operators that are not ONNX's own: {_list(foreign)}. Give the file as it was exported, "
            "before a runtime optimised it for itself"
        )
    _require_float32(proto, path)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in initializers and not value.type.HasField("tensor_type"):
            raise UnsupportedModelError(f"input '{value.name}' of {path} is not a tensor, and only tensors can be fed")
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            raise UnsupportedModelError(
                f"input '{value.name}' of {path} takes strings: extract the part of the model that takes numbers"
            )
    for value in proto.graph.output:
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise UnsupportedModelError(
                f"output '{value.name}' of {path} is a {str(kind).removesuffix('_type')}, and only tensors can be "
                "compared: export the model with outputs that are tensors, or cut it in front of this one"
            )


def separate_names(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Give nodes that have the name of an earlier node another one, in place, as runtimes refuse them; tell so.

    The first of them keeps its name; empty names stay.
    """
    own = {node.name for node in walk_nodes(proto.graph)}
    taken: set[str] = set()
    renamed = 0
    for node in walk_nodes(proto.graph):
        if node.name in taken:
            free = (f"{node.name}_{count}" for count in itertools.count(1))
            node.name = next(name for name in free if name not in own and name not in taken)
            renamed += 1
        if node.name:
            taken.add(node.name)
    return (f"{renamed} nodes had the name of another one, and got names of their own",) if renamed else ()


def refuse_random(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph whose outputs depend on random numbers.

    Raises:
        UnsupportedModelError: with the first node that draws some.

    """
    for node in _live_nodes(proto.graph):
        if node.op_type in RANDOM and node.domain in STANDARD_DOMAINS:
            raise UnsupportedModelError(
                f"{path} gives other outputs every time: {node.op_type} '{node.name or node.output[0]}' draws new "
                "numbers in every run, so nothing can be compared with it. Export the model with that noise as an "
                "input, or without it"
            )


def _live_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that an output depends on, and those in their bodies, in graph order."""
    needed = {value.name for value in graph.output}
    live: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        inner = [_live_nodes(body) for body in _bodies(node)]
        behind = [one for nodes in inner for one in nodes]
        needed.update(node.input, *(one.input for one in behind), *({o.name for o in b.output} for b in _bodies(node)))
        live += [node, *reversed(behind)]
    return live[::-1]


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether any node quantizes, dequantizes or computes in integers; nodes of other domains may, and count."""
    return any(
        node.op_type in (*QUANTIZERS, *INTEGER) or node.domain not in STANDARD_DOMAINS
        for node in walk_nodes(proto.graph)
    )


def _require_float32(proto: onnx.ModelProto, path: Path) -> None:
    wide = onnx.TensorProto.DOUBLE
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                types[node.output[0]] = attribute.t.data_type
    weights = sum(
        types.get(name) == wide for node in proto.graph.node if node.op_type in WEIGHTED for name in node.input[1:2]
    )
    inputs = [value.name for value in proto.graph.input if value.type.tensor_type.elem_type == wide]
    if weights or inputs:
        where = f"weights of {weights} layers" if weights else f"input '{inputs[0]}'"
        raise UnsupportedModelError(
            f"{path} computes in float64 ({where}); wanted float32: export the model in float32, before any conversion"
        )


def has_branches(proto: onnx.ModelProto) -> Counter[str]:
    """Count the nodes that hold graphs of their own: If, Loop, Scan."""
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return Counter(
        node.op_type for node in proto.graph.node if any(attribute.type in graphs for attribute in node.attribute)
    )


def refuse_branches(branches: Counter[str], path: Path) -> UnsupportedModelError:
    """Say why a graph of nothing but control flow cannot be compiled."""
    return UnsupportedModelError(
        f"{path} keeps all of its layers inside control flow ({_list(branches)}), which stays in float: export it "
        "without, with fixed settings (one sampling rate, no optional inputs), or export the branch that you need"
    )


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs inside its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from walk_graphs(body)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs that a node holds."""
    single = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*single, *(graph for attribute in node.attribute for graph in attribute.graphs)]


def walk_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them, at any depth."""
    return (node for one in walk_graphs(graph) for node in one.node)


def _list(counts: Counter[str]) -> str:
    shown = ", ".join(f"{count} x {name}" for name, count in counts.most_common(4))
    return shown if len(counts) <= 4 else f"{shown} and {len(counts) - 4} more"
