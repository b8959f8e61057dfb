"""Time of every node of a model, by ONNX Runtime's profiler."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import Session, open_session
from zsq_compile.verification.fusion import WEIGHTED_FLOAT, WEIGHTED_QUANTIZED, makers_of, source_name

_KERNEL = "_kernel_time"
_WARM_UP = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeTime:
    """One node of the optimised graph.

    Attributes:
        name: a convolution's or matrix product's in the model that was given; any other node's in the optimised graph.
        op_type: operator in the optimised graph.
        ms: median over the runs, in milliseconds.
        inputs: values in the optimised graph.
        outputs: values in the optimised graph.

    """

    name: str
    op_type: str
    ms: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def profile_model(
    model: onnx.ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    *,
    threads: int | None = None,
    seconds: float = 0.5,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
) -> tuple[NodeTime, ...]:
    """Run a model a few times under the profiler.

    The profiler adds microseconds to every node: its times compare nodes, and do not add up to the time of a run.

    The model is run with all optimisations, 5 to 50 times within ``seconds``. Nodes are ordered by their first run.

    Raises:
        RuntimeModelError: the model cannot be loaded or run.

    """
    named = _with_names(model)
    with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
        optimized_path = Path(folder) / "optimized.onnx"
        session = open_session(
            named,
            threads=threads,
            providers=providers,
            config=config,
            optimized_path=optimized_path,
            profile_prefix=Path(folder) / "profile",
        )
        _run_repeatedly(session, feeds, seconds)
        events = json.loads(session.end_profile().read_text(encoding="utf-8"))
        optimized = onnx.load(optimized_path, load_external_data=False)
    nodes, makers = {node.name: node for node in optimized.graph.node if node.name}, makers_of(named)
    found = []
    for (name, op_type), microseconds in _durations(events).items():
        node = nodes.get(name)
        weighted = op_type in WEIGHTED_QUANTIZED | WEIGHTED_FLOAT
        found.append(
            NodeTime(
                name=source_name(node, makers) if node is not None and weighted else name,
                op_type=op_type,
                ms=float(np.median(microseconds[_WARM_UP:])) / 1000.0,
                inputs=() if node is None else tuple(node.input),
                outputs=() if node is None else tuple(node.output),
            )
        )
    return tuple(found)


def _with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every node a name of its own: the profiler's names for others cannot be traced to a node."""
    taken = {node.name for node in model.graph.node}
    if "" not in taken and len(taken) == len(model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    used: set[str] = set()
    for place, node in enumerate(copy.graph.node):
        if not node.name or node.name in used:
            name = next((output for output in node.output if output), node.op_type)
            node.name = name if name not in taken else f"{name}_{place}"
        used.add(node.name)
        taken.add(node.name)
    return copy


def _run_repeatedly(session: Session, feeds: Mapping[str, NDArray[Any]], seconds: float) -> None:
    for _ in range(_WARM_UP):
        start = time.perf_counter()
        session.run(feeds)
        once = time.perf_counter() - start
    for _ in range(min(50, max(5, int(seconds / max(once, 1e-6))))):
        session.run(feeds)


def _durations(events: list[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Microseconds of every run by (name, operator)."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[event["name"].removesuffix(_KERNEL), event["args"]["op_name"]].append(float(event["dur"]))
    return dict(found)
