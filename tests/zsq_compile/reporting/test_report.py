import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from passes.plan import Refusal
from zsq_compile.files import file_sha256
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality
from zsq_compile.reporting.report import Report, installed_versions
from zsq_compile.verification.fusion import Fusion
from zsq_compile.verification.latency import Latency
from zsq_compile.verification.simulation import SimulationMatch
from zsq_compile.verification.validate import LabelledQuality, OutputQuality, Validation


def latency(milliseconds):
    return Latency(median_ms=milliseconds, p10_ms=milliseconds, p90_ms=milliseconds, runs=5)


def layer(number):
    return LayerQuality(
        node=f"conv{number}",
        op_type="Conv",
        value=f"r{number}",
        weight_bits=4,
        activation_bits=8,
        sqnr_db={"scales": 20.0, "biases": 21.0},
        own_sqnr_db=30.0 - number,
        reason="few bits: too few" if number == 4 else None,
    )


@pytest.fixture
def report():
    validation = Validation(
        samples=16,
        outputs=(
            OutputQuality(name="logits", sqnr_db=math.inf, agreement=0.9875),
            OutputQuality(name="class", sqnr_db=None, agreement=1.0),
        ),
        decision_output="logits",
        fusion=Fusion(
            fused=9,
            fused_others=2,
            unfused=("conv1",),
            left_float=("up",),
            quantize_nodes=1,
            dequantize_nodes=1,
            operators=(("QLinearConv", 9),),
        ),
        simulation=SimulationMatch(
            output="logits",
            step=0.1,
            share_beyond_step=0.01,
            largest=0.2,
            sqnr_db=40.0,
            margin_db=15.0,
            agreement=1.0,
        ),
        labelled=LabelledQuality(samples=10, top1_float=0.9, top1_quantized=0.8, agreement=0.85),
        float_bytes=4_000_000,
        quantized_bytes=600_000,
        latency={"float": latency(3.0), "quantized": latency(1.0)},
        failures=("it broke",),
        warnings=("one layer runs in float",),
    )
    return Report(
        model=Path("m.onnx"),
        emitted=Path("m.w4a8.onnx"),
        settings={"bits": np.int64(4), "range": (0.0, np.float32(1.0))},
        seed=0,
        stages={"load": 0.5, "synthesize": 12.0},
        coverage="BN found behind 19 of 19 convolutions",
        contract={
            "name": "imagenet",
            "mean": (0.5,),
            "std": (0.25,),
            "channel_order": "gray",
            "inferred": True,
            "margin": 2.0,
            "reason": "its statistics",
        },
        statistics={"source": "19 BatchNormalizations from BN nodes"},
        data="128 synthetic images",
        refusals=tuple(Refusal(where=f"n{i}", op_type="Tanh", reason="no integer kernel") for i in range(7)),
        notes=("opset raised from 11 to 21",),
        validation=validation,
        layers=tuple(layer(i) for i in range(5)),
        synthesis={"algorithm": "pixels", "samples": 8, "loss_curve": (1.0, math.nan)},
    )


def test_json_round_trips_and_holds_only_finite_numbers(report):
    plain = report.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["settings"] == {"bits": 4, "range": [0.0, 1.0]}
    assert plain["synthesis"]["loss_curve"] == [1.0, None]
    assert plain["stages"] == {"load": 0.5, "synthesize": 12.0}
    assert plain["model"] == "m.onnx"
    assert (plain["contract"]["mean"], plain["contract"]["margin"]) == ([0.5], 2.0)
    refusal = {"where": "n0", "op_type": "Tanh", "reason": "no integer kernel", "requested": False}
    assert plain["refusals"][0] == refusal
    assert plain["validation"]["agreement"] == 0.9875
    assert plain["validation"]["sqnr_db"] is None
    assert plain["validation"]["speedup"] == 3.0
    assert plain["validation"]["labelled"]["top1_quantized"] == 0.8
    assert plain["versions"] == installed_versions()
    assert [entry["node"] for entry in plain["layers"]] == [f"conv{i}" for i in range(5)]
    assert list(plain["layers"][0]["sqnr_db"].items()) == [("scales", 20.0), ("biases", 21.0)]
    assert plain["worst_layers"] == [plain["layers"][i] for i in (4, 3, 2)]
    assert plain["worst_layers"][0]["reason"] == "few bits: too few"


def test_summary_tells_the_figures(report):
    lines = report.summary().splitlines()
    assert lines == [
        "m.onnx -> m.w4a8.onnx",
        "size: 4.00 MB -> 600.0 kB (15%)",
        "top-1 on 10 samples: 90.00% -> 80.00%",
        "top-1 agreement on 10 samples: 85.00%",
        "top-1 agreement on 16 held-out samples: 98.75%",
        "signal to quantization noise: more than 60 dB",
        "latency: 3 ms -> 1 ms (3.0x)",
        "layers run in integers: 9 of 11",
        "output logits: SQNR more than 60 dB, 98.75% of the decisions unchanged on 16 held-out samples",
        "output class: 100.00% of the decisions unchanged on 16 held-out samples",
        "simulation: 1.00% of the elements differ by more than a step, 100.00% of the decisions are equal",
        "data: 128 synthetic images",
        "statistics: 19 BatchNormalizations from BN nodes; BN found behind 19 of 19 convolutions",
        "input: imagenet: mean and std of ImageNet (inferred from its statistics, 2.00 times closer than the next)",
        *(f"left in float: n{i} (Tanh): no integer kernel" for i in range(5)),
        "left in float: 2 more, see --json",
        *(f"worst layer: {report.layers[i].describe()}" for i in (4, 3, 2)),
        "warning: one layer runs in float",
        "time: 12.5 s",
        "note: opset raised from 11 to 21",
        "FAILED: it broke",
    ]


def test_widths_that_were_chosen_are_told(report):
    distilled = dataclasses.replace(report, distillation={"steps": 9, "summary": "9 steps, start kept"})
    assert distilled.to_json()["distillation"]["steps"] == 9
    assert "distilled: 9 steps, start kept" in distilled.summary()
    mixed = {"layers": {"conv1": {"bits": 4, "nsr": {8: 0.0, 4: math.inf}}}, "summary": ["one line", "another"]}
    changed = dataclasses.replace(report, mixed=mixed)
    assert changed.to_json()["mixed"]["layers"] == {"conv1": {"bits": 4, "nsr": {"8": 0.0, "4": None}}}
    assert "bits: one line\nbits: another\n" in changed.summary()
    assert report.to_json()["mixed"] is None


def test_summary_of_a_bare_validation(report):
    bare = dataclasses.replace(
        report.validation,
        simulation=None,
        labelled=None,
        latency={},
        failures=(),
        warnings=(),
        outputs=(),
        decision_output=None,
    )
    text = dataclasses.replace(
        report, validation=bare, refusals=(), notes=(), layers=(), contract=None, statistics=None
    ).summary()
    assert [line.partition(":")[0] for line in text.splitlines()[1:]] == [
        "size",
        "layers run in integers",
        "data",
        "time",
    ]


def test_file_sha256(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"some bytes")
    assert file_sha256(path) == hashlib.sha256(b"some bytes").hexdigest()


def test_versions_name_what_a_result_depends_on():
    assert {"python", "machine", "onnx", "onnxruntime", "torch", "numpy"} <= set(installed_versions())
