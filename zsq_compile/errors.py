"""The errors a user of zsq-compile can meet.

ZsqError                      exit code
├── ConfigError               2   an option or a configuration file is wrong
├── LoadError                 3   the file is not a usable ONNX model
├── UnsupportedModelError     3   the model is valid, but something in it cannot be handled
├── SynthesisError            1   no usable calibration data could be made
├── QuantizationError         1   the quantized graph could not be built
├── ExecutionError            1   the network could not be computed on its data
├── BudgetError               6   memory or time ran out
└── ValidationError           5   the emitted model does not do in the runtime what it did in the simulation

Every message says what was wanted, what came, where, and what to do.
"""

from typing import ClassVar


class ZsqError(Exception):
    """Base of all errors that are meant for the user's eyes."""

    exit_code: ClassVar[int] = 1


class ConfigError(ZsqError):
    """An option, a configuration key or a combination of them is wrong."""

    exit_code = 2


class LoadError(ZsqError):
    """The file cannot be read as an ONNX model that a runtime would accept."""

    exit_code = 3


class UnsupportedModelError(ZsqError):
    """The model is valid ONNX, but holds something that the compiler cannot handle."""

    exit_code = 3


class SynthesisError(ZsqError):
    """Calibration data could not be synthesized."""


class QuantizationError(ZsqError):
    """The quantized graph could not be built."""


class ExecutionError(ZsqError):
    """A node of the network failed on the values that it was given."""


class BudgetError(ZsqError):
    """The memory or time that the user granted is used up."""

    exit_code = 6


class ValidationError(ZsqError):
    """The emitted model failed in the runtime."""

    exit_code = 5
