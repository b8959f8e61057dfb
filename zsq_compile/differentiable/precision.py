"""Half precision where a processor is fast at it."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch


def reduced_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where the processor multiplies bfloat16 natively; else nothing."""
    if reduced_type(device) == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def reduced_type(device: torch.device) -> torch.dtype:
    """Type that activations have under ``reduced_precision``."""
    return torch.float32 if device.type == "cpu" and not _multiplies_bfloat16() else torch.bfloat16


@cache
def _multiplies_bfloat16() -> bool:
    """Tell by the flags that Linux prints; elsewhere float32 is the safe answer."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
