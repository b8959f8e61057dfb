"""Peak memory of compilations, against its limit: 1.5 GB and four times the float model.

Models with known troubles, at each effort and number of bits asked for; ``--large`` adds stacks of layers that are
built here: 400 MB in one file, and 2.2 GB with external data (minutes to an hour, and 12 GB of memory).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from harness import Rows, Setting, compiled, last_words, open_rows, table, write_result
from onnx import TensorProto, helper
from wild2 import MEMORY_MB, MEMORY_TIMES
from zoo import add_common_options, chosen

from zsq_compile.files import file_bytes

MODELS = {
    "crepe_tiny": "wild2/crepe_tiny.onnx",
    "ppocrv4_rec": "wild2/ppocrv4_rec.onnx",
    "ppocrv4_det": "wild2/ppocrv4_det.onnx",
    "ppocr_cls": "wild2/ppocr_cls.onnx",
    "centerface320": "wild2/centerface320.onnx",
    "yunet_n": "wild2/yunet_n.onnx",
    "deeplab": "wild/deeplab_mnv2_dm05_513.onnx",
    "mobilenetv1_075_bn": "imagenet/mobilenetv1_075_bn.onnx",
}
LARGE = {"stack_400mb": (6, 4096), "stack_2200mb": (33, 4096)}
"""Layers, and numbers that each reads and makes."""
_LIMIT_MB = 3072  # of the stack of 400 MB
_SAVED_APART = 1 << 30  # bytes from which on weights go into a file of their own


def build_stack(path: Path, layers: int, width: int) -> Path:
    """Write a residual stack of Gemm, MatMul and 1x1 Conv layers with Relu, ``width`` squared numbers each."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for index in range(layers):
        kind = ("Gemm", "MatMul", "Conv")[index % 3]
        shape = (width, width, 1, 1) if kind == "Conv" else (width, width)
        array = rng.standard_normal(shape, np.float32) * np.float32(1.4 / width**0.5)
        weights.append(onnx.numpy_helper.from_array(array, f"w{index}"))
        made = f"m{index}"
        if kind == "Conv":
            nodes.append(helper.make_node("Unsqueeze", [value, "axes"], [f"u{index}"]))
            nodes.append(helper.make_node("Conv", [f"u{index}", f"w{index}"], [f"c{index}"], f"conv{index}"))
            nodes.append(helper.make_node("Flatten", [f"c{index}"], [made]))
        else:
            nodes.append(helper.make_node(kind, [value, f"w{index}"], [made], f"{kind.lower()}{index}"))
        nodes.append(helper.make_node("Relu", [made], [f"r{index}"]))
        value = f"r{index}"
    nodes[-1].output[0] = "y"
    weights.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    one, other = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "stack", [one], [other], weights), opset_imports=[helper.make_opsetid("", 21)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    apart = 4 * layers * width**2 > _SAVED_APART
    onnx.save(model, path, save_as_external_data=apart, location=f"{path.name}.data", size_threshold=1024)
    return path


def line(key: str, path: Path, setting: Setting, effort: str, rows: Rows, options: argparse.Namespace) -> list[str]:
    """Compile once, and say what it took."""
    row = compiled(path, setting, rows, options)
    assert row is not None
    size = file_bytes(path) / 2**20
    limit = _LIMIT_MB if key == "stack_400mb" else MEMORY_MB + MEMORY_TIMES * size
    good = row["exit_code"] in (0, 4) and row["peak_mb"] <= limit
    verdict = "within" if good else "**OVER**" if row["exit_code"] in (0, 4) else f"**NOT**: {last_words(row)}"
    quality = (row["report"].get("validation") or {}).get("sqnr_db")
    figures = [f"{size:.1f}", f"{row['peak_mb']:.0f}", f"{limit:.0f}", verdict]
    return [key, effort, str(setting.bits), *figures, f"{row['cpu_seconds']:.0f}", f"{quality or 0:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument("--efforts", nargs="*", default=["fast"], choices=["fast", "balanced", "best"])
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4])
    parser.add_argument("--large", nargs="*", default=[], choices=list(LARGE), help="stacks to build and compile too")
    options = parser.parse_args()
    rows, given, lines = open_rows(options), options.compile_args, []
    models = {key: (options.assets / "models" / MODELS[key], "") for key in _keys(options)}
    models |= {
        key: (build_stack(options.work / key / f"{key}.onnx", *LARGE[key]), "--samples 32") for key in options.large
    }
    for key, (path, words) in models.items():
        for effort in options.efforts:
            for bits in options.bits:
                options.compile_args = f"--effort {effort} --no-speed-trials {words} {given}".strip()
                lines.append(line(key, path, Setting(bits=bits), effort, rows, options))
                print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    head = ["model", "effort", "bits", "float MB", "peak MB", "limit MB", "verdict", "CPU seconds", "SQNR said, dB"]
    body = (
        f"Largest resident set of `zsq-compile MODEL --no-speed-trials`. The limit is {MEMORY_MB} MB and "
        f"{MEMORY_TIMES} times the float model, and {_LIMIT_MB} MB for the stack of 400 MB.\n\n" + table(head, lines)
    )
    if absent := [key for key in (*MODELS, *LARGE) if key not in models]:
        body += f"\n\nNot run: {', '.join(absent)}."
    write_result("peak_memory", "Peak memory", body)


def _keys(options: argparse.Namespace) -> list[str]:
    return [] if options.models == [] else list(chosen(options.models, tuple(MODELS)))


if __name__ == "__main__":
    main()
