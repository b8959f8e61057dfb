from dataclasses import replace
from typing import get_args

import pytest

from tests.zsq_compile.reporting.reports import a_report, a_validation
from zsq_compile.reporting.facts import comparison_rows, remarks, validation_facts
from zsq_compile.reporting.html import page_of
from zsq_compile.reporting.task_rows import task_details, task_rows
from zsq_compile.tasks.task import TaskKind, TaskQuality
from zsq_compile.tasks.truths import LabelledFigure
from zsq_compile.verification.labelled_quality import LabelledQuality
from zsq_compile.verification.task_figures import TaskFigures

DETAILS = {"mean error in spreads": 0.03, "PSNR": 41.25}
PLACEMENT = {
    "values": ["v1", "v2"],
    "layers": ["conv1"],
    "bits": None,
    "before": {"noise_db": 9.0, "kept": 0.5, "measure": "boxes", "harm": 0.1},
    "after": {"noise_db": 25.0, "kept": 0.97, "measure": "boxes", "harm": 0.01},
    "noise_db": {"v1": 10.0},
    "microseconds": {"integers": 100.0, "chosen": 130.0, "float": 200.0},
    "measured": True,
    "summary": "2 values and 1 layer left in float",
}


def figures(kind: TaskKind, kept: float | None = 0.961, **more: object) -> TaskFigures:
    quality = TaskQuality(measure="m", kept=kept, count=128, harm=0.1, details=DETAILS)
    return replace(TaskFigures(kind=kind, reason="r", quality=quality), **more)


@pytest.mark.parametrize(
    ("kind", "label", "value"),
    [
        ("classification", "top-1 agreement", "96.10%"),
        ("detection", "boxes kept (IoU > 0.9)", "96.10% of 128"),
        ("text", "equal texts", "96.10% of 128"),
        ("decisions", "equal decisions at 0.5", "96.10% of 128"),
        ("regression", "mean error in spreads", "0.030"),
        ("image", "PSNR to the float pictures", "41.2 dB"),
        ("embedding", "cosine with the float vectors", "0.9610"),
    ],
)
def test_every_kind_has_its_own_figure(kind: TaskKind, label: str, value: str) -> None:
    assert task_rows(figures(kind), 16) == [(f"{label} on 16 held-out samples", "-", value)]


@pytest.mark.parametrize("kind", get_args(TaskKind))
def test_no_kind_but_classes_speaks_of_classes_and_silence_is_said(kind: TaskKind) -> None:
    validation = replace(a_validation(), task=figures(kind), outputs=(), labelled=None, decision_output=None)
    text = repr((comparison_rows(validation), validation_facts(validation)))
    assert ("top-1" in text) == (kind == "classification")
    assert "class" not in text.replace("classification", "")
    ((_, _, value),) = task_rows(figures(kind, kept=None), 16)
    assert value.startswith("none: float ")


def test_the_worst_population_has_a_row_and_what_cannot_be_counted_says_why() -> None:
    several = figures("detection")
    assert several.quality is not None
    several = replace(several, populations=(replace(several.quality, kept=0.5, count=4), several.quality))
    assert task_rows(several, 16)[1] == ("the same under the worst plausible input", "-", "50.00% of 4")
    stuck = TaskFigures(kind="detection", reason="r", obstacle="because")
    assert task_rows(stuck, 16) == [("boxes kept (IoU > 0.9)", "-", "cannot be counted")]
    assert task_details(stuck) == "because"


def test_labels_that_are_no_classes_have_rows_for_both_files() -> None:
    before, after = (
        LabelledFigure(measure="mAP", value=value, count=9, higher_is_better=True, details={"at 0.5": 2 * value})
        for value in (0.4, 0.3)
    )
    real = LabelledQuality(
        samples=9,
        top1_float=None,
        top1_quantized=None,
        agreement=None,
        float_figure=before,
        quantized_figure=after,
        quality=figures("detection").quality,
    )
    assert comparison_rows(replace(a_validation(), labelled=real, task=figures("detection")))[1:4] == [
        ("mAP on 9 samples", "40.00%", "30.00%"),
        ("at 0.5 on 9 samples", "80.00%", "60.00%"),
        ("boxes kept (IoU > 0.9) on 9 samples", "-", "96.10% of 128"),
    ]


def test_json_tells_what_is_kept_and_what_a_gate_counts() -> None:
    report = replace(a_report(), validation=replace(a_validation(), task=figures("detection")), agreement_estimate=None)
    told = report.to_json()["validation"]["task"]
    assert (told["kind"], told["kept"], told["count"], told["share"]) == ("detection", 0.961, 128, 0.961)
    assert (told["details"], told["worst"], told["populations"], told["obstacle"]) == (DETAILS, None, [], None)
    assert report.expected_agreement == report.held_agreement == 0.961
    vectors = replace(report, validation=replace(a_validation(), task=figures("embedding")))
    assert vectors.to_json()["validation"]["task"]["share"] is vectors.held_agreement is None


def test_what_was_left_in_float_is_told_in_console_and_page() -> None:
    report = replace(a_report(), placement=PLACEMENT)
    assert ("placement", "2 values and 1 layer left in float; layers: conv1") in remarks(report)
    page = page_of(report)
    assert "2 values and 1 layer left in float." in page
    for figure in ("0.5", "0.97", "130", "v2"):
        assert f">{figure}<" in page
    assert report.to_json()["placement"] == PLACEMENT
