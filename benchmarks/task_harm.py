"""What tells which value of a network must stay float: ``harm`` on synthetic samples, or noise in dB.

Values of a network are rounded alone, to few levels, and in random sets, to more. For each such network: what its user
would lose on real inputs (judge.py beside the models), and on synthetic samples, of which the placement knows no more
than that, the harm that the task's comparison sees and the noise of the outputs. A measure is worth what its ranks have
in common with those of the real loss (Spearman): 1 orders all networks rightly.
"""

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import onnxsim
from harness import open_rows, table, write_result
from onnx import TensorProto, helper, numpy_helper, version_converter
from zoo import add_common_options, chosen

from zsq_compile.tasks.compare_outputs import compare_outputs
from zsq_compile.tasks.find_task import find_task

KEYS = ("yunet_n", "silero_vad_16k_sequence", "ppocrv4_rec", "ppocrv4_det", "centerface320")
SHAPES = {"yunet_n": "input:?x3x320x320", "ppocrv4_rec": "x:?x3x48x320", "ppocrv4_det": "x:?x3x320x320"}
_LEAST_OPSET = 13
_LEAST_SIZE = 32  # elements of a value that is worth quantizing
_SET_LEVELS = (31, 63, 127, 255)

Outputs = dict[str, np.ndarray]
Feeds = Mapping[str, np.ndarray]


