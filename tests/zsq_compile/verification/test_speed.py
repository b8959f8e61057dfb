import dataclasses

import numpy as np
import onnx
import pytest

from tests.models import HEADER
from zsq_compile.verification import latency, speed
from zsq_compile.verification.latency import Turns, time_flushed
from zsq_compile.verification.profile import NodeTime
from zsq_compile.verification.speed import audit_speed, find_costs, judge

# Erf is an island in float between two products in integers.
ISLAND = """
    g (float[4,8] x) => (float[4,8] y)
    <float s = {0.02}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}, float so = {0.00390625}, uint8 zo = {0}>
    {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear(w, sw, zw)
        a = MatMul(xd, wd)
        aq = QuantizeLinear(a, s, z)
        ad = DequantizeLinear(aq, s, z)
        b = Erf(ad)
        bq = QuantizeLinear(b, so, zo)
        bd = DequantizeLinear(bq, so, zo)
        c = MatMul(bd, wd)
        cq = QuantizeLinear(c, s, z)
        y = DequantizeLinear(cq, s, z)
    }
"""


def turns(*medians):
    return Turns(milliseconds=np.array([[value, value, 100.0 * value, value, 0.1 * value] for value in medians]))


@pytest.mark.parametrize(
    ("longer", "rounds", "verdict"),
    [
        (16, 20, "slower"),
        (15, 20, "slower"),
        (14, 20, "same"),
        (6, 20, "same"),
        (5, 20, "faster"),
        (0, 20, "faster"),
        (5, 5, "slower"),
        (4, 5, "same"),
        (1, 5, "same"),
        (0, 5, "faster"),
    ],
)
def test_the_verdict_needs_three_rounds_of_four_and_all_of_a_few(longer, rounds, verdict):
    reference = turns(*np.linspace(1.0, 3.0, rounds))  # the machine slows down meanwhile, for both alike
    shift = np.where(np.arange(rounds) < longer, 1.1, 0.9)
    assert judge(reference, turns(*(np.linspace(1.0, 3.0, rounds) * shift))) == (verdict, longer / rounds)


def node(name, op_type, ms, inputs="", outputs=""):
    return NodeTime(name=name, op_type=op_type, ms=ms, inputs=tuple(inputs.split()), outputs=tuple(outputs.split()))


def test_conversions_are_charged_to_the_float_node_that_they_serve():
    quantized = (
        node("q0", "QuantizeLinear", 1.0, "x s z", "xq"),  # of the input: serves an integer layer
        node("conv", "QLinearConv", 6.0, "xq", "cq"),
        node("d1", "DequantizeLinear", 2.0, "cq s z", "cd"),  # serves both its readers
        node("soft", "Softmax", 4.0, "cd", "b"),
        node("erf", "Erf", 3.0, "cd", "e"),
        node("q1", "QuantizeLinear", 0.5, "b s z", "bq"),
        node("move", "Transpose", 0.25, "bq", "bt"),
        node("fc", "QGemm", 3.0, "bt", "yq"),
        node("d2", "DequantizeLinear", 0.25, "yq s z", "y"),  # of the output
    )
    reference = (node("conv", "Conv", 2.0), node("fc", "FusedGemm", 5.0), node("soft", "Softmax", 4.0))
    costs = find_costs(reference, quantized)
    assert (costs.float_nodes, costs.quantized_nodes, costs.conversions) == (3, 9, 4)
    assert costs.conversion_share == pytest.approx(3.75 / 20.0)
    told = [(spot.node, spot.op_type, spot.reason, spot.cost_ms) for spot in costs.spots]
    assert told == [
        ("conv", "QLinearConv", "slower in integers", 4.0),
        ("soft", "Softmax", "converted", 1.5),
        ("erf", "Erf", "converted", 1.0),
    ]
    assert [spot.share for spot in costs.spots] == pytest.approx([0.2, 0.075, 0.05])


@pytest.fixture
def island(tmp_path):
    weight = np.random.default_rng(0).integers(-100, 100, (8, 8)).astype(np.int8)
    model = onnx.parser.parse_model(HEADER + ISLAND)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "island.onnx"
    onnx.save(model, path)
    original = onnx.parser.parse_model(
        HEADER + "g (float[4,8] x) => (float[4,8] y) { a = MatMul(x, w)\n b = Erf(a)\n y = MatMul(b, w) }"
    )
    original.graph.initializer.append(onnx.numpy_helper.from_array(0.01 * weight.astype(np.float32), "w"))
    return original, path


def timed(monkeypatch, reference, candidate):
    """Let the clock show what a test wants; profiles are taken for real."""
    monkeypatch.setattr(speed, "time_in_turns", lambda *_, **__: {"float": reference, "quantized": candidate})


