"""One layer with int8 and with uint8 weights of the same numbers, on this processor: time, and outputs that are wrong.

What ``unsigned_weights`` of the target ort_cpu_avx2 rests on. Without VNNI, sums of int8 products saturate.

    PYTHONPATH=. python benchmarks/unsigned_weights.py [--rounds 15]
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import onnx
from harness import table, write_result
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from backends.session import Session, open_session

_MIDDLE = 128
_SECONDS = 0.02  # of runs between two readings of the clock


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer: a convolution of square kernels, or a product of ``rows`` rows where ``taps`` is 0."""

    words: str
    inputs: int
    outputs: int
    taps: int = 0
    side: int = 0
    group: int = 1
    rows: int = 1


CASES = (
    Case(words="Conv 3x3", inputs=3, outputs=16, taps=3, side=160),
    Case(words="Conv 3x3", inputs=16, outputs=32, taps=3, side=80),
    Case(words="Conv 3x3", inputs=64, outputs=64, taps=3, side=40),
    Case(words="Conv 3x3", inputs=128, outputs=128, taps=3, side=20),
    Case(words="Conv 3x3, 4 groups", inputs=64, outputs=64, taps=3, side=40, group=4),
    Case(words="Conv 1x1", inputs=24, outputs=24, taps=1, side=80),
    Case(words="Conv 1x1", inputs=64, outputs=128, taps=1, side=40),
    Case(words="Conv 1x1", inputs=256, outputs=256, taps=1, side=20),
    Case(words="Conv 3x3 depthwise", inputs=64, outputs=64, taps=3, side=40, group=64),
    Case(words="Conv 5x5 depthwise", inputs=240, outputs=240, taps=5, side=20, group=240),
    Case(words="MatMul, 1 row", inputs=512, outputs=1000),
    Case(words="MatMul, 40 rows", inputs=120, outputs=480, rows=40),
    Case(words="MatMul, 40 rows", inputs=512, outputs=512, rows=40),
)


def model(case: Case, weights: NDArray[np.float32], form: str) -> tuple[bytes, list[int]]:
    """Write a layer in float, or between quantizers with weights of a type; return the file and the input's shape."""
    shape = [1, case.inputs, case.side, case.side] if case.taps else [case.rows, case.inputs]
    constants, nodes, names = [], [], ["x", "w"]

    def add(name: str, array: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    if form == "float":
        add("w", weights)
    else:
        axis = 0 if case.taps else 1
        steps = np.abs(weights).max(tuple(i for i in range(weights.ndim) if i != axis)).astype(np.float32) / 127
        codes = np.rint(weights / steps.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])).astype(np.int16)
        moved = (codes + _MIDDLE).astype(np.uint8) if form == "uint8" else codes.astype(np.int8)
        zeros = np.full(steps.shape, _MIDDLE if form == "uint8" else 0, moved.dtype)
        weight = [add("w", moved), add("ws", steps), add("wz", zeros)]
        data = [add("xs", np.float32(0.02)), add("xz", np.uint8(128))]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", *data], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", *data], ["xd"]),
            helper.make_node("DequantizeLinear", weight, ["wd"], axis=axis),
        ]
        names = ["xd", "wd"]
    if case.taps:
        sizes = {"kernel_shape": [case.taps] * 2, "pads": [case.taps // 2] * 4}
        nodes.append(helper.make_node("Conv", names, ["y"], group=case.group, **sizes))
    else:
        nodes.append(helper.make_node("MatMul", names, ["y"]))
    if form != "float":
        made = [add("ys", np.float32(6.0 * np.sqrt(case.inputs * max(case.taps, 1) ** 2 / case.group) / 128)), "xz"]
        nodes.append(helper.make_node("QuantizeLinear", ["y", *made], ["yq"]))
        nodes.append(helper.make_node("DequantizeLinear", ["yq", *made], ["z"]))
    output = "y" if form == "float" else "z"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (output,)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "layer", inputs, value, constants)
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return made_model.SerializeToString(), shape


def clock(session: Session, feeds: dict[str, NDArray[np.float32]], runs: int) -> float:
    """Milliseconds of a run, on the clock of this thread, which others on the machine do not disturb."""
    start = time.thread_time()
    for _ in range(runs):
        session.run(feeds)
    return 1000.0 * (time.thread_time() - start) / runs


def measure(case: Case, rounds: int, rng: np.random.Generator) -> list[str]:
    """Time the three forms in turns, the least of all rounds each, and compare outputs with exact sums."""
    size = (case.outputs, case.inputs // case.group, case.taps, case.taps) if case.taps else (case.inputs, case.outputs)
    weights = rng.standard_normal(size).astype(np.float32)
    files = {form: model(case, weights, form) for form in ("float", "int8", "uint8")}
    feeds = {"x": rng.standard_normal(files["float"][1]).astype(np.float32)}
    sessions = {form: open_session(onnx.load_from_string(file), threads=1) for form, (file, _) in files.items()}
    plain = open_session(onnx.load_from_string(files["int8"][0]), threads=1, optimize="none").run(feeds)["z"]
    span = float(np.abs(plain).max())
    wrong = [float((np.abs(sessions[form].run(feeds)["z"] - plain) > 0.02 * span).mean()) for form in ("int8", "uint8")]
    runs = max(3, int(1000.0 * _SECONDS / clock(sessions["int8"], feeds, 3)))
    least = dict.fromkeys(sessions, float("inf"))
    for _ in range(rounds):
        for form, session in sessions.items():
            least[form] = min(least[form], clock(session, feeds, runs))
    place = f", {case.side}x{case.side}" if case.taps else ""
    return [
        f"{case.words}, {case.inputs} to {case.outputs}{place}",
        *(f"{least[form]:.3f}" for form in ("float", "int8", "uint8")),
        f"{least['uint8'] / least['int8']:.2f}",
        *(f"{100 * share:.1f} %" for share in wrong),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="times that each form is timed")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    header = ["layer", "float, ms", "int8, ms", "uint8, ms", "uint8 of int8", "wrong, int8", "wrong, uint8"]
    body = (
        "Weights and data are normal numbers, weights at 8 bits, one thread on its own clock, quantizers of the data "
        f"included, least of {options.rounds} rounds in turns. Wrong: outputs more than 2 % of the largest away "
        "from exact sums.\n\n" + table(header, [measure(case, options.rounds, rng) for case in CASES])
    )
    write_result("unsigned_weights", "Weights as uint8", body)


if __name__ == "__main__":
    main()
