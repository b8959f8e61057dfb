"""Whether a distillation gets samples that are made while it runs, and from what."""

from collections.abc import Sequence

from zsq_compile.calibration_data import CalibrationData, fixed_batch
from zsq_compile.conditional_config import AdadfqConfig
from zsq_compile.config import CompileConfig
from zsq_compile.distill_config import Adversary
from zsq_compile.errors import ConfigError
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

    Raises:
        ConfigError: live samples are asked for, and cannot be had.

    """
    settings = config.distill
    assert settings is not None
    if settings.live is False:
        return None
    source = None if data.synthetic is None else data.synthetic.source
    filtered = config.low_pass is not None
    asked = settings.live or settings.adversary not in (None, "none")
    if source is None or filtered:
        if not asked:
            return None
        wanted = "distill.live" if settings.live else f"the adversary {settings.adversary} (--adversarial-margin)"
        reason = (
            "--low-pass filters finished images: leave it out"
            if filtered and source is not None
            else "samples were given by the user: leave --calib out"
            if data.synthetic is None
            else f"{data.synthetic.algorithm} cannot: take --generator zs-cgan or gdfq"
        )
        raise ConfigError(f"{wanted} wants a generator that goes on learning while the network is distilled; {reason}")
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
