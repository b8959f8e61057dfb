"""What inputs take, as the compiler tells it, against what is known of the assets' models and of other folders.

    python benchmarks/kinds.py [--more FOLDER ...]

``--more`` names folders with further models, whose inputs are listed without a verdict.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from harness import table, write_result
from zoo import ROOT, add_common_options

from zsq_compile.errors import ZsqError
from zsq_compile.frontend.load import load_model

# Everything that is not listed takes pictures.
_OTHERS = {
    "dnsmos_sig_bak_ovr": {"input_1": "waveform"},
    "keypoint_classifier_mlp": {"input": "table"},
    "alexa_v0.1": {"onnx::Flatten_0": "features"},
    "crepe_tiny": {"input": "waveform"},
    "silero_vad_16k_sequence": {"input": "waveform", "h": "state", "c": "state"},
    "calib-token-ids": {"ids": "tokens"},
    "gru-with-state": {"x": "features", "h0": "state"},
    "keyword-spotting-bn": {"input": "spectrogram"},
    "signal-1d-bn": {"input": "waveform"},
    "tabular-bn-first": {"input": "table"},
}


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the models below a folder: their names, and their files."""
    for path in sorted(folder.rglob("*.onnx")):
        yield (path.parent.name if path.name == "model.onnx" else path.stem), path


def rows_of(name: str, path: Path, *, judged: bool) -> Iterator[list[str]]:
    """Yield a row for each input of a model; none where it cannot be loaded."""
    try:
        loaded = load_model(path, simplify=False, verify=False)
    except ZsqError as error:
        print(f"{name}: {error}")
        return
    for spec in loaded.inputs:
        known = _OTHERS.get(name, {}).get(spec.name, "picture")
        verdict = "-" if not judged else "right" if known == spec.kind else f"WRONG: {known}"
        sizes = "x".join("?" if size is None else str(size) for size in spec.shape)
        yield [name, spec.name, f"{spec.dtype} {sizes}", spec.kind, verdict, spec.reason]


def main() -> None:
    """Look at all models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    cases = Path(os.environ.get("ZSQ_CASES", ROOT / "../shared/cases/graphs"))
    parser.add_argument("--cases", type=Path, default=cases)
    parser.add_argument("--more", type=Path, nargs="*", default=())
    options = parser.parse_args()
    rows = []
    for folder in (options.assets / "models", options.cases):
        for name, path in files(folder):
            rows += rows_of(name, path, judged=True)
    for folder in options.more:
        for name, path in files(folder):
            rows += rows_of(name, path, judged=False)
    right, wrong = sum(row[4] == "right" for row in rows), sum(row[4].startswith("WRONG") for row in rows)
    header = ["model", "input", "type and shape", "kind", "verdict", "reason"]
    body = f"{right} of {right + wrong} inputs of known kind are told right.\n\n{table(header, rows)}"
    write_result("kinds", "What inputs take", body)


if __name__ == "__main__":
    main()
