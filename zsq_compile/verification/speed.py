"""Speed of a quantized file against the float one, and the nodes that cost time where it is slower."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from zsq_compile.verification.fusion import WEIGHTED_FLOAT, WEIGHTED_INTEGER, WEIGHTED_QUANTIZED
from zsq_compile.verification.latency import Latency, Turns, time_flushed, time_in_turns
from zsq_compile.verification.profile import NodeTime, profile_model

Verdict = Literal["faster", "same", "slower"]

_OUT_OF_FLOAT = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "ReorderOutput"})
_INTO_FLOAT = frozenset({"DequantizeLinear", "ReorderInput"})
CONVERSIONS = _OUT_OF_FLOAT | _INTO_FLOAT
# Two identical files differ in 36 to 50 of 100 rounds in one direction on a busy machine.
_CLEAR_SHARE = 0.75
_FEW_ROUNDS = 10
_NAMED = 3
_IMPLAUSIBLE = 5.0  # times as fast; integers of a quarter of the width, with a kernel of their own, are up to four
_DENORMAL = 0.7  # of the time, with denormal numbers flushed, from which on they are told of


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowSpot:
    """A node of the quantized file that costs more time than it would in the float one.

    Attributes:
        node: its name.
        op_type: operator that runs.
        reason: "converted": it runs in float, and the conversions around it are its cost; "slower in integers": its
            integer kernel takes longer than the float one, and the difference is its cost.
        cost_ms: by the profile of nodes, in milliseconds.
        share: of the time of all nodes, 0 to 1.

    """

    node: str
    op_type: str
    reason: Literal["converted", "slower in integers"]
    cost_ms: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Where a quantized file spends its time, by the runtime's profile.

    Attributes:
        float_nodes: nodes that the float file runs, after the runtime's optimisations.
        quantized_nodes: nodes that the quantized file runs.
        conversions: those of them that only convert: QuantizeLinear, DequantizeLinear, Reorder.
        conversion_share: of the time of the quantized file's nodes, 0 to 1.
        spots: nodes that cost time, the most expensive first.

    """

    float_nodes: int
    quantized_nodes: int
    conversions: int
    conversion_share: float
    spots: tuple[SlowSpot, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedAudit:
    """Float against quantized file on the clock, in turns.

    Attributes:
        verdict: "slower" or "faster" where it is so in three rounds of four (in all, of fewer than ten), else "same".
        latency: "float" and "quantized".
        rounds: pairs of turns.
        slower_rounds: share of them in which the quantized file took longer, 0 to 1.
        costs: measured only where the file is slower.
        denormal_ms: median time of the float file as the runtime runs it, where it computes with denormal numbers; then
            ``latency`` and the verdict are those against the same file with such numbers taken for 0. Else None.

    """

    verdict: Verdict
    latency: Mapping[str, Latency]
    rounds: int
    slower_rounds: float
    costs: Costs | None
    denormal_ms: float | None = None

    def describe_denormals(self) -> str:
        """Say what denormal numbers cost the float file."""
        flushed = self.latency["float"].median_ms
        return (
            f"the float file computes with denormal numbers (below 1.2e-38), which processors are slow at: "
            f"{self.denormal_ms:.3g} ms, and {flushed:.3g} ms with them taken for 0, which the times are compared with"
        )

    def describe(self) -> str:
        """Return the outcome in a sentence or two."""
        before, after = self.latency["float"].median_ms, self.latency["quantized"].median_ms
        times = f"{after:.3g} ms against {before:.3g} ms"
        if self.verdict == "same":
            return f"the quantized file is no faster and no slower than the float one here, beyond noise: {times}"
        if self.verdict == "faster":
            return f"the quantized file is {before / after:.2f} times as fast as the float one here: {times}"
        text = (
            f"the quantized file is not faster here: {times}, {after / before:.2f} times as long "
            f"(longer in {self.slower_rounds:.0%} of {self.rounds} rounds)"
        )
        return text if self.costs is None else f"{text}. {_describe_costs(self.costs)}"


def audit_speed(
    original: onnx.ModelProto,
    emitted: Path,
    feeds: Mapping[str, NDArray[Any]],
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
) -> SpeedAudit:
    """Time both files in turns, and profile them where the quantized one is slower beyond noise.

    ``seconds`` is roughly the time to spend; the profiles take up to a third of it more.

    Raises:
        RuntimeModelError: a model cannot be loaded or run.

    """
    turns = time_in_turns(
        {"float": original, "quantized": emitted},
        feeds,
        threads=threads,
        seconds=seconds,
        providers=providers,
        config=config,
    )
    denormal_ms = None
    if _may_be_denormal(turns):
        flushed = time_flushed({"float": original, "quantized": emitted}, feeds, threads, seconds, providers, config)
        if flushed["float"].latency.median_ms < _DENORMAL * turns["float"].latency.median_ms:
            denormal_ms, turns = turns["float"].latency.median_ms, flushed
    verdict, share = judge(turns["float"], turns["quantized"])
    costs = None
    if verdict == "slower":
        profiles = [
            profile_model(model, feeds, threads=threads, seconds=seconds / 6, providers=providers, config=config)
            for model in (original, onnx.load(emitted))
        ]
        costs = find_costs(profiles[0], profiles[1])
    return SpeedAudit(
        verdict=verdict,
        latency={name: one.latency for name, one in turns.items()},
        rounds=len(turns["float"].medians),
        slower_rounds=share,
        costs=costs,
        denormal_ms=denormal_ms,
    )


def _may_be_denormal(turns: Mapping[str, Turns]) -> bool:
    """Whether a float file takes so much longer than its quantized one that bits alone cannot be the reason."""
    return turns["float"].latency.median_ms > _IMPLAUSIBLE * turns["quantized"].latency.median_ms


def judge(reference: Turns, candidate: Turns) -> tuple[Verdict, float]:
    """Compare two models round by round, which cancels changes of the machine's load.

    Returns:
        The verdict on the candidate, and the share of the rounds in which it took longer.

    """
    difference = candidate.medians - reference.medians
    longer, shorter = float(np.mean(difference > 0.0)), float(np.mean(difference < 0.0))
    clear = _CLEAR_SHARE if len(difference) >= _FEW_ROUNDS else 1.0
    if longer >= clear:
        return "slower", longer
    return ("faster" if shorter >= clear else "same"), longer


def find_costs(reference: Sequence[NodeTime], quantized: Sequence[NodeTime]) -> Costs:
    """Find the nodes of a quantized model whose quantization costs more time than it saves.

    Layers of both profiles are paired by name.
    """
    total = max(sum(node.ms for node in quantized), 1e-9)
    operators = {node.name: node.op_type for node in quantized}
    spots = [
        _spot(name, operators[name], "converted", cost, total) for name, cost in _conversion_costs(quantized).items()
    ]
    floats = {node.name: node.ms for node in reference if node.op_type in WEIGHTED_FLOAT}
    spots += [
        _spot(node.name, node.op_type, "slower in integers", node.ms - floats[node.name], total)
        for node in quantized
        if node.op_type in WEIGHTED_QUANTIZED and node.ms > floats.get(node.name, node.ms)
    ]
    conversions = [node.ms for node in quantized if node.op_type in CONVERSIONS]
    return Costs(
        float_nodes=len(reference),
        quantized_nodes=len(quantized),
        conversions=len(conversions),
        conversion_share=sum(conversions) / total,
        spots=tuple(sorted(spots, key=lambda spot: -spot.cost_ms)),
    )


def _spot(
    name: str, op_type: str, reason: Literal["converted", "slower in integers"], cost_ms: float, total_ms: float
) -> SlowSpot:
    return SlowSpot(node=name, op_type=op_type, reason=reason, cost_ms=cost_ms, share=cost_ms / total_ms)


def _conversion_costs(nodes: Sequence[NodeTime]) -> dict[str, float]:
    """Milliseconds of conversions, by the name of the float node that makes or reads the converted value."""
    plain = [node for node in nodes if node.op_type not in CONVERSIONS and not _runs_in_integers(node)]
    makers = {value: node.name for node in plain for value in node.outputs}
    readers: dict[str, list[str]] = defaultdict(list)
    for node in plain:
        for value in set(node.inputs):
            readers[value].append(node.name)
    costs: dict[str, float] = defaultdict(float)
    for node in nodes:
        served: list[str] = []
        if node.op_type in _OUT_OF_FLOAT:
            served = [makers[value] for value in node.inputs[:1] if value in makers]
        elif node.op_type in _INTO_FLOAT:
            served = [name for value in node.outputs for name in readers[value]]
        for name in served:
            costs[name] += node.ms / len(served)
    return {name: cost for name, cost in costs.items() if cost > 0.0}


def _runs_in_integers(node: NodeTime) -> bool:
    return node.op_type in WEIGHTED_INTEGER or node.op_type.startswith("QLinear")


def _describe_costs(costs: Costs) -> str:
    text = f"It runs {costs.quantized_nodes} nodes, the float one {costs.float_nodes}"
    if costs.conversions:
        share = f"{costs.conversion_share:.0%} of its time"
        text += f"; {share} goes into {costs.conversions} conversions between integers and floats"
    groups: dict[tuple[str, str], list[SlowSpot]] = defaultdict(list)
    for spot in costs.spots:
        groups[spot.reason, spot.op_type].append(spot)
    most_expensive = sorted(groups.items(), key=lambda item: -sum(spot.share for spot in item[1]))[:_NAMED]
    parts = [_describe_group(reason, op_type, spots) for (reason, op_type), spots in most_expensive]
    return f"{text}. What costs most: {'; '.join(parts)}" if parts else text


def _describe_group(reason: str, op_type: str, spots: Sequence[SlowSpot]) -> str:
    names = ", ".join(spot.node for spot in spots[:_NAMED]) + (" ..." if len(spots) > _NAMED else "")
    share = sum(spot.share for spot in spots)
    if reason == "converted":
        return f"conversions around {len(spots)} {op_type} ({names}), {share:.0%}"
    return f"{len(spots)} {op_type} that took less in float ({names}), {share:.0%} more"
