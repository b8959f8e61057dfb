"""The gate that a file may have to pass: a share of decisions that must be those of the float model."""

from zsq_compile.errors import ConfigError, ValidationError
from zsq_compile.frontend.declared_outputs import declared_outputs
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.metrics import decision_output
from zsq_compile.reporting.report import Report


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
    """Tell whether the agreement asked for was not reached; ValidationError where no decision was counted."""
    counted = report.expected_agreement
    if min_agreement is not None and counted is None:
        raise ValidationError(f"{report.emitted} was written, but has made no decision: leave min_agreement out")
    return min_agreement is not None and counted is not None and counted < min_agreement
