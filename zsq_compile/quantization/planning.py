"""The plan before any data is seen: what the options say, what a plan file says, and whether that can fit at all."""

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

from backends.target import Target
from passes.emit.emit import emitted_bytes
from passes.plan import QuantizationPlan
from passes.quantize.exclude import Exclusion
from passes.quantize.override_widths import WidthsError, override_widths
from passes.quantize.place_quantizers import place_quantizers
from zsq_compile.config.checks import parse_size
from zsq_compile.config.compile import WIDTHS, QuantizationConfig
from zsq_compile.errors import ConfigError, QuantizationError, UnsupportedModelError
from zsq_compile.files import file_bytes
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.quantization.plan_file import PlanFile
from zsq_compile.quantization.user_word import hear_user, within


def plan_quantization(
    model: ir.Model, target: Target, config: QuantizationConfig, given: PlanFile | None = None
) -> QuantizationPlan:
    """Plan the quantization of a folded float model.

    Args:
        model: not changed.
        target: what the runtime executes in integers.
        config: bits for all; the most that a layer may get where they are chosen for each.
        given: bits of single layers and values, which win over bits for all.

    Raises:
        UnsupportedModelError: nothing in the model can be quantized.
        ConfigError: a pattern, or the plan given, does not fit the model or the target.

    """
    if config.act_bits < target.least_activation_bits:
        raise ConfigError(
            f"act_bits must be at least {target.least_activation_bits} on {target.name}, whose integer kernels take no "
            f"narrower values, got {config.act_bits}: give --act-bits {target.least_activation_bits}, or another target"
        )
    placed = _place(model, target, config, config.bits, config.edge_bits)
    try:
        word = hear_user(model, placed, config, given)
        plan = _place(model, target, config, config.bits, config.edge_bits, word.excluded) if word.floats else placed
        plan = override_widths(plan, target, within(plan, word.widths))
    except WidthsError as error:
        raise ConfigError(f"{'layer_bits' if given is None else 'the plan'} does not fit: {error}") from error
    if not plan.weights and not plan.stored:
        if placed.weights or placed.stored:
            raise ConfigError("exclude and layer_bits leave nothing to quantize: leave something to integers")
        reasons = "; ".join(f"{refusal.where} ({refusal.op_type}): {refusal.reason}" for refusal in plan.refusals[:3])
        raise UnsupportedModelError(
            f"nothing in this model can be quantized for {target.name}: it needs a Conv, Gemm or MatMul with constant "
            f"weights{', but ' + reasons if reasons else ' and has none'}"
        )
    return plan


def plan_narrowest(model: ir.Model, target: Target, config: QuantizationConfig) -> QuantizationPlan:
    """Plan with the fewest bits that each layer may get.

    ``edge_bits`` is the floor of edge layers, if it is given, and ``layer_bits`` that of the layers that it names.
    """
    bits = min(WIDTHS)
    edge_bits = config.edge_bits or bits
    word = hear_user(model, _place(model, target, config, bits, edge_bits), config)
    plan = _place(model, target, config, bits, edge_bits, word.excluded)
    return override_widths(plan, target, within(plan, word.widths))


def _place(
    model: ir.Model,
    target: Target,
    config: QuantizationConfig,
    bits: int,
    edge_bits: int | None,
    excluded: Exclusion | None = None,
) -> QuantizationPlan:
    return place_quantizers(
        model,
        target,
        bits=bits,
        act_bits=config.act_bits,
        edge_bits=edge_bits,
        quantize_outputs=config.quantize_outputs,
        excluded=excluded or Exclusion(),
    )


def float_bytes(loaded: LoadedModel) -> int:
    """Size of the float model: of the file, or of the float form of one that is quantized."""
    return file_bytes(loaded.path) if loaded.restored_bytes is None else loaded.restored_bytes


def resolve_limit(
    model: ir.Model, target: Target, config: QuantizationConfig, max_size: str | None, float_bytes: int
) -> int | None:
    """Bytes that ``max_size`` allows for a file whose float model has ``float_bytes``; None where it says nothing.

    Raises ConfigError when that is less than any choice of widths can reach.
    """
    if max_size is None:
        return None
    size = parse_size(max_size)
    limit = size if isinstance(size, int) else int(size * float_bytes)
    narrowest = plan_narrowest(model, target, config)
    smallest = emitted_bytes(model, narrowest, target)
    if smallest > limit:
        bits = describe_bits(site.number_format.bits for site in narrowest.weights)
        edges = "" if config.edge_bits is None else ", or leave edge_bits out"
        raise ConfigError(
            f"max_size {max_size} allows {limit} bytes, but the smallest file that can be made has {smallest} "
            f"({smallest / float_bytes:.3f} of the float file), with {bits}: allow that many{edges}"
        )
    return limit


def require_within(model: ir.Model, limit: int | None) -> None:
    """Raise QuantizationError where a model that is ready to be written takes more bytes than its limit."""
    size = 0 if limit is None else int(ir.to_proto(model).ByteSize())
    if limit is not None and size > limit:
        raise QuantizationError(
            f"the file would have {size} bytes, and max_size allows {limit}: a later step has made it larger than the "
            f"widths were chosen for; allow {size - limit} bytes more, or ask for that many less"
        )


def describe_bits(bits: Iterable[int]) -> str:
    """Say how many layers have how many bits."""
    counts = sorted(Counter(bits).items(), reverse=True)
    return ", ".join(f"{count} layer{'' if count == 1 else 's'} of {width} bits" for width, count in counts)
