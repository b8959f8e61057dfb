"""Forms that a quantized network can be written in, and that are worth a try where it is slower than the float one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from backends.target import Blockwise, Target
from passes.analysis.count_work import layer_work
from passes.emit.keep_float import KeepFloat
from passes.emit.sign_codes import SignCodes
from passes.operators import QUANTIZERS
from passes.plan import QuantizationPlan
from zsq_compile.verification.speed import Costs

_WORSE_DB = 0.5  # that outputs may be noisier than those of the present file, on the same samples
_CHANCE_DB = 3.0  # the same where sources of noise are left out: what is lost then is chance, as samples are few
_SHARES = (0.9, 0.6)  # of all multiplications
_EVERY_BLOCK = Blockwise(block_size=256, least_weights=0, most_rows=1 << 30)

Prepare = Callable[[ir.Model], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """Another form: what is done to the quantizers, the rules that it is written by, and what it may lose in dB."""

    words: str
    prepare: Prepare
    target: Target
    worse_db: float = _CHANCE_DB


def list_forms(quantized: ir.Model, plan: QuantizationPlan, target: Target, costs: Costs | None) -> Iterator[Form]:
    """All forms that are worth a try, the nearest to the present one first."""
    layers = frozenset(site.node for site in plan.weights)
    work = {name: count for name, count in layer_work(quantized).items() if name in layers}
    slow = {spot.node for spot in costs.spots} if costs is not None else set()
    beside = _beside(quantized, slow)

    def keeping(names: frozenset[str], *, others: bool) -> Prepare:
        return lambda model: KeepFloat(target, names, others)(model)

    if slow & layers or beside & layers:
        yield Form(
            words="integers without the layers that they slow down",
            prepare=keeping(layers - slow - beside, others=True),
            target=target,
        )
    yield Form(words="integers in layers with weights only", prepare=keeping(layers, others=False), target=target)
    for share in _SHARES:
        largest = _largest(work, share)
        if largest < layers:
            yield Form(
                words=f"integers in the layers of {share:.0%} of the work",
                prepare=keeping(largest, others=False),
                target=target,
            )
    if not (target.activation.signed or target.unsigned_weights):  # int8 values want int8 weights
        signed = replace(target, activation=replace(target.activation, signed=True))
        yield Form(
            words="signed activations",
            prepare=lambda model: SignCodes()(model),
            target=signed,
            worse_db=_WORSE_DB,
        )
    if any(site.number_format.bits == 4 for site in plan.weights):
        for blockwise, words in (
            (_EVERY_BLOCK, "every 4-bit product in blocks"),
            (Blockwise(), "no product in blocks"),
        ):
            if blockwise != target.blockwise:
                other = replace(target, blockwise=blockwise)
                yield Form(words=words, prepare=lambda model: None, target=other, worse_db=_WORSE_DB)
    yield Form(
        words="weights in integers, widened when the file is loaded",
        prepare=keeping(frozenset(), others=False),
        target=target,
    )


def _largest(work: Mapping[str, int], share: float) -> frozenset[str]:
    """Fewest layers that hold a share of all multiplications."""
    chosen, left = set(), share * sum(work.values())
    for name, count in sorted(work.items(), key=lambda item: -item[1]):
        if left <= 0:
            break
        chosen.add(name)
        left -= count
    return frozenset(chosen)


def _beside(model: ir.Model, names: set[str]) -> set[str]:
    """Names of the nodes that make what nodes of these names read, or read what they make, past quantizers."""
    found: set[str] = set()
    for node in model.graph:
        if node.name not in names:
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        readers = [use.node for value in node.outputs for use in value.uses()]
        found |= {str(one.name) for start in makers for one in _past(start, forward=False)}
        found |= {str(one.name) for start in readers for one in _past(start, forward=True)}
    return found


def _past(node: ir.Node | None, *, forward: bool) -> Sequence[ir.Node]:
    """First nodes that are no quantizers, nor activations behind them, in one direction."""
    if node is None:
        return ()
    if node.op_type not in (*QUANTIZERS, "Clip", "Relu"):
        return (node,)
    if forward:
        return [one for use in node.outputs[0].uses() for one in _past(use.node, forward=True)]
    return _past(None if node.inputs[0] is None else node.inputs[0].producer(), forward=False)
