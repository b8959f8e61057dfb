"""An input contract in words, for whoever shows a report."""

from collections.abc import Mapping
from typing import Any


def contract_words(contract: Mapping[str, Any]) -> str:
    """Name of a contract (plain values of an ``InputContract``), and what decided for it."""
    name, reason, margin = contract["name"], contract["reason"], contract["margin"]
    if margin is not None:
        return f"{name} (inferred from {reason}, {margin:.2f} times better than the next)"
    return f"{name} {reason}" if name == "given" else f"{name} (assumed: {reason})"
