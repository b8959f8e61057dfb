"""Whether a distillation gets samples that are made while it runs, and from what."""

from zsq_compile.config.compile import GeneratorConfig
from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.distillation import Adversary, DistillConfig
from zsq_compile.progress import Progress
from zsq_compile.synthesis.adversarial.live_batches import LiveBatches
from zsq_compile.synthesis.generator import SyntheticSet


def make_live(
    synthetic: SyntheticSet | None,
    config: DistillConfig | None,
    generator: GeneratorConfig | None,
    low_pass: float | None,
    progress: Progress,
) -> LiveBatches | None:
    """Let a generator network that can continue to learn serve a distillation.

    None where nothing is distilled, or where the finished samples are used: as ``config.live`` says, or by default
    where the generator cannot continue, or its images are filtered, which is done to finished ones only.
    """
    trainer = None if synthetic is None else synthetic.trainer
    if config is None or trainer is None or config.live is False:
        return None
    if low_pass is not None:
        progress.note(
            "low_pass filters finished images only: the distillation learns on those, and no samples are made meanwhile"
        )
        return None
    bounded = generator if isinstance(generator, AdadfqConfig) else None
    made_for: Adversary = "none" if bounded is None else "adadfq"
    return LiveBatches(
        trainer,
        adversary=config.adversary or made_for,
        temperature=config.temperature,
        weight=config.adversary_weight,
        ratio=config.live_ratio,
        bounds=bounded,
    )
