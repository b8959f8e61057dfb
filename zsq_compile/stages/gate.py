"""The gate that a file may have to pass: a share of decisions that must be those of the float model."""

from zsq_compile.errors import ConfigError, ValidationError
from zsq_compile.frontend.declared_outputs import declared_outputs
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.metrics import decision_output
from zsq_compile.reporting.report import Report
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.hypothesis_estimate import worst

SETTLE = "--like FILE with one real input, --input-range, or --mean and --std would settle it"
"""What a user can do about an open preprocessing."""


def require_decisions(loaded: LoadedModel, min_agreement: float | None) -> None:
    """Refuse before the work, with a ConfigError, a gate that no file can pass."""
    outputs = declared_outputs(loaded.model, unknown=2)  # an open size may count classes
    if min_agreement is not None and decision_output(outputs) is None:
        raise ConfigError(
            "min_agreement counts decisions (the largest of class scores, or integers), and no output of this model "
            f"holds any that can be compared: {', '.join(loaded.outputs)}. Leave it out, and look at the ratio of "
            "signal to noise"
        )


def is_missed(report: Report, min_agreement: float | None) -> bool:
    """Tell whether the agreement asked for was not reached; ValidationError where no decision was counted.

    A metric of the user's takes the place of the agreement.
    """
    counted = report.held_agreement if report.metric is None else report.metric["kept"]
    if min_agreement is not None and counted is None:
        raise ValidationError(f"{report.emitted} was written, but has made no decision: leave min_agreement out")
    return min_agreement is not None and counted is not None and counted < min_agreement


def describe_held(estimate: AgreementEstimate | None, held: float | None) -> str:
    """Say what a gate was held against, and what would settle it where that is the lower end of an interval."""
    if held is None:
        return "the model has no output with classes"
    if estimate is None or estimate.estimate is None or estimate.proven:
        return f"it is {held:.4f}"
    lowest = worst(estimate.hypotheses)
    under = "" if lowest is None else f", if the input is prepared as {lowest.words}"
    return (
        f"it is {held:.4f}{under}, the lowest that is plausible (the estimate is {estimate.estimate:.4f}), because "
        f"nothing proves how the input is prepared; {SETTLE}"
    )
