"""Top-1 and agreement with FP32 of files and of our own compilations, on a model's labelled images."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, Setting, compiled, last_words, runtime_key, source_key
from zoo import Labelled

from backends.session import open_session
from zsq_compile.files import file_sha256
from zsq_compile.metrics import agreement, top1
from zsq_compile.verification.running import run_batched


class Judge:
    """Judges files of one model on its labelled images; images are read once, the float logits are computed once."""

    def __init__(self, model: Labelled, assets: Path) -> None:
        self.model = model
        self.assets = assets
        self.path = model.path(assets)
        self._float: tuple[np.ndarray, np.ndarray] | None = None
        self._images: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def scores(self, path: Path) -> dict[str, Any]:
        """Return top-1 and agreement with FP32 of a file, 0 to 1."""
        if self._float is None:
            self._float = self._logits(self.path)
        reference, labels = self._float
        logits = self._logits(path)[0]
        return {"top1": top1(logits, labels), "agreement": agreement(reference, logits)}

    def _logits(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        session = open_session(path)
        if not self._images:
            batches = self.model.evaluation(self.assets).batches(50)
            self._images = [(dict(feeds), truth) for feeds, truth in batches if truth is not None]
        outputs = [next(iter(run_batched(session, feeds).values())) for feeds, _ in self._images]
        return np.concatenate(outputs), np.concatenate([truth for _, truth in self._images])


def float_row(judge: Judge, rows: Rows) -> dict[str, Any]:
    """Return the scores of the float model."""
    row = rows.get(["fp32", file_sha256(judge.path), runtime_key()], lambda: judge.scores(judge.path))
    assert row is not None
    return row


def our_row(
    judge: Judge, setting: Setting, rows: Rows, options: argparse.Namespace, *, make: bool = True
) -> dict[str, Any] | None:
    """Return scores, seconds, peak_mb and exit_code of one compilation, or the error that it ended with.

    None when it was not judged before and ``make`` is False.
    """

    def judged() -> dict[str, Any]:
        done = compiled(judge.path, setting, rows, options)
        assert done is not None
        row = {name: done[name] for name in ("seconds", "peak_mb", "exit_code")}
        path = Path(done["path"])
        return row | (judge.scores(path) if path.is_file() else {"error": last_words(done)})

    key = ["ours", file_sha256(judge.path), *setting.key(), source_key(), runtime_key(), options.compile_args]
    return rows.get(key, judged if make else None)
