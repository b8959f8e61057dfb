import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from passes.plan import Refusal
from zsq_compile.cli import progress_bars as module
from zsq_compile.cli.progress_bars import ConsoleProgress
from zsq_compile.cli.result_table import print_result
from zsq_compile.compiler import CompileResult
from zsq_compile.config.units import size_words
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.progress import Progress
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality
from zsq_compile.quantization.plan_file import PlanFile
from zsq_compile.reporting.alarms import Alarm, Degree
from zsq_compile.reporting.facts import calibration_facts, comparison_rows
from zsq_compile.reporting.report import Report
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.fusion import Fusion
from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate
from zsq_compile.verification.latency import Latency
from zsq_compile.verification.validate import LabelledQuality, OutputQuality, Validation


def a_console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=100, color_system=None), stream


def a_latency(median: float) -> Latency:
    return Latency(median_ms=median, p10_ms=median, p90_ms=median, runs=1)


def a_validation(*, bare: bool = False) -> Validation:
    real = LabelledQuality(samples=360, top1_float=0.9972, top1_quantized=0.9944, agreement=0.99)
    return Validation(
        samples=64,
        outputs=() if bare else (OutputQuality(name="logits", sqnr_db=21.04, agreement=0.9531),),
        decision_output=None if bare else "logits",
        fusion=Fusion(
            fused=9,
            fused_others=2,
            unfused=("a",),
            left_float=("b",),
            quantize_nodes=1,
            dequantize_nodes=1,
            operators=(),
        ),
        simulation=None,
        labelled=None if bare else real,
        float_bytes=118_567,
        quantized_bytes=44_715,
        latency={} if bare else {"float": a_latency(2.0), "quantized": a_latency(0.5)},
        failures=(),
        warnings=() if bare else ("look [here]",),
    )


PREPROCESSING = Preprocessing(
    name="unit", mean=(0.0,), std=(1.0,), channel_order="gray", source="inferred", reason="statistics", margin=4.49
)


def a_result(validation: Validation, **report: Any) -> CompileResult:
    values: dict[str, Any] = {
        "model": Path("m.onnx"),
        "emitted": Path("m.w4a8.onnx"),
        "settings": {},
        "seed": 0,
        "stages": {"load": 1.0},
        "coverage": "BN found behind 3 of 3 convolutions",
        "contract": PREPROCESSING.to_json(),
        "data": "256 synthetic samples (pixels), 64 more held out",
        "refusals": (),
        "notes": (),
        "validation": validation,
    }
    return CompileResult(
        path=Path("m.w4a8.onnx"),
        report=Report(**(values | report)),
        synthetic=None,
        gate_missed=False,
        plan=PlanFile(weights={}, activations={}),
    )


def test_alarms_come_first_and_all_is_not_said_to_be_well() -> None:
    alarm = Alarm(kind="input", where="input 'x'", words="it may be [unit] or byte", advice="give --like FILE")
    console, stream = a_console()
    print_result(console, a_result(a_validation(), alarms=(alarm,)))
    first, second, *rest = stream.getvalue().splitlines()
    assert "Do not trust" in first
    assert second == f"ALARM {alarm.describe()}"
    assert any("size" in line for line in rest)
    summary = a_result(a_validation(), alarms=(alarm,)).report.summary().splitlines()
    assert summary[1] == f"ALARM: {alarm.describe()}"
    assert a_result(a_validation(), alarms=(alarm,)).report.to_json()["alarms"][0]["kind"] == "input"


@pytest.mark.parametrize(
    ("degrees", "grave", "counted"),
    [
        (("doubt",), False, "(1 doubt)"),
        (("alarm",), True, "(1 alarm)"),
        (("doubt", "alarm", "alarm"), True, "(2 alarms and 1 doubt)"),
    ],
)
def test_the_gravest_alarm_is_in_the_headline(degrees: tuple[Degree, ...], counted: str, *, grave: bool) -> None:
    alarms = tuple(Alarm(kind="input", where="x", words="w", advice="a", degree=degree) for degree in degrees)
    console, stream = a_console()
    result = a_result(a_validation(), alarms=alarms)
    print_result(console, result)
    first, *rest = stream.getvalue().splitlines()
    assert ("Do not trust" in first) is grave
    assert ("Check the input" in first) is not grave
    assert counted in first
    assert [line.split()[0] for line in rest[: len(degrees)]] == [degree.upper() for degree in degrees]
    assert [one["degree"] for one in result.report.to_json()["alarms"]] == list(degrees)


def test_every_plausible_input_has_a_line() -> None:
    ways = tuple(
        HypothesisEstimate(words=name, probability=0.5, estimate=0.9, low=low, high=0.95, sqnr_db=9.0)
        for name, low in (("unit", 0.8), ("imagenet", 0.5))
    )
    told = AgreementEstimate(
        estimate=0.9, low=0.5, high=0.95, calibration_source="", families=(), hypotheses=ways, proven=False
    )
    facts = calibration_facts(a_result(a_validation(), agreement_estimate=told).report)
    assert ("if the input is", "imagenet (50%): 90.0% (50.0 to 95.0%)") in facts


def test_the_table_compares_float_with_quantized() -> None:
    assert comparison_rows(a_validation()) == [
        ("size", "118.6 kB", "44.7 kB (38%)"),
        ("top-1 on 360 samples", "99.72%", "99.44%"),
        ("top-1 agreement on 360 samples", "-", "99.00%"),
        ("top-1 agreement on 64 held-out samples", "-", "95.31%"),
        ("signal to quantization noise", "-", "21.0 dB"),
        ("latency", "2 ms", "0.5 ms (4.0x)"),
        ("layers run in integers", "-", "9 of 11"),
    ]


