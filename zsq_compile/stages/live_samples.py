"""Whether a distillation gets samples that are made while it runs, and from what."""

from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.distillation import Adversary
from zsq_compile.progress import Progress
from zsq_compile.stages.calibration_data import CalibrationData
from zsq_compile.synthesis.adversarial.live_batches import LiveBatches


def live_batches(data: CalibrationData, config: CompileConfig, progress: Progress) -> LiveBatches | None:
    """Set a generator that can go on learning to work for a distillation.

    Args:
        data: with the set that was synthesized, if any.
        config: ``distill`` is there.
        progress: is told where a generator that could go on does not.

    Returns:
        None where the samples that are there are to do, as ``distill.live`` says, or by default where the generator
        cannot go on, or its pictures are filtered.

    """
    settings = config.distill
    assert settings is not None
    source = None if data.synthetic is None else data.synthetic.source
    if source is None or settings.live is False:
        return None
    if config.low_pass is not None:
        progress.note(
            "low_pass filters finished images only: the distillation learns on those, and no samples are made meanwhile"
        )
        return None
    bounded = config.generator if isinstance(config.generator, AdadfqConfig) else None
    made_for: Adversary = "none" if bounded is None else "adadfq"
    return LiveBatches(
        source,
        adversary=settings.adversary or made_for,
        temperature=settings.temperature,
        weight=settings.adversary_weight,
        ratio=settings.live_ratio,
        numbers=bounded,
    )
