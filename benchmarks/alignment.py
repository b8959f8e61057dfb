"""Small networks with and without channels of zeros: what the rule of ``[alignment]`` rests on."""

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import onnx.parser
import onnx_ir as ir
from harness import table, write_result
from onnx_ir.passes import common

from backends.catalog import load_target
from backends.target import Alignment
from passes.emit.align_channels import AlignChannels
from passes.plan import Scale
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from zsq_compile.verification.latency import measure_latency

RULES = {
    "picture": Alignment(inputs=4),
    "input channels": Alignment(inputs=4),
    "depthwise": Alignment(depthwise=16),
    "output channels": Alignment(outputs=16),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of two convolutions, with a depthwise one between them for the rule that concerns those."""

    rule: str
    side: int
    inputs: int
    channels: int


CASES = [
    *(Case(rule="picture", side=side, inputs=count, channels=16) for count in (3, 1) for side in (16, 32, 64, 112)),
    *(Case(rule="input channels", side=side, inputs=4, channels=count) for count in (10, 30) for side in (8, 32, 64)),
    *(Case(rule="depthwise", side=side, inputs=4, channels=count) for count in (8, 24, 40, 72) for side in (8, 32, 64)),
    *(Case(rule="output channels", side=side, inputs=4, channels=count) for count in (12, 14) for side in (8, 32, 64)),
]


def float_model(case: Case, rng: np.random.Generator) -> ir.Model:
    deep = case.rule == "depthwise"
    middle = f"d = Conv<pads=[1,1,1,1], group={case.channels}>(r0, w1, b1) r1 = Relu(d)" if deep else "r1 = Relu(r0)"
    shapes = {
        "w0": (case.channels, case.inputs, 3, 3),
        "b0": (case.channels,),
        "w1": (case.channels, 1, 3, 3),
        "b1": (case.channels,),
        "w2": (32, case.channels, 3, 3),
        "b2": (32,),
    }
    given = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    text = f"""
        <ir_version: 10, opset_import: ["" : 21]>
        net (float[1,{case.inputs},{case.side},{case.side}] x) => (float[1,32,1,1] y) <{given}>
        {{ c = Conv<pads=[1,1,1,1]>(x, w0, b0) r0 = Relu(c) {middle}
           l = Conv<pads=[1,1,1,1]>(r1, w2, b2) r2 = Relu(l) y = GlobalAveragePool(r2) }}
    """
    proto = onnx.parser.parse_model(text)
    for place, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{place}"
    used = {name for node in proto.graph.node for name in node.input}
    del proto.graph.initializer[:]
    for name in sorted(used & set(shapes)):
        array = rng.standard_normal(shapes[name], np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return common.ShapeInferencePass()(ir.from_proto(proto)).model


def quantized(model: ir.Model) -> ir.Model:
    """Quantize with scales that hold any number that comes up; which they are does not matter for the time."""
    plan = place_quantizers(model, load_target("ort_cpu"))
    step = Scale(scale=np.asarray(0.1, np.float32), zero_point=np.asarray(0, np.int32))
    weights = {}
    for site in plan.weights:
        array = model.graph.initializers[site.initializer].const_value
        assert array is not None
        steps = np.abs(array.numpy()).max((1, 2, 3)) / 127.0
        weights[site.initializer] = Scale(scale=steps.astype(np.float32), zero_point=np.zeros(steps.shape, np.int32))
    plan = plan.with_scales(activations={site.group: step for site in plan.activations}, weights=weights)
    copy = model.clone()
    InsertQdq(plan)(copy)
    return copy


def line(case: Case, options: argparse.Namespace) -> list[str]:
    rng = np.random.default_rng(0)
    plain = quantized(float_model(case, rng))
    wider = plain.clone()
    if not AlignChannels(RULES[case.rule])(wider).modified:
        raise SystemExit(f"nothing was widened in {case}")
    feeds = {"x": rng.random((1, case.inputs, case.side, case.side), np.float32)}
    models = {name: ir.to_proto(model) for name, model in (("plain", plain), ("wider", wider))}
    cells = []
    for threads in (1, 2):
        times = measure_latency(models, feeds, threads=threads, seconds=options.seconds)
        ratio = times["wider"].median_ms / times["plain"].median_ms
        cells += [f"{times['plain'].median_ms * 1000:.0f}", f"{ratio:.2f}"]
    return [case.rule, f"{case.side}x{case.side}", f"{case.inputs} -> {case.channels} -> 32", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for one network and number of threads")
    options = parser.parse_args()
    lines = []
    for case in CASES:
        print(f"{case} ...", file=sys.stderr, flush=True)
        lines.append(line(case, options))
    header = ["rule", "picture", "channels", "1 thread, us", "wider", "2 threads, us", "wider"]
    body = (
        "A 3x3 convolution, for `depthwise` another with a group for each channel, a 3x3 convolution to 32 channels, "
        "in integers. Channels: of the\npicture, of what is between, at the end. `picture` and `input channels` are "
        "widened to a multiple of 4, `depthwise` to one of 16, `output channels`\nto 16. `wider`: the time with "
        "channels of zeros over that without, ratio of the medians, both in turns.\n\n" + table(header, lines)
    )
    write_result("alignment", "Numbers of channels", body)


if __name__ == "__main__":
    main()
