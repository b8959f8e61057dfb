"""Take denormal numbers for 0 on the processor."""

import torch


def flush_denormals() -> bool:
    """Have the calling thread, and those that it starts, take denormal numbers for 0; False where the CPU cannot."""
    return torch.set_flush_denormal(True)
