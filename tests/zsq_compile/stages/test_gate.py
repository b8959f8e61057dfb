from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from tests import models
from tests.zsq_compile.reporting.reports import a_report
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import load_model
from zsq_compile.reporting.report import Report
from zsq_compile.stages.gate import describe_held, is_missed, require_share
from zsq_compile.tasks.task import TaskKind, TaskQuality
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate
from zsq_compile.verification.task_figures import TaskFigures

WAYS = tuple(
    HypothesisEstimate(words=name, probability=0.5, estimate=middle, low=low, high=0.99, sqnr_db=9.0)
    for name, middle, low in (("unit", 0.95, 0.9), ("imagenet", 0.3, 0.2))
)
OPEN = AgreementEstimate(
    estimate=0.625, low=0.2, high=0.99, calibration_source="", families=(), hypotheses=WAYS, proven=False
)


def report(estimate: AgreementEstimate) -> Report:
    return replace(a_report(), agreement_estimate=estimate)


@pytest.mark.parametrize(("wanted", "missed"), [(0.15, False), (0.5, True), (0.9, True)])
def test_an_open_input_is_held_against_the_lowest_end(wanted: float, missed: bool) -> None:
    assert is_missed(report(OPEN), wanted) == missed
    assert not is_missed(report(OPEN), None)


def test_a_proven_input_is_held_against_the_estimate() -> None:
    proven = replace(OPEN, proven=True, hypotheses=())
    assert not is_missed(report(proven), 0.6)
    assert is_missed(report(proven), 0.7)
    assert describe_held(proven, proven.held) == "it is 0.6250"


def test_what_would_settle_it_is_said() -> None:
    words = describe_held(OPEN, OPEN.held)
    for part in ("0.2000", "imagenet", "0.6250", "--like", "--input-range", "--mean"):
        assert part in words


def test_without_an_estimate_decisions_on_held_out_samples_are_held_against() -> None:
    bare = replace(OPEN, estimate=None, low=None, high=None, reason="x")
    assert report(bare).held_agreement == report(bare).validation.agreement
    assert is_missed(report(bare), 0.99)


def test_nothing_counted_is_a_gate_missed() -> None:
    silent = TaskFigures(kind="detection", reason="r", quality=TaskQuality(measure="m", kept=None, count=0, harm=0.0))
    bare = replace(a_report(), agreement_estimate=None)
    bare = replace(bare, validation=replace(bare.validation, task=silent))
    assert bare.held_agreement is None
    assert is_missed(bare, 0.1)
    assert not is_missed(bare, None)
    assert "says nothing" in describe_held(None, None)


def test_boxes_texts_and_the_like_are_held_against_the_worst_population() -> None:
    parts = tuple(TaskQuality(measure="m", kept=kept, count=10, harm=0.0) for kept in (0.9, 0.4))
    figures = TaskFigures(kind="text", reason="r", quality=replace(parts[0], kept=0.65), populations=parts)
    bare = replace(a_report(), agreement_estimate=None)
    bare = replace(bare, validation=replace(bare.validation, task=figures))
    assert (bare.expected_agreement, bare.held_agreement) == (0.65, 0.4)
    assert not is_missed(bare, 0.4)
    assert is_missed(bare, 0.5)


@pytest.mark.parametrize(("asked", "refused"), [(None, True), ("embedding", True), ("classification", False)])
def test_a_gate_on_what_has_no_share_is_refused_before_the_work(
    tmp_path: Path, asked: TaskKind | None, *, refused: bool
) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(models.parse("g (float[N,1,8] x) => (float[N,1,8] y) { y = Tanh(x) }"), source)
    loaded = load_model(source)
    require_share(loaded, asked, None)
    with pytest.raises(ConfigError, match="min_agreement") if refused else nullcontext():
        require_share(loaded, asked, 0.9)
