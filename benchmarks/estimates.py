"""Compilations of networks with known truth, in this process: what the product estimates of each, and what is true."""

import hashlib
import json
import math
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from harness import runtime_key, source_key
from known_networks import Known
from numpy.typing import NDArray

from backends.session import open_session
from zsq_compile.compiler import CompileResult, compile_model
from zsq_compile.config.compile import CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ZsqError
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import load_model
from zsq_compile.metrics import agreement, top1
from zsq_compile.stages.estimate_agreement import EstimateInputs, Fit, make_estimate_inputs
from zsq_compile.verification.agreement_estimate import AgreementEstimate, Family, log_odds
from zsq_compile.verification.firmness import firmness
from zsq_compile.verification.running import run_batched

Told = Literal["nothing", "truth", "wrong"]
Doubt = Literal["given", "statistics", "ranked single", "open", "unexplained", "given wrong"]

DOUBTS: tuple[Doubt, ...] = ("given", "statistics", "ranked single", "open", "unexplained", "given wrong")
"""What the preprocessing of a compilation rests on: the user, statistics, a ranking with one plausible one, which
proves nothing, or with several; the last is what a user may do, and no estimate can know."""

_BATCH = 50
_NEAR = 0.1  # of the range between black and white: mean and std of CIFAR and of ImageNet are the same thing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Compiled:
    """One file, what it agrees to on real data, and what was measured without them.

    Attributes:
        network: name of the float file.
        group: see ``Known``.
        widths: such as "W8A8".
        told: what the compiler was told of the preprocessing.
        truth: the true preprocessing.
        order_told: see ``Known``.
        samples: number of real samples.
        agreement: of decisions with the float network on them, 0 to 1.
        accuracy: of the float network and of the quantized one, top-1; None without labels.
        inputs: what the estimate was made on, without the arrays.
        families: what was measured on them.
        source: what the estimate says of calibration.
        has_statistics: see ``Known``.

    """

    network: str
    group: str
    widths: str
    told: Told
    truth: Preprocessing
    order_told: bool
    samples: int
    agreement: float
    accuracy: tuple[float, float] | None
    inputs: EstimateInputs
    families: tuple[Family, ...]
    source: str
    has_statistics: bool

    @property
    def posterior(self) -> Posterior:
        """What was believed of the only picture."""
        return self.inputs.posteriors[self.inputs.inputs[0].name]

    @property
    def doubt(self) -> Doubt:
        """What the preprocessing rests on."""
        best = self.posterior.best
        if best.source == "given":
            return "given wrong" if self.told == "wrong" else "given"
        if self.posterior.is_open:
            return "open"
        if best.source == "unexplained":
            return "unexplained"
        return "statistics" if best.source == "inferred" else "ranked single"

    @property
    def is_found(self) -> bool:
        """Whether the truth is among the plausible preprocessings."""
        return any(self.is_true(one.preprocessing) for one in self.posterior.plausible)

    def is_true(self, one: Preprocessing) -> bool:
        """Whether a preprocessing makes nearly the same of black and of white as the true one, in the same order."""
        same_order = one.channel_order == self.truth.channel_order or not self.order_told
        return same_order and distance(one, self.truth) <= _NEAR

    def estimate(self, fit: Fit) -> AgreementEstimate:
        """Estimate as the product does, with other constants."""
        return self.inputs.estimate(self.families, self.source, fit=fit)

    def true_families(self) -> list[Family]:
        """Families under the true preprocessing, or all where one is plausible; empty where none of several is true."""
        plausible = self.posterior.plausible
        if len(plausible) == 1:
            return list(self.families)
        right = {number for number, one in enumerate(plausible) if self.is_true(one.preprocessing)}
        return [one for one in self.families if self.inputs.hypotheses.get(one.name) in right]

    def firmness(self) -> float:
        """See ``firmness``: of the families under the truth."""
        margins = [(one.margin, one.classes) for one in self.true_families()]
        return firmness((margin, classes) for margin, classes in margins if margin is not None and classes)

    def residual(self) -> tuple[float, float] | None:
        """Log-odds of the true agreement minus those on families, and the variance by the finite number of the latter.

        None where nothing was measured under the truth. The true share is half a sample away from all.
        """
        found = log_odds(self.true_families())
        if found is None or math.isinf(found[0]):
            return None
        least = 0.5 / self.samples
        share = min(max(self.agreement, least), 1.0 - least)
        return math.log(share / (1.0 - share)) - found[0], found[1] ** 2


