"""What a batch that the file fixes costs: processor seconds of the same network compiled with an open one, in turns."""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import onnx
from harness import parsed_json, table, watched, write_result
from zoo import ROOT

MOST = 1.3  # times the processor seconds of the open batch


def with_batch(model: Path, batch: int, folder: Path) -> Path:
    """Write the model with its batch fixed."""
    proto = onnx.load(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    path = folder / f"batch{batch}.onnx"
    onnx.save(proto, path)
    return path


def seconds(model: Path, words: list[str], folder: Path) -> tuple[float, str]:
    """Compile once; return processor seconds, and the worst output's SQNR as the report has it."""
    logs = folder / "out", folder / "err"
    call = [sys.executable, "-m", "zsq_compile", str(model), "-o", str(folder / "q.onnx"), "--json", *words]
    row = watched(call, ROOT, logs)
    if row["exit_code"]:
        sys.exit(logs[1].read_text())
    ratio = parsed_json(logs[0].read_text())["validation"]["sqnr_db"]
    return row["cpu_seconds"], f"{ratio:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "digits.onnx", help="with an open batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--effort", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    lines = []
    for effort in options.effort:
        for bits in options.bits:
            words = ["--bits", str(bits), "--effort", effort, "--no-speed-trials"]
            found: dict[str, list[tuple[float, str]]] = {}
            with tempfile.TemporaryDirectory(prefix="zsq_fixed_") as scratch:
                folder = Path(scratch)
                fixed = {str(batch): with_batch(options.model, batch, folder) for batch in options.batches}
                for _ in range(options.rounds):
                    for name, path in {"open": options.model, **fixed}.items():
                        found.setdefault(name, []).append(seconds(path, words, folder))
            middle = {name: statistics.median(one for one, _ in runs) for name, runs in found.items()}
            for name, runs in found.items():
                times = middle[name] / middle["open"]
                verdict = "" if name == "open" else "yes" if times <= MOST else "**NO**"
                lines.append([effort, str(bits), name, f"{middle[name]:.1f}", f"{times:.2f}", verdict, runs[0][1]])
            print(lines[-len(found) :], file=sys.stderr, flush=True)
    header = ["effort", "bits", "batch", "CPU seconds", "of the open batch", f"at most {MOST}", "SQNR, dB"]
    body = f"`{options.model.name}` `--no-speed-trials`, medians of {options.rounds} turns.\n\n" + table(header, lines)
    write_result("fixed_batch", "A batch that the file fixes", body)


if __name__ == "__main__":
    main()
