"""bfloat16 where the processor is fast at it."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from backends.machine import processor_flags


def reduced_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where the processor multiplies bfloat16 natively; else nothing."""
    kind = reduced_type(device)
    return nullcontext() if kind == torch.float32 else torch.autocast(device.type, dtype=kind)


def reduced_type(device: torch.device) -> torch.dtype:
    """Type that activations have under ``reduced_precision``."""
    return torch.float32 if device.type == "cpu" and not _multiplies_bfloat16() else torch.bfloat16


@cache
def _multiplies_bfloat16() -> bool:
    """Read Linux's flags of the processor; where there are none, float32 is the safe answer."""
    return bool({"avx512_bf16", "amx_bf16"} & (processor_flags() or set()))