def distance(one: Preprocessing, other: Preprocessing) -> float:
    """Largest difference of black and white between two preprocessings, in units of the range of the second."""
    rows = list(zip(one.mean, one.std, other.mean, other.std, strict=True))
    spans = [abs((end - mean) / std - (end - m) / s) * s for mean, std, m, s in rows for end in (0.0, 1.0)]
    return max(spans)


class Workshop:
    """Compiles and judges; finished work is kept in a folder, for one source of the compiler.

    ``older`` takes what another source made, the newest first, where this one has made nothing yet, and ``making``
    False makes nothing.
    """

    def __init__(self, folder: Path, *, target: str, fresh: bool, older: bool, making: bool) -> None:
        self._folder, self._target, self._fresh, self._older = folder, target, fresh, older
        self._making = making
        folder.mkdir(parents=True, exist_ok=True)
        self._floats: dict[str, NDArray[Any]] = {}

    def compiled(self, known: Known, bits: int, told: Told, given: Preprocessing | None) -> Compiled | None:
        """Compile and judge one file, or find what was made before; None, with a line, where it cannot be compiled."""
        words = [file_sha256(known.path), str(bits), told, self._target, runtime_key()]
        stem = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]
        place = self._folder / f"{stem}.{source_key()[:12]}.pickle"
        if place.is_file() and not self._fresh:
            return _read(place)
        if self._older and (others := sorted(self._folder.glob(f"{stem}.*.pickle"), key=_age)):
            return _read(others[0])
        if not self._making:
            return None
        try:
            made = self._make(known, bits, told, given)
        except ZsqError as error:
            print(f"{known.name} W{bits}: {error}", file=sys.stderr)
            return None
        scratch = place.with_suffix(".part")
        scratch.write_bytes(pickle.dumps(made))
        scratch.replace(place)
        return made

    def _make(self, known: Known, bits: int, told: Told, given: Preprocessing | None) -> Compiled:
        output = self._folder / f"{known.name}.w{bits}.{told}.onnx"
        result = compile_model(known.path, output, self._config(known, bits, given))
        estimate = result.report.agreement_estimate
        assert estimate is not None
        loaded = load_model(known.path, input_shapes=_shapes(known), simplify=False, verify=False)
        reference = self._float(known, loaded.inputs[0])
        outputs, labels = run_real(output, known, loaded.inputs[0])
        share = agreement(reference, outputs)
        assert share is not None
        top = None if labels is None else (top1(reference, labels), top1(outputs, labels))
        return Compiled(
            network=known.name,
            group=known.group,
            widths=f"W{bits}A8",
            told=told,
            truth=known.truth,
            order_told=known.order_told,
            samples=len(outputs),
            agreement=share,
            accuracy=top,
            inputs=_without_arrays(loaded.inputs, result),
            families=estimate.families,
            source=result.report.data,
            has_statistics=known.has_statistics,
        )

    def _config(self, known: Known, bits: int, given: Preprocessing | None) -> CompileConfig:
        mean, std = (None, None) if given is None else (given.mean, given.std)
        return CompileConfig(
            input=InputConfig(shapes=_shapes(known), mean=mean, std=std),
            quantization=QuantizationConfig(bits=bits),
            target=self._target,
            effort="fast",
            speed_trials=False,
        )

    def _float(self, known: Known, spec: InputSpec) -> NDArray[Any]:
        if known.name not in self._floats:
            self._floats[known.name] = run_real(known.path, known, spec)[0]
        return self._floats[known.name]


def _read(place: Path) -> Compiled:
    made: Compiled = pickle.loads(place.read_bytes())
    return made


def _age(place: Path) -> float:
    return -place.stat().st_mtime


def _shapes(known: Known) -> dict[str, Any]:
    if known.shape is None:
        return {}
    return {open_session(known.path, optimize="none").input_names[0]: known.shape}


def _without_arrays(inputs: Sequence[InputSpec], result: CompileResult) -> EstimateInputs:
    """Return what the estimate was made on; the arrays are made from the seed again, only for their names."""
    assert result.synthetic is not None
    made = make_estimate_inputs(inputs, result.synthetic.posteriors, seed=result.synthetic.seed)
    names: Mapping[str, Any] | None = None if made.families is None else {name: {} for name in made.families}
    return replace(made, families=names)


def run_real(path: Path, known: Known, spec: InputSpec) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Class scores of a file on the real inputs of its network, (count, classes), and their labels."""
    session, rows, labels = open_session(path), [], []
    for feeds, truth in known.real(spec).batches(spec.shape[0] or _BATCH):
        rows.append(next(iter(run_batched(session, feeds).values())))
        labels.append(truth)
    told = [one for one in labels if one is not None]
    return np.concatenate(rows), np.concatenate(told) if told else None
