"""What it costs in time to leave values in float: kernels in float, and conversions where integers meet floats.

Times are those of a profile of both files where the target's runtime is here. Elsewhere they are modelled by the work:
then only their ratios mean something.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import onnx_ir as ir

from passes.analysis.count_work import layer_work
from passes.plan import QuantizationPlan
from passes.quantize.integer_kernels import IntegerKernels

# Microseconds of a million multiplications or elements: one thread, x86 with AVX2, ONNX Runtime 1.32.
_FLOAT_WORK, _INTEGER_WORK = 30.0, 18.0
_FLOAT_ELEMENTS, _INTEGER_ELEMENTS = 500.0, 250.0
_CONVERTED_ELEMENTS, _CALL = 300.0, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeTimes:
    """Measured microseconds for one sample, by the name of a layer, or of the value that any other node makes.

    Attributes:
        floats: of the nodes of the float file.
        integers: of those of the quantized file.
        to_codes: of QuantizeLinear, for a million elements; None where there is none.
        to_floats: of DequantizeLinear likewise.

    """

    floats: Mapping[str, float] = field(default_factory=dict)
    integers: Mapping[str, float] = field(default_factory=dict)
    to_codes: float | None = None
    to_floats: float | None = None


class TimeModel:
    """Microseconds of one run, but for what is the same in every choice."""

    def __init__(
        self, model: ir.Model, plan: QuantizationPlan, kernels: IntegerKernels, times: NodeTimes | None = None
    ) -> None:
        self._kernels, times = kernels, times or NodeTimes()
        values = {str(v.name): v for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))}
        work, sizes = layer_work(model), {name: _elements(value) / 1e6 for name, value in values.items()}
        self._floats, self._integers = dict[str, float](), dict[str, float]()
        for kernel in kernels.kernels:
            work_of, size = work.get(kernel.node, 0) / 1e6, sizes.get(kernel.made, 0.0)
            modelled = (
                _CALL + _FLOAT_WORK * work_of + _FLOAT_ELEMENTS * size,
                _CALL + _INTEGER_WORK * work_of + _INTEGER_ELEMENTS * size,
            )
            measured = [_find(table, kernel.node, kernel.made) for table in (times.floats, times.integers)]
            known = None not in measured
            for table, own, guess in zip((self._floats, self._integers), measured, modelled, strict=True):
                table[kernel.node] = own if known and own is not None else guess
        self._convert = tuple(_CONVERTED_ELEMENTS if one is None else one for one in (times.to_codes, times.to_floats))
        self._sites = [
            _Conversions(
                group=site.group,
                size=sizes.get(site.value, 0.0),
                maker=maker,
                readers=tuple({str(use.node.name) for use in values[site.value].uses()} - {*site.float_readers}),
            )
            for site in plan.activations
            if site.value in values
            for maker in [self._maker(site.value)]
        ]

    def total(self, floats: Set[str]) -> float:
        """Microseconds when some groups, with whatever follows, are left in float."""
        running = {kernel.node for kernel in self._kernels.running(floats)}
        time = sum((self._integers if name in running else self._floats)[name] for name in self._floats)
        to_codes, to_floats = self._convert
        for site in self._sites:
            if site.group in floats:
                continue
            if site.maker not in running:
                time += _CALL + to_codes * site.size
            if not running.issuperset(site.readers):
                time += _CALL + to_floats * site.size
        return time

    def _maker(self, value: str) -> str | None:
        return next((kernel.node for kernel in self._kernels.kernels if kernel.made == value), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Conversions:
    """Where one value may be converted: its kernel, its readers, and its size in millions of elements."""

    group: str
    size: float
    maker: str | None
    readers: tuple[str, ...]


def _find(table: Mapping[str, float], node: str, made: str) -> float | None:
    return table.get(node, table.get(made))


def _elements(value: ir.Value) -> int:
    if value.shape is None:
        return 0
    return math.prod(size if isinstance(size, int) else 1 for size in value.shape)
