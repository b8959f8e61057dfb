"""A network, its plans and its data, ready for widths to be chosen."""

import onnx
import torch
from torch import Tensor

from backends.catalog import load_target
from backends.target import Target
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from tests import models
from tests.quantizing import prepare
from tests.zsq_compile.quantization.networks import float_network, planned_state, silent_clock
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.quantization.closed_form import Calibrate
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.state import FloatNetwork, QuantizedState

PLAIN = QuantizationConfig()
TARGET = load_target("ort_cpu")


def chain(*, last: int = 6) -> onnx.ModelProto:
    """Four layers of 1,152 to 9,216 weights and a classifier, no batch normalisation: (N, 8, 6, 6) -> (N, last).

    Rounding its weights to few bits turns many of its decisions over.
    """
    return models.parse(
        f"""
        chain (float[N,8,6,6] x) => (float[N,{last}] logits)
        <float[16,8,3,3] w0, float[16] b0, float[32,16,3,3] w1, float[32] b1, float[32,32,3,3] w2, float[32] b2,
         float[16,32,3,3] w3, float[16] b3, float[{last},576] w4, float[{last}] b4>
        {{
            [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
            [relu0] r0 = Relu(c0)
            [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
            [relu1] r1 = Relu(c1)
            [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
            [relu2] r2 = Relu(c2)
            [conv3] c3 = Conv<pads=[1,1,1,1]>(r2, w3, b3)
            [relu3] r3 = Relu(c3)
            [flatten] f = Flatten(r3)
            [gemm] logits = Gemm<transB=1>(f, w4, b4)
        }}
        """
    )


def images(count: int, seed: int) -> Tensor:
    return torch.randn((count, 8, 6, 6), generator=torch.Generator().manual_seed(seed))


def ready(
    proto: onnx.ModelProto,
    config: QuantizationConfig = PLAIN,
    *,
    target: Target = TARGET,
    held_out: int = 64,
    limit: int | None = None,
) -> tuple[FloatNetwork, QuantizedState]:
    """The network, and its state with the widest bits."""
    model = prepare(proto)
    network = float_network(
        model,
        {"x": images(64, seed=0)},
        held_out={"x": images(held_out, seed=1)},
        statistics=harvest_batchnorm(model),
        target=target,
        limit=limit,
    )
    plan = plan_quantization(model, target, config)
    state, _ = Calibrate(config=config).run(network, planned_state(network, plan), silent_clock())
    return network, state
