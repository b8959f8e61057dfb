"""The generator of a configuration: several algorithms behind one method."""

from collections.abc import Callable, Sequence
from functools import partial

from zsq_compile.config.compile import Effort, GeneratorConfig, NoiseConfig, PixelsConfig, PriorConfig
from zsq_compile.config.conditional_generators import AdadfqConfig, GdfqConfig, ZsCganConfig
from zsq_compile.config.generators import DsgConfig, IntraqConfig, ZeroqConfig
from zsq_compile.config.genie import GenieConfig
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Progress, Silent
from zsq_compile.synthesis.filters.confident import ConfidentGenerator
from zsq_compile.synthesis.filters.low_pass import LowPassGenerator
from zsq_compile.synthesis.filters.widest_first import WidestFirstGenerator
from zsq_compile.synthesis.generator import Generator
from zsq_compile.synthesis.generators.conditional_generator import ConditionalGenerator
from zsq_compile.synthesis.generators.dsg import dsg_loss
from zsq_compile.synthesis.generators.genie import GenieGenerator
from zsq_compile.synthesis.generators.intraq import intraq_loss
from zsq_compile.synthesis.generators.noise import NoiseGenerator
from zsq_compile.synthesis.generators.noise_descent import NoiseDescent
from zsq_compile.synthesis.generators.pixels import PixelsGenerator
from zsq_compile.synthesis.generators.prior import PriorGenerator
from zsq_compile.synthesis.generators.zeroq import zeroq_loss


def make_generator(
    config: GeneratorConfig,
    inputs: Sequence[InputSpec],
    contract: Preprocessing | None = None,
    progress: Progress | None = None,
    *,
    effort: Effort = "balanced",
    low_pass: float | None = None,
    confident_share: float = 0.0,
    handed_on: bool = False,
    student: Callable[[], TorchGraph] | None = None,
) -> Generator:
    """Choose the algorithm by the type of its config.

    ``contract`` None lets the contract of each image input be inferred when data is made. ``low_pass`` filters the
    finished images, whichever algorithm makes them (see ``LowPassGenerator``); ``confident_share`` of them are moved
    until the network is sure of them (see ``ConfidentGenerator``). ``handed_on`` to other quantizers, the widest sample
    comes first (see ``WidestFirstGenerator``). ``student`` makes a quantized network,
    on the device of the float one, for those that learn against one.

    Raises:
        ConfigError: the algorithm wants a student, and there is none.
        SynthesisError: an input takes values that cannot be made up, such as integers.

    """
    generator = _make(config, inputs, contract, progress or Silent(), effort, student)
    if low_pass is not None:
        generator = LowPassGenerator(generator, low_pass)
    if confident_share:
        generator = ConfidentGenerator(generator, inputs, confident_share, progress or Silent())
    return WidestFirstGenerator(generator, fixed_batch(inputs) or 1) if handed_on else generator


def _make(
    config: GeneratorConfig,
    inputs: Sequence[InputSpec],
    contract: Preprocessing | None,
    told: Progress,
    effort: Effort,
    student: Callable[[], TorchGraph] | None,
) -> Generator:
    match config:
        case NoiseConfig():
            return NoiseGenerator(config, inputs, contract, told)
        case PriorConfig():
            return PriorGenerator(inputs, contract, told)
        case PixelsConfig():
            return PixelsGenerator(config, inputs, contract, told, effort=effort)
        case GenieConfig():
            return GenieGenerator(config, inputs, contract, told, effort=effort)
        case ZeroqConfig():
            return NoiseDescent("zeroq", config, inputs, contract, told, zeroq_loss, effort=effort)
        case DsgConfig():
            return NoiseDescent("dsg", config, inputs, contract, told, partial(dsg_loss, config), effort=effort)
        case IntraqConfig():
            return NoiseDescent("intraq", config, inputs, contract, told, partial(intraq_loss, config), effort=effort)
        case ZsCganConfig():
            return ConditionalGenerator("zs-cgan", config, inputs, contract, told, effort=effort)
        case GdfqConfig():
            return ConditionalGenerator("gdfq", config, inputs, contract, told, effort=effort)
        case AdadfqConfig():
            if student is None:
                raise ConfigError("the adadfq generator learns against a quantized network, and none was given to it")
            return ConditionalGenerator("adadfq", config, inputs, contract, told, effort=effort, student=student)
