"""Result of ``inspect``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from passes.analysis.count_work import Work
from passes.analysis.find_dead_channels import DeadChannels
from passes.analysis.find_range_risks import BiasRisk, ScaleConflict
from zsq_compile.data.input_spec import STAND_INS, InputKind
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.inspection.estimates import Estimate
from zsq_compile.reporting.plain import plain
from zsq_compile.tasks.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFacts:
    """One input.

    Attributes:
        name: of the input.
        shape: as the file has it, "?" for an open size.
        dtype: NumPy's name of the element type.
        kind: what it takes (see ``InputSpec``).
        reason: why it is taken for that, in words.
        assumed: shape with the sizes that were chosen for open ones, as ``--input-shape`` takes it; None where only the
            batch is open, or they were given.

    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    kind: InputKind
    reason: str
    assumed: str | None

    @property
    def takes_stand_ins(self) -> bool:
        """Whether compiling without samples feeds it values that are valid and mean nothing."""
        return self.kind in STAND_INS or (self.kind != "picture" and "float" not in self.dtype)

    @property
    def is_signal(self) -> bool:
        """Whether it takes data that are no pictures."""
        return not (self.takes_stand_ins or self.kind == "picture")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsFacts:
    """What is known of the training data's statistics.

    Attributes:
        source: "from BN nodes", "from checkpoint x.pth", or "without statistics": then data are procedural.
        coverage: in words.
        layers: number of convolutions, or of fully connected layers where there is none.
        covered: number of those with BatchNormalization behind them.
        advice: how to get statistics; None where there are some.

    """

    source: str
    coverage: str
    layers: int
    covered: int
    advice: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatNodes:
    """Names of nodes that stay float for one reason."""

    op_type: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementFacts:
    """What the target will do with the model.

    Attributes:
        target: its name.
        layers: number of weighted layers (convolutions, matrix products with a constant).
        integer: number of those that run in integers.
        without_kernel: names of layers whose weights are quantized, and which run in float all the same.
        left_float: names of layers that are not quantized.
        quantized_values: number of values with a scale, own or shared.
        float_nodes: other nodes that stay float and matter for speed, by reason.

    """

    target: str
    layers: int
    integer: int
    without_kernel: tuple[str, ...]
    left_float: tuple[str, ...]
    quantized_values: int
    float_nodes: tuple[FloatNodes, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inspection:
    """What compiling one model will meet.

    Attributes:
        model: the file.
        bytes: its size, with external data.
        opset: of the file.
        operators: operators of the file with the number of their nodes, the most frequent first.
        inputs: of the model.
        outputs: names of its outputs.
        task: what it is for, and what each of its outputs holds.
        work: of one sample.
        statistics: of the training data, as far as known.
        preprocessing: the most probable one of the first picture and of every signal whose scale is told, by input.
        posteriors: what may be the preprocessing, with probabilities, of the same.
        placement: what the target will do with the model.
        ranges: how the ranges were measured that bias and scale risks follow from, or why not, in words.
        dead_channels: by layer.
        bias_risks: by layer.
        scale_conflicts: by group of values with a shared scale.
        estimates: of size, time and agreement, at 8 and 4 bits.
        notes: how loading changed the graph, in words.
        warnings: what the user may want to change before compiling, in words.
        seconds: duration of the inspection.

    """

    model: Path
    bytes: int
    opset: int
    operators: tuple[tuple[str, int], ...]
    inputs: tuple[InputFacts, ...]
    outputs: tuple[str, ...]
    task: Task
    work: Work
    statistics: StatisticsFacts
    preprocessing: Mapping[str, Preprocessing]
    posteriors: Mapping[str, Posterior]
    placement: PlacementFacts
    ranges: str
    dead_channels: tuple[DeadChannels, ...]
    bias_risks: tuple[BiasRisk, ...]
    scale_conflicts: tuple[ScaleConflict, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values that json.dumps takes as they are."""
        found: dict[str, Any] = {entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}
        return found
