"""One matrix product with 4-bit weights in its forms, by size and rows: what the rule of ``[blockwise]`` rests on."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from harness import table, write_result
from numpy.typing import NDArray

from backends.catalog import load_target
from backends.session import Session, open_session
from backends.target import Blockwise
from passes.emit.emit import emit
from passes.plan import Scale
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from zsq_compile.verification.latency import Turns

SIZES = ["256x256", "512x512", "512x1024", "768x1000", "1024x1024", "768x3072", "2048x1000", "4096x1000"]
SIZES += ["4096x4096", "9216x4096"]
ROWS = [1, 2, 4, 8, 32, 196]
BLOCKS = [32, 128, 256]
NEVER = Blockwise()
LEVEL = "session.qdq_matmulnbits_accuracy_level"
LEAST_ROUNDS, RUNS = 7, 5


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to write a product, and the options that its session is given."""

    name: str
    model: onnx.ModelProto
    config: Mapping[str, str]
    kernel: str


def float_model(inner: int, columns: int, rows: int, rng: np.random.Generator) -> ir.Model:
    """Make a Gemm with a bias: (rows, inner) -> (rows, columns)."""
    weight = rng.standard_normal((inner, columns), np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product")],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [rows, inner])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [rows, columns])],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(rng.standard_normal(columns, np.float32), "b"),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))


def emitted(model: ir.Model, rule: Blockwise) -> onnx.ModelProto:
    """Write a product with 4-bit weights and 8-bit data as the compiler does."""
    target = replace(load_target("ort_cpu"), blockwise=rule)
    plan = place_quantizers(model, target, bits=4, edge_bits=4)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    steps = np.abs(weight.numpy()).max(0) / 7.0
    plan = plan.with_scales(
        activations={"x": Scale(scale=np.asarray(0.035, np.float32), zero_point=np.asarray(128, np.int32))},
        weights={"w": Scale(scale=steps.astype(np.float32), zero_point=np.zeros(steps.shape, np.int32))},
    )
    copy = model.clone()
    InsertQdq(plan)(copy)
    emit(copy, plan, target)
    return ir.to_proto(copy)


def forms(inner: int, columns: int, rows: int) -> list[Form]:
    """Make all forms of one product, the float one and the one for integer kernels first."""
    model = float_model(inner, columns, rows, np.random.default_rng(0))
    written = {"float": ir.to_proto(model), "integers": emitted(model, NEVER)}
    written |= {f"blocks of {size}": emitted(model, Blockwise(block_size=size, most_rows=rows)) for size in BLOCKS}
    made = [Form(name=name, model=one, config={}, kernel=kernel(one)) for name, one in written.items()]
    exact = made[-1]
    return [*made, replace(exact, name=f"{exact.name}, float data", config={LEVEL: "1"})]


def kernel(model: onnx.ModelProto) -> str:
    """Name the operator that multiplies, in the graph as the runtime rewrote it."""
    with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, optimized_path=path)
        found = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    return next(name for name in ("MatMulNBits", "QGemm", "Gemm") if found[name])


def timed(made: list[Form], feeds: Mapping[str, NDArray[np.float32]], options: argparse.Namespace) -> dict[str, Turns]:
    """Time all forms in turns, each turn after a run that is not counted."""
    sessions = {form.name: open_session(form.model, threads=options.threads, config=form.config) for form in made}
    times: dict[str, list[list[float]]] = {name: [] for name in sessions}
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds or len(times["float"]) < LEAST_ROUNDS:
        for name, session in sessions.items():
            session.run(feeds)
            times[name].append([once(session, feeds) for _ in range(RUNS)])
    return {name: Turns(milliseconds=np.array(values)) for name, values in times.items()}


def once(session: Session, feeds: Mapping[str, NDArray[np.float32]]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return 1000.0 * (time.perf_counter() - start)


def line(size: str, rows: int, options: argparse.Namespace) -> list[str]:
    """Compare the forms of one product: ratios of the medians, in brackets those of the fastest runs."""
    inner, columns = map(int, size.split("x"))
    made = forms(inner, columns, rows)
    feeds = {"x": np.random.default_rng(1).standard_normal((rows, inner), np.float32)}
    times = timed(made, feeds, options)
    reference = times["integers"].milliseconds
    cells = [size, f"{inner * columns / 1e6:.2f}", str(rows), f"{np.median(reference):.3f} ({reference.min():.3f})"]
    for form in made:
        if form.name != "integers":
            own = times[form.name].milliseconds
            cells.append(f"{np.median(reference) / np.median(own):.2f} ({reference.min() / own.min():.2f})")
    return [*cells, ", ".join(dict.fromkeys(form.kernel for form in made))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=SIZES, help="inner size x columns")
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for the forms of one product")
    parser.add_argument("--threads", type=int, help="threads inside an operator; default: the runtime's choice")
    options = parser.parse_args()
    lines = []
    for rows in options.rows:
        for size in options.sizes:
            print(f"{size}, {rows} rows ...", file=sys.stderr, flush=True)
            lines.append(line(size, rows, options))
    blocks = [f"blocks of {size}" for size in BLOCKS]
    header = [
        "size",
        "million weights",
        "rows",
        "integers, ms",
        "float",
        *blocks,
        f"{blocks[-1]}, float data",
        "kernels",
    ]
    body = (
        "A Gemm of float data with a bias, 4-bit weights with a scale for each column. `integers`: INT4 behind a Cast, "
        "data in uint8, median and fastest run. The others: how many times as fast as that, ratio of the medians, in "
        "brackets that of the fastest runs. Blocks: the form of `[blockwise]`, on the runtime's default options, with "
        "which its kernel rounds the data to int8 block by block; `float data` is the same file with "
        f"`{LEVEL}` = 1. All forms of a line in turns, {RUNS} runs a turn. Kernels as read back from the optimised "
        "graph.\n\n" + table(header, lines)
    )
    write_result("matmul", "Matrix products with 4-bit weights", body)


if __name__ == "__main__":
    main()
