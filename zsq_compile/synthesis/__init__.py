"""Calibration data made of nothing but the network: several algorithms behind one method."""

from collections.abc import Sequence

from zsq_compile.config import Effort, GenieConfig, NoiseConfig, PixelsConfig, PriorConfig, SynthesisConfig
from zsq_compile.progress import Progress, Silent
from zsq_compile.signature import InputSpec
from zsq_compile.synthesis.generator import Generator, InputContract, SyntheticSet
from zsq_compile.synthesis.genie import GenieGenerator
from zsq_compile.synthesis.noise import NoiseGenerator
from zsq_compile.synthesis.pixels import PixelsGenerator
from zsq_compile.synthesis.procedural import PriorGenerator

__all__ = ["Generator", "InputContract", "SyntheticSet", "make_generator"]


def make_generator(
    config: SynthesisConfig,
    inputs: Sequence[InputSpec],
    contract: InputContract | None = None,
    progress: Progress | None = None,
    *,
    effort: Effort = "balanced",
) -> Generator:
    """Choose the algorithm by the type of its config.

    ``contract`` None lets the contract of each image input be inferred when data is made.

    Raises:
        SynthesisError: an input takes values that cannot be made up, such as integers.

    """
    told = progress or Silent()
    match config:
        case NoiseConfig():
            return NoiseGenerator(config, inputs, contract, told)
        case PriorConfig():
            return PriorGenerator(inputs, contract, told)
        case PixelsConfig():
            return PixelsGenerator(config, inputs, contract, told, effort=effort)
        case GenieConfig():
            return GenieGenerator(config, inputs, contract, told, effort=effort)