def test_a_slower_file_is_told_with_the_nodes_that_cost_it(monkeypatch, island):
    original, emitted = island
    timed(monkeypatch, turns(*[1.0] * 12), turns(*[1.5] * 12))
    audit = audit_speed(original, emitted, {"x": np.ones((4, 8), np.float32)}, threads=1, seconds=0.01)
    assert (audit.verdict, audit.rounds, audit.slower_rounds) == ("slower", 12, 1.0)
    assert audit.costs is not None
    assert (audit.costs.float_nodes, audit.costs.conversions) == (3, 4)
    around = [spot for spot in audit.costs.spots if spot.reason == "converted"]
    assert {spot.op_type for spot in around} <= {"Erf"}  # the profiler's clock may show 0 microseconds
    words = audit.describe()
    assert "not faster here: 1.5 ms against 1 ms, 1.50 times as long (longer in 100% of 12 rounds)" in words
    assert "goes into 4 conversions between integers and floats" in words


def test_dear_nodes_are_named_by_operator(monkeypatch, island):
    timed(monkeypatch, turns(*[1.0] * 12), turns(*[1.5] * 12))
    audit = audit_speed(*island, {"x": np.ones((4, 8), np.float32)}, threads=1, seconds=0.01)
    assert audit.costs is not None
    spots = find_costs(
        [node("conv", "Conv", 2.0)],
        [
            node("q", "QuantizeLinear", 1.0, "b", "bq"),
            node("soft", "Softmax", 4.0, "a", "b"),
            node("conv", "QLinearConv", 5.0, "bq", "c"),
        ],
    ).spots
    words = dataclasses.replace(audit, costs=dataclasses.replace(audit.costs, spots=spots)).describe()
    assert words.endswith(
        "What costs most: 1 QLinearConv that took less in float (conv), 30% more; "
        "conversions around 1 Softmax (soft), 10%"
    )


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "faster"), (1.0, "same")])
def test_nothing_is_blamed_where_the_file_is_not_slower(monkeypatch, island, factor, verdict):
    timed(monkeypatch, turns(*[2.0] * 12), turns(*[2.0 * factor] * 12))
    audit = audit_speed(*island, {"x": np.ones((4, 8), np.float32)}, threads=1)
    assert (audit.verdict, audit.costs) == (verdict, None)
    assert ("2.00 times as fast" if verdict == "faster" else "beyond noise") in audit.describe()


def test_the_clock_is_read_for_real(island):
    audit = audit_speed(*island, {"x": np.ones((4, 8), np.float32)}, threads=1, seconds=0.01)
    assert set(audit.latency) == {"float", "quantized"}
    assert (audit.costs is not None) == (audit.verdict == "slower")


def test_a_float_file_that_denormals_slow_down_is_timed_without_them(monkeypatch, island):
    timed(monkeypatch, turns(*[200.0] * 12), turns(*[1.0] * 12))
    flushed = {"float": turns(*[2.0] * 12), "quantized": turns(*[1.0] * 12)}
    monkeypatch.setattr(speed, "time_flushed", lambda *_: flushed)
    audit = audit_speed(*island, {"x": np.ones((4, 8), np.float32)}, threads=1)
    assert (audit.denormal_ms, audit.latency["float"].median_ms) == (200.0, 2.0)
    assert "2.00 times as fast" in audit.describe()
    assert {"200", "2"} <= set(audit.describe_denormals().split())


@pytest.mark.parametrize(("before", "flushed"), [(4.0, None), (20.0, 19.0)])
def test_a_float_file_without_denormals_keeps_its_time(monkeypatch, island, before, flushed):
    timed(monkeypatch, turns(*[before] * 12), turns(*[1.0] * 12))
    again = {"float": turns(*[flushed or 0.0] * 12), "quantized": turns(*[1.0] * 12)}
    monkeypatch.setattr(speed, "time_flushed", lambda *_: again)
    audit = audit_speed(*island, {"x": np.ones((4, 8), np.float32)}, threads=1)
    assert (audit.denormal_ms, audit.latency["float"].median_ms) == (None, before)


def test_flushing_is_over_when_the_clock_stops(monkeypatch):
    text = "g (float[N] x) => (float[N] y) <float[1] half = {0.5}> { y = Mul(x, half) }"
    model, seen = onnx.parser.parse_model(HEADER + text), []
    smallest = np.full(4096, 1.2e-38, np.float32)
    run = latency.Session.run

    def watched(session, feeds):
        seen.append(run(session, feeds)["y"].max())
        return {}

    monkeypatch.setattr(latency.Session, "run", watched)
    time_flushed({"float": model}, {"x": smallest}, 1, 0.01, ("CPUExecutionProvider",), None)
    assert set(seen) == {0.0}
    assert (smallest * np.float32(0.5)).max() > 0.0
