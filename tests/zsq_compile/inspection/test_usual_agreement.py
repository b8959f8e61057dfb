"""The interval that inspect gives, against what networks kept when they were compiled."""

import re
from pathlib import Path

import onnx_ir as ir
import pytest

from tests import models
from zsq_compile.inspection.estimates import has_depthwise, usual_agreement

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks/results"


def measured() -> list[tuple[str, int, float]]:
    """Network, bits and agreement of the rows W8A8 and W4A8 of lowbit.md (means), and of folded.md."""
    found = []
    for line in (RESULTS / "lowbit.md").read_text().splitlines():
        if row := re.match(r"\| (\w+) \| W([84])A8 \| [^|]* \| [\d.]+ \(([\d.]+)\)", line):
            found.append((row[1], int(row[2]), float(row[3]) / 100.0))
    for line in (RESULTS / "folded.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 6 and cells[1].endswith(("nothing", "contract given")):
            shares = [re.search(r"\(([\d.]+)\)", cells[place]) for place in (4, 6)]
            name = cells[1].split(",")[0]
            found += [(name, bits, float(one[1]) / 100.0) for bits, one in zip((8, 4), shares, strict=True) if one]
    return found


def test_nine_of_ten_measured_networks_lie_inside() -> None:
    rows = [row for row in measured() if "mnist" not in row[0]]
    assert len(rows) >= 14
    inside = 0
    for name, bits, agreement in rows:
        usual = usual_agreement(bits, depthwise=name.startswith("mobilenet"))
        inside += usual.low <= agreement <= usual.high
    assert inside >= 0.9 * len(rows)


@pytest.mark.parametrize("depthwise", [False, True])
def test_fewer_bits_keep_less(depthwise: bool) -> None:
    eight, four = (usual_agreement(bits, depthwise=depthwise) for bits in (8, 4))
    assert four.agreement < eight.agreement
    assert all(0.0 < one.low < one.agreement < one.high < 1.0 for one in (eight, four))


def test_kinds_of_networks() -> None:
    assert has_depthwise(ir.from_proto(models.depthwise())) and not has_depthwise(ir.from_proto(models.residual()))