def test_what_was_not_measured_has_no_row() -> None:
    assert [row[0] for row in comparison_rows(a_validation(bare=True))] == ["size", "layers run in integers"]


def test_the_result_names_data_input_refusals_warnings_and_the_file() -> None:
    console, stream = a_console()
    refusals = tuple(Refusal(where=f"n{i}", op_type="Softmax", reason="no integer kernel") for i in range(7))
    print_result(console, a_result(a_validation(), refusals=refusals))
    text = stream.getvalue()
    assert "256 synthetic samples (pixels), 64 more held out" in text
    assert f"input: {PREPROCESSING.describe()}\n" in text
    assert text.count("left in float: n") == 5
    assert "left in float: 2 more" in text
    assert "warning: look [here]" in text  # square brackets are no markup
    assert text.rstrip().endswith("written to m.w4a8.onnx")


def test_the_three_worst_layers_have_a_line_each() -> None:
    console, stream = a_console()
    layers = tuple(
        LayerQuality(
            node=f"conv[{i}]",
            op_type="Conv",
            value="v",
            weight_bits=4,
            activation_bits=8,
            sqnr_db={"round": 9.0, "biases": 10.0},
            own_sqnr_db=40.0 - i,
            reason="saturated: all of it" if i == 4 else None,
        )
        for i in range(5)
    )
    print_result(console, a_result(a_validation(), layers=layers))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("worst layer: ")]
    assert lines == [
        "worst layer: conv[4] (Conv, 4-bit weights, 8-bit inputs): 36.0 dB by itself, 10.0 dB in the network; "
        "saturated: all of it",
        "worst layer: conv[3] (Conv, 4-bit weights, 8-bit inputs): 37.0 dB by itself, 10.0 dB in the network",
        "worst layer: conv[2] (Conv, 4-bit weights, 8-bit inputs): 38.0 dB by itself, 10.0 dB in the network",
    ]


def test_widths_that_were_chosen_take_two_lines() -> None:
    console, stream = a_console()
    print_result(console, a_result(a_validation(), mixed={"summary": ["2 layers of 8 bits", "noise 20 dB"]}))
    assert "bits: 2 layers of 8 bits\nbits: noise 20 dB\n" in stream.getvalue()


def test_distillation_takes_a_line() -> None:
    console, stream = a_console()
    print_result(console, a_result(a_validation(), distillation={"summary": "9 steps, start kept"}))
    assert "distilled: 9 steps, start kept\n" in stream.getvalue()


def test_the_estimate_takes_a_line_with_its_tier() -> None:
    console, stream = a_console()
    told = AgreementEstimate(estimate=0.989, low=0.978, high=0.9951, calibration_source="from BN nodes", families=())
    print_result(console, a_result(a_validation(), agreement_estimate=told))
    assert "\nestimated agreement on real data: 98.9% (97.8 to 99.5%), from BN nodes\n" in stream.getvalue()


@pytest.mark.parametrize(("count", "words"), [(0, "0.0 kB"), (999_949, "999.9 kB"), (1_000_000, "1.00 MB")])
def test_sizes_in_words(count: int, words: str) -> None:
    assert size_words(count) == words


def test_plain_lines_tell_the_estimate_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(0.0, 6.0)  # every look at the clock is six seconds later
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    console, stream = a_console()
    with ConsoleProgress(console).stage("synthesis", 10) as advance:
        for _ in range(4):
            advance(2)
    lines = stream.getvalue().splitlines()
    # Looks: stage opens at 0, lines begin at 6, then 12, 18, 24 and 30: told at 18 (12 s for 4) and 30 (24 s for 8).
    assert lines == [
        "synthesis ...",
        "synthesis: 4 of 10, about 18 s left",
        "synthesis: 8 of 10, about 6 s left",
    ]


def test_plain_lines_have_no_control_characters_and_keep_brackets() -> None:
    console, stream = a_console()
    progress: Progress = ConsoleProgress(console)
    progress.note("pixels in [0, 1]")
    progress.warn("no BN [at all]")
    assert stream.getvalue() == "pixels in [0, 1]\nwarning: no BN [at all]\n"


def test_verbose_tells_how_long_a_stage_took() -> None:
    console, stream = a_console()
    with ConsoleProgress(console, verbose=True).stage("load"):
        pass
    assert stream.getvalue().splitlines()[-1].startswith("load: 0.")


def test_bars_stand_inside_each_other_and_go_away() -> None:
    console, stream = a_console(terminal=True)
    progress = ConsoleProgress(console)
    with progress.stage("synthesize"), progress.stage("pixels", 4) as advance:
        advance(3)
        progress.note("a note above the bars")
        with progress.stage("batch"):  # a new bar draws all of them anew
            pass
    with progress.stage("calibrate", 2):
        pass
    text = stream.getvalue()
    assert "3/4" in text
    assert "a note above the bars" in text
    assert "calibrate" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor is hidden and shown again


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_passes_through_a_stage_and_ends_the_drawing(terminal: bool) -> None:
    console, stream = a_console(terminal=terminal)
    progress = ConsoleProgress(console)
    with pytest.raises(KeyboardInterrupt), progress.stage("outer"), progress.stage("inner", 2):
        raise KeyboardInterrupt
    assert stream.getvalue().count("\x1b[?25h") == (1 if terminal else 0)
    with progress.stage("again"):
        pass