def judge_of(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("judge_of_models", folder / "judge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def simplified(file: Path, feeds: Feeds) -> onnx.ModelProto:
    model = onnx.load(file)
    held = {one.name for one in model.graph.initializer}
    for one in [one for one in model.graph.input if one.name in held]:
        model.graph.input.remove(one)
    if model.opset_import[0].version < _LEAST_OPSET:
        model = version_converter.convert_version(model, _LEAST_OPSET)
    fixed = file.stem in SHAPES  # others take single samples as they are, and sequences of any length
    shapes = {name: list(array.shape) for name, array in feeds.items()} if fixed else None
    model, _ = onnxsim.simplify(model, overwrite_input_shapes=shapes)
    return onnx.shape_inference.infer_shapes(model)


def ranges(model: onnx.ModelProto, parts: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """Least and largest number of each float value that is no output."""
    outputs = {one.name for one in model.graph.output}
    kinds = {one.name: one.type.tensor_type.elem_type for one in model.graph.value_info}
    made = [name for node in model.graph.node for name in node.output]
    names = [name for name in made if kinds.get(name) == TensorProto.FLOAT and name not in outputs]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    opened, found = session(watched), {}
    for feeds in parts:
        for name, values in zip(names, opened.run(None, dict(feeds)), strict=True):
            if values.size >= _LEAST_SIZE:
                low, high = found.get(name, (0.0, 0.0))
                found[name] = min(low, float(values.min())), max(high, float(values.max()))
    return {name: ends for name, ends in found.items() if ends[1] > ends[0]}


def rounded(model: onnx.ModelProto, levels: Mapping[str, tuple[int, float, float]]) -> onnxruntime.InferenceSession:
    """Open a network with some values rounded to so many levels between two numbers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph, nodes = changed.graph, []
    for node in changed.graph.node:
        node.input[:] = [f"{name}/rounded" if name in levels else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name in levels:
                count, low, high = levels[name]
                numbers = {"low": low, "high": high, "step": (high - low) / count}
                graph.initializer.extend(
                    numpy_helper.from_array(np.float32(value), f"{name}/{word}") for word, value in numbers.items()
                )
                cut, steps, whole = (f"{name}/{word}" for word in ("cut", "steps", "whole"))
                nodes += [
                    helper.make_node("Clip", [name, f"{name}/low", f"{name}/high"], [cut]),
                    helper.make_node("Div", [cut, f"{name}/step"], [steps]),
                    helper.make_node("Round", [steps], [whole]),
                    helper.make_node("Mul", [whole, f"{name}/step"], [f"{name}/rounded"]),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    return session(changed)


def ran(opened: onnxruntime.InferenceSession, parts: Sequence[Feeds]) -> list[Outputs]:
    names = [one.name for one in opened.get_outputs()]
    return [dict(zip(names, opened.run(None, dict(feeds)), strict=True)) for feeds in parts]


def together(parts: Sequence[Outputs]) -> Outputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ranks(values: Sequence[float]) -> np.ndarray:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def in_common(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation, with equal values in the middle of their ranks."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def synthetic(key: str, file: Path, like: Feeds, options: argparse.Namespace) -> list[Outputs]:
    place = options.work / f"{key}.samples.npz"
    if not place.is_file() or options.fresh:
        shape = ["--input-shape", SHAPES[key]] if key in SHAPES else []
        call = [sys.executable, "-m", "zsq_compile", "synth", str(file), "--effort", "fast", *shape]
        subprocess.run([*call, "--samples", str(options.samples), "-o", str(place)], check=True, capture_output=True)
    arrays = np.load(place)
    count = min(options.samples, len(arrays[arrays.files[0]]))
    parts = [{name: arrays[name][index : index + 1] for name in like} for index in range(count)]
    return [{name: array.reshape(-1, *like[name].shape[1:]) for name, array in part.items()} for part in parts]


def trials(names: Sequence[str], options: argparse.Namespace) -> list[tuple[str, dict[str, int]]]:
    rng = np.random.default_rng(0)
    alone = list(names) if len(names) <= options.alone else list(rng.choice(names, options.alone, replace=False))
    found: list[tuple[str, dict[str, int]]] = [("alone", {name: options.levels}) for name in alone]
    for _ in range(options.sets):
        share, levels = rng.choice((0.1, 0.3, 0.6)), int(rng.choice(_SET_LEVELS))
        found.append(("set", {name: levels for name in names if rng.random() < share}))
    return [(kind, own) for kind, own in found if own]


def measured(key: str, folder: Path, options: argparse.Namespace) -> list[list[str]]:
    judge = judge_of(folder)
    real = judge.feeds(key, "eval")[: options.judged]
    samples = synthetic(key, folder / f"{key}.onnx", real[0], options)
    model = simplified(folder / f"{key}.onnx", real[0])
    ends = ranges(model, [*judge.feeds(key, "calib")[:8], *samples[:4]])
    plain = session(model)
    wanted, drawn = ran(plain, real), together(ran(plain, samples))
    task = find_task(ir.from_proto(model), drawn)
    found: dict[str, dict[str, list[float]]] = {}
    for kind, levels in trials(list(ends), options):
        opened = rounded(model, {name: (count, *ends[name]) for name, count in levels.items()})
        share, _ = judge.JUDGES[key][1](wanted, ran(opened, real))
        got = together(ran(opened, samples))
        quality = compare_outputs(task, drawn, got)
        noise = [noise_ratio(drawn[name], got[name]) for name in drawn]
        row = {
            "loss": 1.0 - share,
            "harm": quality.harm,
            "1 - kept": 1.0 - (1.0 if quality.kept is None else quality.kept),
            "mean noise": float(np.mean(noise)),
            "most noise": float(np.max(noise)),
        }
        for name, value in row.items():
            found.setdefault(kind, {}).setdefault(name, []).append(value)
    return [
        [key, task.kind, kind, str(len(own["loss"])), f"{np.median(own['loss']):.1%}"]
        + [f"{in_common(own[name], own['loss']):.2f}" for name in ("harm", "1 - kept", "mean noise", "most noise")]
        for kind, own in found.items()
        if np.ptp(own["loss"]) > 0.0
    ]


def noise_ratio(wanted: np.ndarray, got: np.ndarray) -> float:
    power = float(np.sum(np.square(wanted, dtype=np.float64)))
    return float(np.sum(np.square(wanted.astype(np.float64) - got))) / max(power, 1e-30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument("--samples", type=int, default=16, help="synthetic samples")
    parser.add_argument("--judged", type=int, default=24, help="real inputs")
    parser.add_argument("--alone", type=int, default=45, help="values that are rounded alone, at most")
    parser.add_argument("--sets", type=int, default=30, help="random sets of values")
    parser.add_argument("--levels", type=int, default=31, help="of values alone")
    options = parser.parse_args()
    open_rows(options)
    lines: list[list[Any]] = []
    for key in chosen(options.models, KEYS):
        print(f"{key} ...", file=sys.stderr, flush=True)
        lines += measured(key, options.assets / "models" / "wild2", options)
    heads = ("network", "task", "rounded", "trials", "median loss", "harm", "1 - kept", "mean noise", "most noise")
    write_result("task_harm", "What tells which values must stay float", table(heads, lines))


if __name__ == "__main__":
    main()
