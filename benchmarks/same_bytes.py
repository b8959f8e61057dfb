"""Do the compiled files have the same bytes as those of another commit? For changes that must not change behaviour.

    python benchmarks/same_bytes.py --save before.json            # on the commit to compare with
    python benchmarks/same_bytes.py --against before.json         # on the commit to check

Every setting is one call of the command line; what is kept is the SHA-256 of the file, or the exit code where the model
is refused. Files are only compared on one machine: another processor may round otherwise.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = (
    "cifar10/resnet20_bn.onnx",
    "cifar10/resnet8_cifar10_folded.onnx",
    "wild/mnist_cntk.onnx",
    "wild/pfld_landmark.onnx",
)
FAST = ("--effort", "fast")
SETTINGS = {
    "W8A8": FAST,
    "W4A8": ("--bits", "4", *FAST),
    "mixed": ("--bits", "4", "--mixed", "--max-size", "0.12", *FAST),
    "zs-cgan": ("--bits", "4", "--generator", "zs-cgan", *FAST),
    "openvino": ("--target", "openvino", *FAST),
    "tensorrt": ("--target", "tensorrt", *FAST),
}
# Learning and distillation, on the small example only: they take minutes elsewhere.
LEARNED = {
    "W4A8 balanced": ("--bits", "4"),
    "W4A4 distilled": ("--bits", "4", "--act-bits", "4", "--distill", "--edge-bits", "4"),
}


def compiled(source: Path, model: Path, settings: tuple[str, ...]) -> str:
    """Compile with the checkout at ``source``; return the file's SHA-256, or the exit code of a refusal."""
    with tempfile.TemporaryDirectory(prefix="zsq_same_") as folder:
        output = Path(folder) / "out.onnx"
        command = [sys.executable, "-m", "zsq_compile", str(model), "-o", str(output), "-q", "--no-speed-trials"]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        done = subprocess.run(
            [*command, *settings], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if not output.is_file():
            return f"exit {done.returncode}"
        return hashlib.sha256(output.read_bytes()).hexdigest()


def main() -> int:
    """Print one row per model and setting; exit code 1 where a file differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--assets", type=Path, default=Path(os.environ.get("ZSQ_ASSETS", ROOT.parent / "shared/assets"))
    )
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout whose code compiles")
    parser.add_argument("--only", help="models or settings whose row holds this text")
    parser.add_argument("--save", type=Path, help="JSON file to keep the hashes in")
    parser.add_argument("--against", type=Path, help="JSON file of another run to compare with")
    options = parser.parse_args()
    digits = ROOT / "examples/digits.onnx"
    tasks = [(digits, name, settings) for name, settings in {**SETTINGS, **LEARNED}.items()]
    tasks += [(options.assets / "models" / m, name, settings) for m in MODELS for name, settings in SETTINGS.items()]
    before = json.loads(options.against.read_text()) if options.against else {}
    found: dict[str, str] = {}
    for model, name, settings in tasks:
        row = f"{model.stem}, {name}"
        if options.only is None or options.only in row:
            found[row] = compiled(options.source, model, settings)
            verdict = "" if row not in before else "  same" if before[row] == found[row] else "  DIFFERS"
            print(f"{row:40} {found[row][:16]}{verdict}", flush=True)
            if options.save:
                options.save.write_text(json.dumps(found, indent=1))
    differing = [row for row in found if row in before and before[row] != found[row]]
    if before:
        print(f"{len(found) - len(differing)} of {len(found)} are the same")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
