import pytest

from zsq_compile.errors import (
    BudgetError,
    ConfigError,
    ExecutionError,
    LoadError,
    QuantizationError,
    SynthesisError,
    UnsupportedModelError,
    ValidationError,
    ZsqError,
)

EXIT_CODES = {
    ZsqError: 1,
    ConfigError: 2,
    LoadError: 3,
    UnsupportedModelError: 3,
    SynthesisError: 1,
    QuantizationError: 1,
    ExecutionError: 1,
    BudgetError: 6,
    ValidationError: 5,
}


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_every_error_is_ours_keeps_its_words_and_has_an_exit_code(kind: type[ZsqError], code: int) -> None:
    error = kind("wanted this, got that")
    assert isinstance(error, ZsqError)
    assert str(error) == "wanted this, got that"
    assert error.exit_code == code


def test_no_error_is_left_out_of_the_table() -> None:
    assert set(ZsqError.__subclasses__()) | {ZsqError} == set(EXIT_CODES)
