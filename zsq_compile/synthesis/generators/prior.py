"""The ``prior`` generator, and the start of every other: each input gets procedural data of its own kind.

Images (float NCHW with 1 or 3 channels) get procedural pictures under the input's contract, every other float input
gets signals of its shape.
"""

from collections.abc import Sequence

import numpy as np
import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.generator import InputContract, SyntheticSet
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.signal import prior_signals
from zsq_compile.synthesis.preprocessing.infer import CONTRACT_IMAGES, infer_contract


class PriorGenerator:
    """Procedural data as it is; needs no statistics beyond those that tell the input contract."""

    def __init__(self, inputs: Sequence[InputSpec], contract: InputContract | None, progress: Progress) -> None:
        self._inputs = check_inputs(inputs)
        self._contract = contract
        self._progress = progress

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        seed = rng.initial_seed()
        contracts = find_contracts(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        drawn = {spec.name: draw_prior(spec, count, rng) for spec in self._inputs}
        inputs = {
            name: (contracts[name].encode(values) if name in contracts else values).float().cpu()
            for name, values in drawn.items()
        }
        return SyntheticSet(inputs=inputs, algorithm="prior", seed=seed, loss_curve=(), contracts=contracts)


def check_inputs(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the inputs if data can be made up for all of them.

    Raises:
        SynthesisError: the network takes nothing, or takes integers, texts or truth values.

    """
    if not inputs:
        raise SynthesisError("the network has no input, so there is no data to be made for it")
    for spec in inputs:
        if not np.issubdtype(spec.dtype, np.floating):
            raise SynthesisError(
                f"input {spec.name!r} takes {spec.dtype} of shape {spec.shape}: values such as token ids or masks "
                "have a meaning that cannot be made up; give real samples with --calib FILE.npz"
            )
    return tuple(inputs)


def find_contracts(
    inputs: Sequence[InputSpec],
    given: InputContract | None,
    teacher: TorchGraph,
    statistics: BatchNormStatistics,
    rng: torch.Generator,
    progress: Progress,
) -> dict[str, InputContract]:
    """Contract of every image input: the given one where its channels fit, else inferred, and told to ``progress``."""
    contracts: dict[str, InputContract] = {}
    for spec in (one for one in inputs if one.is_image):
        if given is not None and len(given.mean) in (1, spec.shape[1]):
            contracts[spec.name] = given
            continue
        size = int(spec.shape[0] or CONTRACT_IMAGES)
        others = {
            other.name: draw_prior(other, size, rng).to(teacher.device) for other in inputs if other.name != spec.name
        }
        contracts[spec.name] = found = infer_contract(teacher, statistics, spec, rng, others=others)
        _tell(spec, found, progress)
    return contracts


def draw_prior(spec: InputSpec, count: int, rng: torch.Generator) -> torch.Tensor:
    """``count`` samples of an input: pictures with pixels in [0, 1], or signals in the network's own units."""
    shape = spec.batched(count)
    if not spec.is_image:
        return prior_signals(shape, rng)
    _, channels, height, width = shape
    return prior_images(count, channels, height, width, rng)


def _tell(spec: InputSpec, contract: InputContract, progress: Progress) -> None:
    subject = f"input {spec.name!r}: {_DESCRIPTIONS[contract.name]}"
    if contract.inferred and contract.margin is not None:
        text = f"{subject} (inferred from {contract.reason}, {contract.margin:.1f} times better than the next)"
        if contract.margin >= _CLEAR_MARGIN:
            progress.note(text)
            return
        progress.warn(f"{text}: a close decision; check it and give --mean and --std, or --input-range, if it is wrong")
        return
    progress.warn(
        f"{subject} (assumed: {contract.reason}); give --mean and --std, or --input-range, if it is something else"
    )


_CLEAR_MARGIN = 1.3
_DESCRIPTIONS = {
    "unit": "pixels in [0, 1]",
    "symmetric": "pixels in [-1, 1]",
    "imagenet": "pixels normalised with mean and std of ImageNet",
    "byte": "raw pixels in 0..255",
    "byte_bgr": "raw BGR pixels minus mean (104, 117, 123)",
}
