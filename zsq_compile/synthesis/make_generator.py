"""The generator of a configuration: several algorithms behind one method."""

from collections.abc import Callable, Sequence
from functools import partial

from zsq_compile.config.compile import Effort, GeneratorConfig
from zsq_compile.config.conditional_generators import AdadfqConfig, GdfqConfig, ZsCganConfig
from zsq_compile.config.generators import DsgConfig, IntraqConfig, NoiseConfig, PixelsConfig, PriorConfig, ZeroqConfig
from zsq_compile.config.genie import GenieConfig
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Progress, Silent
from zsq_compile.synthesis.filters.answering import AnsweringGenerator
from zsq_compile.synthesis.filters.confident import ConfidentGenerator
from zsq_compile.synthesis.filters.examples import Examples, ExamplesGenerator
from zsq_compile.synthesis.filters.low_pass import LowPassGenerator
from zsq_compile.synthesis.filters.widest_first import WidestFirstGenerator
from zsq_compile.synthesis.generator import Algorithm, AlgorithmGenerator, Generator
from zsq_compile.synthesis.generators.conditional import learn_conditional
from zsq_compile.synthesis.generators.dsg import dsg_loss
from zsq_compile.synthesis.generators.genie import learn_genie
from zsq_compile.synthesis.generators.image_networks import require_images
from zsq_compile.synthesis.generators.intraq import intraq_loss
from zsq_compile.synthesis.generators.noise import draw_noise
from zsq_compile.synthesis.generators.noise_descent import descend_from_noise
from zsq_compile.synthesis.generators.pixels import optimize_pixels
from zsq_compile.synthesis.generators.prior import draw_prior
from zsq_compile.synthesis.generators.zeroq import zeroq_loss


def make_generator(
    config: GeneratorConfig,
    inputs: Sequence[InputSpec],
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
    *,
    effort: Effort = "balanced",
    low_pass: float | None = None,
    confident_share: float = 0.0,
    answering_share: float = 0.0,
    widest_first: bool = False,
    student: Callable[[], TorchGraph] | None = None,
    examples: Examples | None = None,
) -> Generator:
    """Choose the algorithm by the type of its config.

    Args:
        config: of the algorithm.
        inputs: of the network.
        preprocessing: of image inputs; None infers that of each when data is made.
        progress: receives stages, notes and warnings.
        effort: how much work to do.
        low_pass: filters the finished images (see ``LowPassGenerator``).
        confident_share: of the finished images become high-confidence (see ``ConfidentGenerator``).
        answering_share: of the finished samples make heads answer that were silent (see ``AnsweringGenerator``).
        widest_first: put the sample first that other quantizers should see first (see ``WidestFirstGenerator``).
        student: makes a quantized network, on the device of the float one, for algorithms that learn against one.
        examples: real inputs, which half of the samples are made from.

    Raises:
        ConfigError: the algorithm needs a student, and there is none.
        SynthesisError: an input cannot be synthesized by the algorithm.

    """
    progress = progress or Silent()
    name, algorithm = _algorithm(config, student)
    known = {} if examples is None else examples.posteriors
    generator: Generator = AlgorithmGenerator(name, algorithm, inputs, preprocessing, progress, effort, known)
    if isinstance(config, GenieConfig | ZsCganConfig | GdfqConfig | AdadfqConfig):
        require_images(inputs, name)
    if low_pass is not None:
        generator = LowPassGenerator(generator, inputs, low_pass)
    if confident_share:
        generator = ConfidentGenerator(generator, inputs, confident_share, progress)
    if answering_share:
        generator = AnsweringGenerator(generator, inputs, answering_share, effort, progress)
    if examples is not None:
        generator = ExamplesGenerator(inner=generator, inputs=inputs, examples=examples)
    return WidestFirstGenerator(generator, fixed_batch(inputs) or 1) if widest_first else generator


def _algorithm(config: GeneratorConfig, student: Callable[[], TorchGraph] | None) -> tuple[str, Algorithm]:
    match config:
        case PixelsConfig():
            return "pixels", partial(optimize_pixels, config)
        case PriorConfig():
            return "prior", draw_prior
        case NoiseConfig():
            return "noise", partial(draw_noise, config)
        case ZeroqConfig():
            return "zeroq", partial(descend_from_noise, config, zeroq_loss)
        case DsgConfig():
            return "dsg", partial(descend_from_noise, config, partial(dsg_loss, config))
        case IntraqConfig():
            return "intraq", partial(descend_from_noise, config, partial(intraq_loss, config))
        case GenieConfig():
            return "genie", partial(learn_genie, config)
        case ZsCganConfig():
            return "zs-cgan", partial(learn_conditional, config, None)
        case GdfqConfig():
            return "gdfq", partial(learn_conditional, config, None)
        case AdadfqConfig():
            if student is None:
                raise ConfigError("the adadfq generator learns against a quantized network, and none was given to it")
            return "adadfq", partial(learn_conditional, config, student)
