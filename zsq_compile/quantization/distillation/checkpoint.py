"""The file that a distillation is continued from: tensors, numbers and words, and nothing that could run as code."""

import hashlib
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import onnx_ir as ir
import torch

from passes.plan import QuantizationPlan
from zsq_compile.errors import ConfigError
from zsq_compile.files import written_whole
from zsq_compile.quantization.reconstruction.values import QuantizedValues

_FORMAT = "zsq-compile distillation 2"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SavedState:
    """A distillation between two steps: its values at the start and the best so far, and what the trainer goes on with.

    That is tensors, numbers, words, and lists and mappings of them.
    """

    start: QuantizedValues
    best: QuantizedValues
    training: Mapping[str, Any]


class Checkpoint:
    """One file, for one model and one set of settings, which ``fingerprint`` identifies."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint

    def read(self, device: torch.device) -> SavedState | None:
        """Read the state; None where there is no file yet. ConfigError where the file is of something else."""
        if not self._path.exists():
            return None
        wanted = f"--distill-checkpoint wants a file that this compilation has written, got {self._path}"
        try:
            held = torch.load(self._path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(f"{wanted}, which cannot be read ({reason}): name another file") from error
        if not isinstance(held, dict) or held.get("format") != _FORMAT:
            raise ConfigError(f"{wanted}, which is no checkpoint of a distillation: name another file")
        if held["fingerprint"] != self._fingerprint:
            raise ConfigError(f"{wanted}, which is of another model or other settings: delete it or name another file")
        return SavedState(
            start=QuantizedValues(**held["start"]), best=QuantizedValues(**held["best"]), training=held["training"]
        )

    def write(self, state: SavedState) -> None:
        """Write the state."""
        held = {
            "format": _FORMAT,
            "fingerprint": self._fingerprint,
            "start": _plain(state.start),
            "best": _plain(state.best),
            "training": dict(state.training),
        }
        try:
            with written_whole(self._path) as part:
                torch.save(held, part)
        except (ConfigError, RuntimeError) as error:  # torch reports a folder that is missing as the latter
            raise ConfigError(f"--distill-checkpoint {self._path} cannot be written: {error}") from error


def _plain(values: QuantizedValues) -> dict[str, dict[str, torch.Tensor]]:
    return {field.name: dict(getattr(values, field.name)) for field in fields(values)}


def fingerprint(model: ir.Model, plan: QuantizationPlan, settings: Mapping[str, object]) -> str:
    """SHA-256 of a float model's nodes and constants, of the formats of a plan, and of settings, as hexadecimal."""
    found = hashlib.sha256()
    for node in model.graph:
        found.update(ir.serde.serialize_node(node).SerializeToString(deterministic=True))
    for name, value in sorted(model.graph.initializers.items()):
        if value.const_value is not None:
            found.update(name.encode())
            found.update(value.const_value.tobytes())
    found.update(repr([(site.initializer, site.number_format) for site in plan.weights]).encode())
    found.update(repr([(site.value, site.group, site.number_format) for site in plan.activations]).encode())
    found.update(repr(sorted(settings.items())).encode())
    return found.hexdigest()


@contextmanager
def patient_interrupts() -> Iterator[Callable[[], bool]]:
    """Let what is being done come to its end before Ctrl-C is obeyed; a second Ctrl-C is obeyed at once.

    The value of the context says whether Ctrl-C was pressed. Outside the main thread, where Python allows no such
    thing, it never does, and nothing is changed.
    """
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
