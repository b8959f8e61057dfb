"""The gate that a file may have to pass: a share of the float model's answers that must be kept."""

from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.reporting.report import Report
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import TaskKind
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.hypothesis_estimate import worst
from zsq_compile.verification.task_figures import SHARE_KINDS, missing_outputs

SETTLE = "--like FILE with one real input, --input-range, or --mean and --std would settle it"
"""What a user can do about an open preprocessing."""


def require_share(loaded: LoadedModel, asked: TaskKind | None, min_agreement: float | None) -> None:
    """Refuse before the work, with a ConfigError, a gate that no file can pass."""
    if min_agreement is None:
        return
    task = find_task(loaded.model, asked=asked)
    instead = "Leave it out, or let --metric judge, and look at the ratio of signal to noise"
    if task.kind not in SHARE_KINDS:
        raise ConfigError(
            "min_agreement holds a share of answers: classes, boxes, masks, peaks, texts, decisions or integers. This "
            f"model gives none of them ({task.kind}: {task.reason}); if it does, --task says so. {instead}"
        )
    uneven = missing_outputs(task, set(loaded.outputs).difference(loaded.uneven_outputs))
    if uneven:
        raise ConfigError(
            f"min_agreement counts what output {uneven[0]!r} holds ({task.kind}), but its size depends on the data, so "
            f"that nothing can be counted. {instead}"
        )


def is_missed(report: Report, min_agreement: float | None) -> bool:
    """Tell whether the share asked for was not reached; also where nothing could be counted, which proves nothing.

    A metric of the user's takes the place of the share.
    """
    if min_agreement is None:
        return False
    counted = report.held_agreement if report.metric is None else report.metric["kept"]
    return counted is None or counted < min_agreement


def describe_held(estimate: AgreementEstimate | None, held: float | None) -> str:
    """Say what a gate was held against, and what would settle it where that is the lower end of an interval."""
    if held is None:
        return "the float model says nothing on the samples that could be counted; real inputs, with --calib, would"
    if estimate is None or estimate.estimate is None or estimate.proven:
        return f"it is {held:.4f}"
    lowest = worst(estimate.hypotheses)
    under = "" if lowest is None else f", if the input is prepared as {lowest.words}"
    return (
        f"it is {held:.4f}{under}, the lowest that is plausible (the estimate is {estimate.estimate:.4f}), because "
        f"nothing proves how the input is prepared; {SETTLE}"
    )
