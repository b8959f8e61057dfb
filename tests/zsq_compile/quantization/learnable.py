"""Tiny networks of many shapes, quantized by closed forms and ready to be learned."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from backends.catalog import load_target
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests.quantizing import every_value, prepare
from tests.zsq_compile.quantization.networks import float_network, planned_state, silent_clock
from zsq_compile.config.compile import LearnedRounding, QuantizationConfig, Rounding
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Clock
from zsq_compile.quantization.closed_form import Calibrate, CorrectBiases, Round
from zsq_compile.quantization.reconstruction.block_student import BlockStudent, learnable_weights
from zsq_compile.quantization.reconstruction.blocks import Block, find_blocks
from zsq_compile.quantization.reconstruction.budget import BlockCost, LearningBudget, LearningConfig
from zsq_compile.quantization.reconstruction.values import QuantizedValues, prepare_learning
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, insert_quantizers

TARGET = load_target("ort_cpu")

CHAIN = """
    chain (float[N,3,8,8] x) => (float[N,5] y)
    <float[6,3,3,3] w0, float[6] b0, float[8,6,3,3] w1, float[8] b1, float[5,8] w2, float[5] b2>
    {
        [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [conv1] c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [pool] p = GlobalAveragePool(r1)
        [flatten] f = Flatten(p)
        [gemm] y = Gemm<transB=1>(f, w2, b2)
    }
    """
RESIDUAL = """
    residual (float[N,3,8,8] x) => (float[N,5] y)
    <float[6,3,3,3] w0, float[6] b0, float[8,6,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2,
     float[8,6,1,1] w3, float[8] b3, float[8,8,3,3] w4, float[8] b4, float[8,8,3,3] w5, float[8] b5,
     float[5,8] w6, float[5] b6>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [a1] c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [a2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
        [project] c3 = Conv<strides=[2,2]>(r0, w3, b3)
        [add0] a0 = Add(c2, c3)
        [relu2] r2 = Relu(a0)
        [b1] c4 = Conv<pads=[1,1,1,1]>(r2, w4, b4)
        [relu3] r3 = Relu(c4)
        [b2] c5 = Conv<pads=[1,1,1,1]>(r3, w5, b5)
        [add1] a1 = Add(c5, r2)
        [relu4] r4 = Relu(a1)
        [pool] p = GlobalAveragePool(r4)
        [flatten] f = Flatten(p)
        [gemm] y = Gemm<transB=1>(f, w6, b6)
    }
    """
INVERTED = """
    inverted (float[N,3,9,9] x) => (float[N,5] y)
    <float low = {0.0}, float high = {6.0},
     float[6,3,3,3] w0, float[6] b0, float[18,6,1,1] w1, float[18] b1, float[18,1,3,3] w2, float[18] b2,
     float[6,18,1,1] w3, float[6] b3, float[18,6,1,1] w4, float[18] b4, float[18,1,3,3] w5, float[18] b5,
     float[8,18,1,1] w6, float[8] b6, float[5,8] w7, float[5] b7>
    {
        [stem] c0 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
        [clip0] r0 = Clip(c0, low, high)
        [widen0] c1 = Conv(r0, w1, b1)
        [clip1] r1 = Clip(c1, low, high)
        [deep0] c2 = Conv<pads=[1,1,1,1], group=18>(r1, w2, b2)
        [clip2] r2 = Clip(c2, low, high)
        [narrow0] c3 = Conv(r2, w3, b3)
        [add] a = Add(c3, r0)
        [widen1] c4 = Conv(a, w4, b4)
        [clip3] r4 = Clip(c4, low, high)
        [deep1] c5 = Conv<pads=[1,1,1,1], strides=[2,2], group=18>(r4, w5, b5)
        [clip4] r5 = Clip(c5, low, high)
        [narrow1] c6 = Conv(r5, w6, b6)
        [pool] p = GlobalAveragePool(c6)
        [flatten] f = Flatten(p)
        [gemm] y = Gemm<transB=1>(f, w7, b7)
    }
    """
PYRAMID = """
    pyramid (float[N,3,8,8] x) => (float[N,4,8,8] fine, float[N,4,4,4] coarse)
    <float[4] scales = {1.0, 1.0, 2.0, 2.0},
     float[6,3,3,3] w0, float[6] b0, float[8,6,3,3] w1, float[8] b1, float[6,8,1,1] w2, float[6] b2,
     float[6,6,1,1] w3, float[6] b3, float[6,6,3,3] w4, float[6] b4, float[6,6,3,3] w5, float[6] b5,
     float[6,6,3,3] w6, float[6] b6, float[4,6,1,1] w7, float[4] b7, float[4,6,1,1] w8, float[4] b8>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [down] c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [side1] c2 = Conv(r1, w2, b2)
        [side0] c3 = Conv(r0, w3, b3)
        [up] u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(c2, , scales)
        [add] a = Add(c3, u)
        [coarse0] c4 = Conv<pads=[1,1,1,1]>(c2, w4, b4)
        [relu4] r4 = Relu(c4)
        [fine0] c5 = Conv<pads=[1,1,1,1]>(a, w5, b5)
        [relu5] r5 = Relu(c5)
        [coarse1] c6 = Conv<pads=[1,1,1,1]>(r4, w6, b6)
        [relu6] r6 = Relu(c6)
        [fine1] fine = Conv(r5, w7, b7)
        [coarse2] coarse = Conv(r6, w8, b8)
    }
    """
LONG_SKIP = """
    long (float[N,3,5,5] x) => (float[N,4,5,5] y)
    <float[4,3,3,3] w0, float[4] b0, float[4,4,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4] b2,
     float[4,4,3,3] w3, float[4] b3, float[4,4,3,3] w4, float[4] b4, float[4,4,3,3] w5, float[4] b5,
     float[4,4,3,3] w6, float[4] b6, float[4,4,3,3] w7, float[4] b7, float[4,4,1,1] w8, float[4] b8>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [tanh] t = Tanh(r0)
        [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
        [sub] s = Sub(c2, t)
        [conv3] c3 = Conv<pads=[1,1,1,1]>(s, w3, b3)
        [relu3] r3 = Relu(c3)
        [conv4] c4 = Conv<pads=[1,1,1,1]>(r3, w4, b4)
        [relu4] r4 = Relu(c4)
        [conv5] c5 = Conv<pads=[1,1,1,1]>(r4, w5, b5)
        [relu5] r5 = Relu(c5)
        [conv6] c6 = Conv<pads=[1,1,1,1]>(r5, w6, b6)
        [relu6] r6 = Relu(c6)
        [conv7] c7 = Conv<pads=[1,1,1,1]>(r6, w7, b7)
        [add] a = Add(c7, r1)
        [relu7] r7 = Relu(a)
        [last] y = Conv(r7, w8, b8)
    }
    """
CONCAT = """
    concat (float[N,2,8,8] x) => (float[N,4] y)
    <float[5,2,3,3] w0, float[5] b0, float[4,5,3,3] w1, float[4] b1, float[4,5,1,1] w2, float[4] b2,
     float[6,8,3,3] w3, float[6] b3, int64[2] shape = {0, -1}, float[96,4] w4, float[4] b4>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [left] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [right] c2 = Conv(r0, w2, b2)
        [relu2] r2 = Relu(c2)
        [concat] j = Concat<axis=1>(r1, r2)
        [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(j)
        [conv] c3 = Conv<pads=[1,1,1,1]>(p, w3, b3)
        [relu3] r3 = Relu(c3)
        [reshape] f = Reshape(r3, shape)
        [gemm] y = Gemm(f, w4, b4)
    }
    """
TWO_INPUTS = """
    two (float[N,3,6,6] x, float[N,7] z) => (float[N,4] y)
    <float[6,3,3,3] w0, float[6] b0, float[8,6,3,3] w1, float[8] b1, float[7,8] w2, float[8] b2,
     float[8,8] w3, float[8] b3, float[8,4] w4, float[4] b4>
    {
        [image0] c0 = Conv(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [image1] c1 = Conv(r0, w1, b1)
        [relu1] r1 = Relu(c1)
        [pool] p = GlobalAveragePool(r1)
        [flatten] f = Flatten(p)
        [vector] v = Gemm(z, w2, b2)
        [relu2] r2 = Relu(v)
        [add] a = Add(f, r2)
        [mix] m = Gemm(a, w3, b3)
        [relu3] r3 = Relu(m)
        [last] y = Gemm(r3, w4, b4)
    }
    """
ONE_LAYER = "one (float[N,6] x) => (float[N,3] y) <float[6,3] w, float[3] b> { [gemm] y = Gemm(x, w, b) }"
PADDED = """
    padded (float[N,3,6,6] x) => (float[N,4] y)
    <int64[8] pads = {0,0,1,1,0,0,1,1}, float[6,3,3,3] w0, float[6] b0, float[8,6,3,3] w1, float[8] b1,
     float[8,8,3,3] w2, float[8] b2, float[8,4] w3, float[4] b3>
    {
        [pad0] p0 = Pad(x, pads)
        [conv0] c0 = Conv(p0, w0, b0)
        [relu0] r0 = Relu(c0)
        [pad1] p1 = Pad(r0, pads)
        [conv1] c1 = Conv(p1, w1, b1)
        [relu1] r1 = Relu(c1)
        [pad2] p2 = Pad<mode="reflect">(r1, pads)
        [conv2] c2 = Conv(p2, w2, b2)
        [relu2] r2 = Relu(c2)
        [pool] p = GlobalAveragePool(r2)
        [flatten] f = Flatten(p)
        [gemm] y = Gemm(f, w3, b3)
    }
    """
SPLIT = """
    split (float[N,3,6,6] x) => (float[N,4] y)
    <float[8,3,3,3] w0, float[8] b0, float[6,4,1,1] w1, float[6] b1, float[6,4,3,3] w2, float[6] b2,
     float[6,4] w3, float[4] b3>
    {
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [split] s0, s1 = Split<axis=1, num_outputs=2>(r0)
        [left] c1 = Conv(s0, w1, b1)
        [right] c2 = Conv<pads=[1,1,1,1]>(s1, w2, b2)
        [add] a = Add(c1, c2)
        [relu1] r1 = Relu(a)
        [pool] p = GlobalAveragePool(r1)
        [flatten] f = Flatten(p)
        [gemm] y = Gemm(f, w3, b3)
    }
    """
TOKENS = """
    tokens (float[N,3,4,4] x) => (float[N,4,4,5] y)
    <float[6,3,1,1] w0, float[6] b0, int64[2] rows = {-1, 6}, float[6,8] w1, float[8] b1, float[8,6] w2, float[6] b2,
     int64[4] image = {-1, 4, 4, 6}, float[6,5] w3>
    {
        [stem] c0 = Conv(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [last] t0 = Transpose<perm=[0,2,3,1]>(r0)
        [rows] t1 = Reshape(t0, rows)
        [first] m0 = Gemm(t1, w1, b1)
        [relu1] r1 = Relu(m0)
        [second] m1 = Gemm(r1, w2, b2)
        [relu2] r2 = Relu(m1)
        [image] i0 = Reshape(r2, image)
        [matmul] y = MatMul(i0, w3)
    }
    """
EMBEDDED = """
    embedded (int64[N,4] ids, float[N,4,6] position) => (float[N,3] y)
    <float[10,6] table, float[6,8] w0, float[8,8] w1, float[8] b1, int64[1] middle = {1}, float[8,3] w2, float[3] b2>
    {
        [look] e = Gather<axis=0>(table, ids)
        [place] a = Add(e, position)
        [first] m0 = MatMul(a, w0)
        [relu0] r0 = Relu(m0)
        [second] m1 = MatMul(r0, w1)
        [shift] s = Add(m1, b1)
        [relu1] r1 = Relu(s)
        [mean] p = ReduceMean<keepdims=0>(r1, middle)
        [last] y = Gemm(p, w2, b2)
    }
    """
NETWORKS = {
    "embedded": EMBEDDED,
    "chain": CHAIN,
    "residual": RESIDUAL,
    "inverted": INVERTED,
    "pyramid": PYRAMID,
    "long skip": LONG_SKIP,
    "concat": CONCAT,
    "two inputs": TWO_INPUTS,
    "one layer": ONE_LAYER,
    "padded": PADDED,
    "split": SPLIT,
    "tokens": TOKENS,
}


def planned(proto: onnx.ModelProto, **options: Any) -> tuple[ir.Model, QuantizationPlan]:
    """Folded model and its plan without scales."""
    model = prepare(proto)
    return model, place_quantizers(model, TARGET, **options)


def find_batched_values(model: ir.Model) -> frozenset[str]:
    """Names of the values whose first size follows the batch in ONNX Runtime."""
    two, three = (
        every_value(model, {name: value.numpy() for name, value in signal(size, ir.to_proto(model)).items()})
        for size in (2, 3)
    )
    return frozenset(name for name in two if two[name].ndim and (len(two[name]), len(three[name])) == (2, 3))


def signal(count: int, proto: onnx.ModelProto, seed: int = 0) -> dict[str, Tensor]:
    """Smooth, correlated random inputs: what makes rounding errors depend on the data."""
    rng = torch.Generator().manual_seed(seed)
    made = {}
    for value in proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            made[value.name] = torch.randint(10, (count, *shape), generator=rng)
            continue
        few = torch.randn((count, 4), generator=rng)
        basis = torch.randn((4, *shape), generator=torch.Generator().manual_seed(99))
        noise = torch.randn((count, *shape), generator=rng)
        made[value.name] = torch.tensordot(few, basis, 1) + 0.3 * noise
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedForm:
    """A network as the closed forms leave it."""

    network: FloatNetwork
    state: QuantizedState

    @property
    def model(self) -> ir.Model:
        return self.network.model

    @property
    def teacher(self) -> TorchGraph:
        return self.network.teacher

    @property
    def samples(self) -> Samples:
        return self.network.calibration

    @property
    def plan(self) -> QuantizationPlan:
        return self.state.plan

    @property
    def quantized(self) -> ir.Model:
        return self.state.qdq


def closed_form(
    proto: onnx.ModelProto,
    data: Mapping[str, Tensor],
    *,
    fixed: int | None = None,
    rounding: Rounding = "gptq",
    ranges: Literal["minmax", "mse"] = "minmax",
    narrow: bool = False,
    **options: Any,
) -> ClosedForm:
    """Calibrate, round, insert, and correct the biases on the data; ``narrow`` spares no value from ``act_bits``."""
    model, plan = planned(proto, **options)
    if narrow:
        formats = (replace(site.number_format, bits=options["act_bits"]) for site in plan.activations)
        sites = zip(plan.activations, formats, strict=True)
        plan = replace(plan, activations=tuple(replace(site, number_format=narrowed) for site, narrowed in sites))
    network, config = (
        float_network(model, data, fixed=fixed),
        QuantizationConfig(calibration_method=ranges, weight_scales=ranges),
    )
    state = planned_state(network, plan)
    for step in (Calibrate(config=config), Round(method=rounding), CorrectBiases(form="empirical")):
        state, _ = step.run(network, state, silent_clock())
    return ClosedForm(network=network, state=state)


def started(closed: ClosedForm) -> tuple[TorchGraph, QuantizedValues]:
    """The QDQ graph that blocks are learned in, and the values that learning starts from."""
    base, start = prepare_learning(closed.state)
    return TorchGraph(insert_quantizers(base, closed.plan, final=False)), start


def student_of(
    closed: ClosedForm,
    block: Block,
    rounding: LearnedRounding = "lsq",
    learned: Collection[str] = (),
    *,
    below: int = 8,
) -> BlockStudent:
    """A block that is ready to be learned."""
    graph, start = started(closed)
    codes = learnable_weights(block, start, closed.teacher.initializers, rounding, below=below)
    return BlockStudent(graph, block, closed.plan, start, codes, learned, below=below)


def blocks_of(closed: ClosedForm) -> tuple[Block, ...]:
    """Blocks of a network."""
    return find_blocks(closed.model, closed.plan, find_batched_values(closed.model))


@dataclass(kw_only=True, slots=True)
class Steps(LearningBudget):
    """The same number of optimiser steps for each block that has something to learn."""

    effort: Any = "balanced"
    count: int = 40
    costs: Sequence[BlockCost] = field(default_factory=list)

    def plan(self, costs: Sequence[BlockCost]) -> None:
        self.costs = costs

    @property
    def planned(self) -> int | None:
        return self.count * sum(cost.error > 0 for cost in self.costs)

    def pace(self, block: int) -> Iterator[float]:
        return iter([i / self.count for i in range(self.count)] if self.costs[block].error > 0 else [])


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedSteps(LearningConfig):
    """Learning by ``Steps``."""

    effort: Any = "balanced"
    count: int = 40

    def budget(self, clock: Clock, share: float = 1.0) -> LearningBudget:
        return Steps(count=self.count)
