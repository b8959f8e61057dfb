"""What a model has in store for whoever compiles it, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from passes.analysis.count_work import Work
from passes.analysis.find_dead_channels import DeadChannels
from passes.analysis.find_range_risks import BiasRisk, ScaleConflict
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.inspection.estimates import Estimate
from zsq_compile.reporting.plain import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFacts:
    """One input.

    Attributes:
        name: of the input.
        shape: as the file has it; an open size is its name, or "?".
        dtype: numpy's name of its element type.
        assumed: sizes that were assumed for open ones beside the batch, as ``--input-shape`` takes them; None where
            the file leaves none open.

    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    assumed: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsFacts:
    """What is known of the training data's statistics.

    Attributes:
        tier: "batch normalisation, from ..." with where it is told, or "none": then data rests on procedural pictures.
        coverage: in words.
        layers: convolutions, or fully connected layers where there is none.
        covered: those of them with BatchNormalization behind them.
        advice: what would give more; None where nothing is missing.

    """

    tier: str
    coverage: str
    layers: int
    covered: int
    advice: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatNodes:
    """Nodes that stay float for one reason.

    Attributes:
        op_type: their operator.
        reason: in words.
        nodes: their names.

    """

    op_type: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementFacts:
    """What the target will do with the model.

    Attributes:
        target: its name.
        layers: weighted layers (convolutions, matrix products with a constant).
        integer: those that run in integers.
        without_kernel: names of layers whose weights are quantized, and which run in float all the same.
        left_float: names of layers that are not quantized.
        quantized_values: values that get a scale, or share one.
        float_nodes: everything else that stays float and could matter, by reason.

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
    """The findings about one model.

    Attributes:
        model: the file.
        bytes: its size, with external data.
        opset: of the file.
        operators: how often each operator stands in the file, the most frequent first.
        inputs: what it takes.
        outputs: names of its outputs.
        work: of one sample.
        statistics: what is known of the training data.
        preprocessing: of the first image input, by its name; empty where there is none.
        placement: what the target will do with it.
        ranges: how the ranges were found that biases and shared scales were judged by, or why they were not, in words.
        dead_channels: by layer.
        bias_risks: by layer.
        scale_conflicts: by group.
        estimates: size and time at 8 and 4 bits.
        notes: what else becomes of the graph, in words.
        warnings: what to do something about before compiling, in words.
        seconds: that the inspection took.

    """

    model: Path
    bytes: int
    opset: int
    operators: tuple[tuple[str, int], ...]
    inputs: tuple[InputFacts, ...]
    outputs: tuple[str, ...]
    work: Work
    statistics: StatisticsFacts
    preprocessing: Mapping[str, Preprocessing]
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
