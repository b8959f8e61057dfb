"""What the inputs of a model may expect of pictures and signals, found without torch."""

import numpy as np
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import SignalFamily
from zsq_compile.data.remembered import read_remembered
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.inspection.runtime_probe import draw_inputs, draw_signal
from zsq_compile.synthesis.images.natural_images import natural_images
from zsq_compile.synthesis.preprocessing.infer_scale import infer_scale
from zsq_compile.synthesis.preprocessing.infer_signal import LITTLE_FIT_WORK, infer_signal
from zsq_compile.synthesis.preprocessing.plan_scan import LITTLE_SCAN_WORK
from zsq_compile.synthesis.preprocessing.rank import rank_candidates
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, TrialNetwork


def find_posteriors(
    loaded: LoadedModel, statistics: BatchNormStatistics, rng: np.random.Generator
) -> dict[str, Posterior]:
    """Find what may be the preprocessing of the first picture and of every signal, by input.

    What the file remembers is not looked for; a signal is left out where nothing tells its scale, or finding out would
    take long.
    """
    entries = {entry.key: entry.value for entry in loaded.original.metadata_props}
    image = next((spec for spec in loaded.inputs if spec.is_image), None)
    found: dict[str, Posterior] = {}
    for spec in loaded.inputs:
        if spec.takes_stand_ins or (spec.is_image and spec is not image):
            continue
        remembered = read_remembered(entries, spec)
        posterior = Posterior.certain(remembered) if remembered is not None else _find(loaded, spec, statistics, rng)
        found |= {} if posterior is None else {spec.name: posterior}
    return found


def _find(
    loaded: LoadedModel, spec: InputSpec, statistics: BatchNormStatistics, rng: np.random.Generator
) -> Posterior | None:
    network = TrialNetwork(
        model=loaded.model,
        spec=spec,
        draw_images=lambda count, height, width: natural_images(count, spec.channels, height, width, rng),
        others=draw_inputs([one for one in loaded.inputs if one is not spec], TRIAL_IMAGES, rng) or {},
        whole=frozenset(one.name for one in loaded.inputs if one.batch_axis is None),
        aside=frozenset(one.name for one in loaded.inputs if one.batch_axis),
    )
    if spec.is_image:
        return rank_candidates(network, statistics, thorough=False)

    def draw(family: SignalFamily, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return draw_signal(family, shape, rng)

    signals = sum(not (one.is_image or one.takes_stand_ins) for one in loaded.inputs)
    told = infer_signal(network, statistics, draw, LITTLE_FIT_WORK // signals)
    if told is not None:
        return Posterior.certain(told)
    return infer_scale(network, draw, LITTLE_SCAN_WORK // signals)
