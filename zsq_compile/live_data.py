"""Whether a distillation gets samples that are made while it runs, and from what."""

from collections.abc import Sequence

from zsq_compile.calibration_data import CalibrationData, fixed_batch
from zsq_compile.conditional_config import AdadfqConfig
from zsq_compile.config import CompileConfig
from zsq_compile.distill_config import Adversary
from zsq_compile.signature import InputSpec
from zsq_compile.synthesis.adversarial import two_sided
from zsq_compile.synthesis.live import LiveBatches


def live_batches(data: CalibrationData, inputs: Sequence[InputSpec], config: CompileConfig) -> LiveBatches | None:
    """Set a generator that can go on learning to work for a distillation.

    Args:
        data: with the set that was synthesized, if any.
        inputs: of the network.
        config: ``distill`` is there.

    Returns:
        None where the samples that are there are to do, as ``distill.live`` says, or by default where the generator
        cannot go on, or its pictures are filtered.

    """
    settings = config.distill
    assert settings is not None
    source = None if data.synthetic is None else data.synthetic.source
    if source is None or settings.live is False or config.low_pass is not None:
        return None
    bounded = config.generator if isinstance(config.generator, AdadfqConfig) else None
    made_for: Adversary = "none" if bounded is None else "adadfq"
    return LiveBatches(
        source,
        adversary=settings.adversary or made_for,
        temperature=settings.temperature,
        weight=settings.adversary_weight,
        ratio=settings.live_ratio,
        fixed=fixed_batch(inputs),
        numbers=None if bounded is None else two_sided(bounded),
    )
