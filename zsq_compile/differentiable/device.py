"""The device on which synthesis, learning and distillation run."""

import torch

from zsq_compile.config.compile import Device
from zsq_compile.errors import ConfigError


def choose_device(name: Device) -> torch.device:
    """Return the device of a name; ``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: ``cuda`` is asked for and torch can use no such device.

    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "auto":
        return torch.device("cpu")
    built = torch.version.cuda is not None
    reason = "finds none on this machine" if built else "is built without CUDA: install one that is built with it"
    raise ConfigError(
        f"--device cuda wants a CUDA device, but this torch ({torch.__version__}) {reason}; or leave --device out"
    )
