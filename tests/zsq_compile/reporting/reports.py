"""A report with something in every place, made by hand: names of its model are as hostile as names can be."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from passes.analysis.count_bytes import Contents
from passes.plan import Refusal
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality
from zsq_compile.reporting.evidence import MomentMatch, Picture
from zsq_compile.reporting.report import Report
from zsq_compile.verification.fusion import Fusion
from zsq_compile.verification.latency import Latency
from zsq_compile.verification.simulation import SimulationMatch
from zsq_compile.verification.validate import LabelledQuality, OutputQuality, Validation

HOSTILE = "</title></style><script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


def png(seed: int, side: int = 96) -> bytes:
    """A picture of noise, which no format makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def a_validation() -> Validation:
    return Validation(
        samples=64,
        outputs=(OutputQuality(name=HOSTILE, sqnr_db=24.75, agreement=0.96875),),
        decision_output=HOSTILE,
        fusion=Fusion(
            fused=100,
            fused_others=12,
            unfused=("layer3",),
            left_float=(HOSTILE,),
            quantize_nodes=1,
            dequantize_nodes=1,
            operators=(("QLinearConv", 100),),
        ),
        simulation=SimulationMatch(
            output="logits", step=0.1, share_beyond_step=0.01, largest=0.2, sqnr_db=40.0, margin_db=15.0, agreement=1.0
        ),
        labelled=LabelledQuality(samples=400, top1_float=0.7925, top1_quantized=0.775, agreement=0.8975),
        float_bytes=10_462_521,
        quantized_bytes=1_777_708,
        latency={
            "float": Latency(median_ms=4.232, p10_ms=4.03, p90_ms=4.603, runs=200),
            "quantized": Latency(median_ms=1.843, p10_ms=1.736, p90_ms=1.985, runs=200),
        },
        failures=(),
        warnings=(f"1 layer runs in float: {HOSTILE}",),
    )


def a_layer(number: int) -> LayerQuality:
    name = HOSTILE if number == 7 else f"/features/features.{number}/conv/Conv"
    return LayerQuality(
        node=name,
        op_type="Conv",
        value=f"r{number}",
        weight_bits=4,
        activation_bits=8,
        sqnr_db={"calibrate": 18.0, "reconstruct": 30.0 - 0.1 * number + 3.0 * math.sin(number)},
        own_sqnr_db=36.0 - 0.05 * number + 4.0 * math.sin(1.0 + number),
        reason=f"few bits: {HOSTILE}",
    )


def a_report(*, layers: int = 102, pictures: int = 24) -> Report:
    """The largest report that is likely: a hundred layers, and 24 pictures of noise."""
    contents = {
        name: Contents(
            weights={f"/features/features.{i}/conv/Conv": each * (i + 1) for i in range(layers)} | {HOSTILE: 10 * each},
            biases=40_000,
            scales=30_000,
            constants=2_000,
            structure=60_000,
        )
        for name, each in (("float", 400), ("quantized", 50))
    }
    moments = tuple(
        MomentMatch(
            node=f"bn{i}",
            layer=HOSTILE if i == 3 else f"conv{i}",
            channels=64,
            distance=0.01 * 1.03**i,
            mean_gap=0.1,
            deviation_ratio=0.97,
        )
        for i in range(layers)
    )
    blocks = tuple(
        {
            "name": f"block{i}",
            "layers": ["a"],
            "before": 0.1,
            "after": 0.05 + 0.002 * i,
            "kept": i % 4 != 0,
            "unsettled": 0.0,
            "steps": 150,
            "batch": 32,
            "seconds": 1.0,
        }
        for i in range(12)
    )
    curve = tuple(
        {"step": 10 * i, "loss": 1.0, "agreement": 0.9, "divergence": 0.3 * 0.8**i, "live": None} for i in range(9)
    )
    return Report(
        model=Path(f"{HOSTILE.replace('/', '_')}.onnx"),
        emitted=Path("m.w4a8.onnx"),
        settings={
            "quantization": {"bits": 4, "act_bits": 8},
            "seed": 0,
            "generator": None,
            "input": {"shapes": {HOSTILE: (1, 3)}},
        },
        seed=0,
        stages={"load": 0.6, "synthesize": 92.3, "reconstruct": 119.9, "validate": 3.8},
        coverage="BN found behind 27 of 27 convolutions",
        statistics={"source": HOSTILE, "matched": [f"{HOSTILE}: its values"], "unmatched": ["gemm: none"]},
        contract={
            "name": "symmetric",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "channel_order": "rgb",
            "inferred": True,
            "reason": "its statistics",
            "margin": 45.88,
        },
        data="160 synthetic samples (pixels), 32 more held out",
        refusals=tuple(
            Refusal(where=f"{HOSTILE}{i}", op_type="Tanh", reason="the target has no integer kernel") for i in range(30)
        ),
        notes=(f"opset 11 was raised to 21 {HOSTILE}",),
        validation=a_validation(),
        learning=blocks,
        distillation={"summary": "kept step 80 of 80", "curve": curve},
        mixed={"summary": ["27 layers of 4 bits, 1 layer of 8 bits", "worst nsr 0.01"]},
        layers=tuple(a_layer(i) for i in range(layers)),
        synthesis={"algorithm": "pixels", "samples": 192, "loss_curve": [0.9 * 0.8**i for i in range(24)]},
        moments=moments,
        pictures=tuple(Picture(png=png(i), label=i, confidence=0.5 + i / 50.0, asked=None) for i in range(pictures)),
        contents=contents,
        sha256={"model": "ab" * 32, "emitted": "cd" * 32},
    )


def a_bare_report() -> Report:
    """One of a network that takes no images, was learned nowhere and timed never."""
    full = a_report(layers=0, pictures=0)
    validation = Validation(
        samples=8,
        outputs=(),
        decision_output=None,
        fusion=Fusion(
            fused=3, fused_others=0, unfused=(), left_float=(), quantize_nodes=0, dequantize_nodes=0, operators=()
        ),
        simulation=None,
        labelled=None,
        float_bytes=6071,
        quantized_bytes=3772,
        latency={},
        failures=(),
        warnings=(),
    )
    return Report(
        model=Path("mlp.onnx"),
        emitted=Path("mlp.w8a8.onnx"),
        settings=full.settings,
        seed=0,
        stages={},
        coverage="BN found behind 0 of 3 fully connected layers",
        contract=None,
        data="40 samples given by the user, 10 more held out",
        refusals=(),
        notes=(),
        validation=validation,
    )
