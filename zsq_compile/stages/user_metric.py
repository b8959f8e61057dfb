"""The user's own metric as the arbiter of a compilation: asked for the float model, for trials, and for the result."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.target import Target
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress
from zsq_compile.quantization.state import QuantizedState
from zsq_compile.quantization.user_metric import MetricRun, UserMetric, share_kept
from zsq_compile.stages.faster_variants import emit_model


class UserJudge:
    """Asks a command, and keeps what it said.

    Asked for the float model at once, so that a command that does not work ends the compilation before the work.

    Attributes:
        reference: what it says of the float model.
        runs: what it said of everything else, in order.

    """

    def __init__(self, command: str, loaded: LoadedModel, target: Target, progress: Progress) -> None:
        self.reference = UserMetric(command=command).measure(loaded.path)
        self.runs: list[MetricRun] = []
        self._metric, self._loaded, self._target, self._progress = UserMetric(command=command), loaded, target, progress
        progress.note(f"metric of the float model: {self.reference:g}")

    def kept(self, what: str, state: QuantizedState) -> float:
        """Share of the float model's number that the file of a quantized network keeps."""
        with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
            path = Path(folder) / f"{self._loaded.path.stem}.onnx"
            self._loaded.face.write(emit_model(state.qdq.clone(), state.plan, self._target, None), path)
            return self.kept_by(what, path)

    def kept_by(self, what: str, path: Path) -> float:
        """Return the same of a file."""
        value = self._metric.measure(path)
        run = MetricRun(what=what, value=value, kept=share_kept(value, self.reference))
        self.runs.append(run)
        self._progress.detail(f"metric of {what}: {value:g}, {run.kept:.2%} of the float model's")
        return run.kept

    def plain(self) -> Mapping[str, Any]:
        """Tell everything in plain values; the last run is the result's."""
        last = self.runs[-1]
        return {
            "command": self._metric.command,
            "float": self.reference,
            "quantized": last.value,
            "kept": last.kept,
            "runs": [asdict(run) for run in self.runs],
        }
