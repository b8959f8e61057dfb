"""The confidence line: what agreement on real data is to be expected of a file that was made without any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.stages.calibration_data import CalibrationData
from zsq_compile.synthesis.generator import InputContract
from zsq_compile.synthesis.images.families import input_families
from zsq_compile.verification.agreement_estimate import Confidence, Family, estimated, measured_families

ASSUMED_SPREAD = 1.0
"""What SPREAD is where the numbers that the network expects of a picture were assumed: they may be others."""

_SURE = "sure"
_APART = 1_000_003  # from the seed that calibration data was made with


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Expectation:
    """What an estimate for any quantized file of one float model rests on.

    Attributes:
        inputs: of the network.
        contracts: what numbers image inputs expect, by name.
        families: inputs that no calibration has seen, (count, ...), by name of the family and of the input; None where
            an input takes values that cannot be made up.
        sure: pictures that the float network is sure of, by input, to find files that cut off large scores; None where
            there are none.

    """

    inputs: Sequence[InputSpec]
    contracts: Mapping[str, InputContract]
    families: Mapping[str, Mapping[str, NDArray[Any]]] | None
    sure: Mapping[str, NDArray[Any]] | None = None

    @property
    def samples(self) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """All that a file is to be run on: the families, and the pictures that the float network is sure of."""
        families = self.families or {}
        return families if self.sure is None else {**families, _SURE: self.sure}

    def concluded(self, measured: Sequence[Family], tier: str) -> Confidence:
        """Estimate the agreement on real data.

        A file that loses more of the decisions which the float network is surest of than was estimated cuts off scores
        that real pictures reach and the families do not: it has no estimate.

        Args:
            measured: one file, on ``samples``.
            tier: what its calibration rested on, in words.

        """
        sure = next((one.agreement for one in measured if one.name == _SURE), None)
        told = replace(self._estimated([one for one in measured if one.name != _SURE], tier), sure=sure)
        if sure is None or told.low is None or sure >= told.low:
            return told
        reason = f"it keeps {sure:.0%} of the decisions that the float network is surest of: its ranges end too early"
        return replace(told, estimate=None, low=None, high=None, reason=reason)

    def _estimated(self, measured: Sequence[Family], tier: str) -> Confidence:
        if self.families is None:
            return estimated((), tier, reason="an input takes values that cannot be made up")
        known = len(self.inputs) == 1 and self.inputs[0].is_image and self.inputs[0].name in self.contracts
        if not known:
            return estimated(measured, tier, reason="how far it can be off is known for single images only")
        if is_assumed(self.contracts[self.inputs[0].name]):
            return estimated(measured, f"{tier}, with an assumed input", spread=ASSUMED_SPREAD)
        return estimated(measured, tier)


def expectation(inputs: Sequence[InputSpec], contracts: Mapping[str, InputContract], *, seed: int = 0) -> Expectation:
    """Make the families of inputs that files of a network are judged by, from a seed that follows from ``seed``."""
    if not all(np.issubdtype(spec.dtype, np.floating) for spec in inputs):
        return Expectation(inputs=inputs, contracts=contracts, families=None)
    families = input_families(inputs, contracts, torch.Generator().manual_seed(seed + _APART))
    arrays = {name: {key: tensor.numpy() for key, tensor in made.items()} for name, made in families.items()}
    return Expectation(inputs=inputs, contracts=contracts, families=arrays)


def confidence(
    original: onnx.ModelProto,
    emitted: Path,
    expected: Expectation,
    tier: str,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Confidence:
    """Estimate the agreement with the float model on real data, on families of inputs that calibration did not see.

    Args:
        original: the float model.
        emitted: the quantized file.
        expected: the families.
        tier: what calibration rested on, in words.
        providers: execution providers of the target.

    Raises:
        ValidationError: the runtime failed.

    """
    samples = expected.samples
    measured = measured_families(original, emitted, samples, providers=providers) if samples else ()
    return expected.concluded(measured, tier)


def is_assumed(contract: InputContract) -> bool:
    """Tell whether nobody gave a contract and no statistics told it."""
    return not contract.inferred and contract.name != "given"


def known_contracts(inputs: Sequence[InputSpec], samples: CalibrationData) -> Mapping[str, InputContract]:
    """Contracts of image inputs, by name, as calibration took them."""
    if samples.synthetic is not None:
        return samples.synthetic.contracts
    first = next((spec.name for spec in inputs if spec.is_image), None)
    return {} if first is None or samples.contract is None else {first: samples.contract}


def tier_of(known: KnownStatistics, samples: CalibrationData) -> str:
    """Say what calibration rested on: "from BN nodes", "from checkpoint x.pth", "without statistics" ..."""
    if samples.synthetic is None:
        return "calibrated on given samples"
    return known.tier
