import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from backends.session import open_session
from passes.emit.emit import emitted_bytes
from tests import models
from tests.widening import PLAIN, TARGET, chain, ready
from tests.zsq_compile.quantization.networks import Watcher
from zsq_compile import CompileConfig, PriorConfig, QuantizationConfig, compile_model
from zsq_compile.config.compile import WIDTHS, InputConfig
from zsq_compile.errors import ConfigError, UnsupportedModelError
from zsq_compile.progress import Clock
from zsq_compile.quantization.mixed_precision.search import ChooseBits, MixedChoice, explain_choice
from zsq_compile.quantization.plan_file import PlanFile, read_plan, write_plan
from zsq_compile.quantization.planning import plan_narrowest

NODES = ("conv0", "conv1", "conv2", "conv3", "gemm")


def chosen(
    proto: onnx.ModelProto, *, limit: int | None = None, floor: float | None = None, **options: Any
) -> MixedChoice:
    target, config = options.pop("target", TARGET), QuantizationConfig(**options)
    network, state = ready(proto, config, target=target, limit=limit)
    watcher = Watcher()
    after, choice = ChooseBits(config=config, floor=floor).run(network, state, Clock(watcher))
    assert watcher.steps == watcher.totals == {"choose bits": len(WIDTHS) + 1}, "32 samples held out are one batch"
    assert {site.node: site.number_format.bits for site in after.plan.weights} == bits_of(choice)
    return choice


def bits_of(choice: MixedChoice) -> dict[str, int]:
    return dict(choice.chosen.widths.weights)


def uniform_bytes(bits: int) -> int:
    network, state = ready(chain(), QuantizationConfig(bits=bits, edge_bits=bits))
    return emitted_bytes(network.model, state.plan, TARGET)


def sabotaged(node: int) -> onnx.ModelProto:
    """The chain with one layer whose output channels see one great weight each, which makes all others coarse."""
    proto = chain()
    for tensor in proto.graph.initializer:
        if tensor.name == f"w{node}":
            weight = onnx.numpy_helper.to_array(tensor).copy()
            weight[:, 0, 0, 0] = 8.0 * np.abs(weight).max()
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    return proto


@pytest.mark.parametrize("node", [1, 2])
def test_a_layer_that_is_hard_to_round_gets_more_bits(node: int) -> None:
    limit = uniform_bytes(4) + 2500 * node
    ruined, plain = bits_of(chosen(sabotaged(node), limit=limit)), bits_of(chosen(chain(), limit=limit))
    name = f"conv{node}"
    assert ruined[name] == 8 > plain[name]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_file_is_within_the_limit_and_no_worse_than_one_width_for_all(share: float) -> None:
    smallest, largest = uniform_bytes(2), uniform_bytes(8)
    limit = int(smallest + share * (largest - smallest))
    choice = chosen(chain(), limit=limit)
    assert choice.chosen.file_bytes <= limit
    assert choice.chosen.nsr == min(trial.nsr for trial in choice.trials)
    assert choice.goal == f"the least noise in at most {limit} bytes"
    assert choice.chosen.file_bytes > 0.9 * limit
    if share == 0.0:  # conv0 is too small for words, so that 4 bits take the bytes of 2
        assert bits_of(choice) == {**dict.fromkeys(NODES, 2), "conv0": 4}
    elif share == 1.0:
        assert set(bits_of(choice).values()) == {8}


def test_three_bits_are_not_taken_where_they_are_stored_as_four() -> None:
    loose = replace(TARGET, dense_weight_bits=0)
    network, widest = ready(chain(), target=loose)
    plans = (plan_narrowest(network.model, loose, PLAIN), widest.plan)
    limit = sum(emitted_bytes(network.model, plan, loose) for plan in plans) // 2
    choice = chosen(chain(), limit=limit, target=loose)
    assert set(bits_of(choice).values()) == {4, 8}
    assert explain_choice(choice)["notes"] == [
        "2 bits were not considered for 5 layers: more bits take no more bytes",
        "3 bits were not considered for 5 layers: more bits take no more bytes",
    ]
    assert set(bits_of(chosen(chain(), limit=limit, target=loose, bits=3, edge_bits=3)).values()) == {3}


def test_a_higher_floor_takes_more_bytes() -> None:
    choices = {floor: chosen(chain(), floor=floor) for floor in (0.5, 0.9)}
    for floor, choice in choices.items():
        assert choice.chosen.agreement is not None
        assert choice.chosen.agreement >= floor
        # the next smaller size that was tried misses it
        smaller = [trial for trial in choice.trials if trial.file_bytes < choice.chosen.file_bytes]
        assert all((trial.agreement or 0.0) < floor for trial in smaller)
        assert choice.values == {}
    assert choices[0.5].chosen.file_bytes < choices[0.9].chosen.file_bytes
    assert sum(bits_of(choices[0.5]).values()) < sum(bits_of(choices[0.9]).values())


def test_activations_are_relieved_only_where_weights_cannot_keep_the_floor() -> None:
    plain = chosen(chain(), floor=0.5, act_bits=2)
    assert not plain.chosen.widths.activations
    reached = max(trial.agreement or 0.0 for trial in plain.trials)
    choice = chosen(chain(), floor=min(reached + 0.1, 0.97), act_bits=2)
    values = choice.chosen.widths.activations
    assert values and set(values.values()) <= {8, "float"}
    assert (choice.chosen.agreement or 0.0) >= min(reached + 0.1, 0.97)
    assert choice.values.keys() == values.keys()


def test_what_eight_bits_ruin_stays_float_or_takes_the_wider_format_of_the_target() -> None:
    eight = chosen(chain(last=400), floor=0.9)  # of 400 classes two are often nearly as good
    assert not eight.chosen.widths.activations
    floor = max(trial.agreement or 0.0 for trial in eight.trials) + 1 / 64
    assert floor <= 1.0
    choice = chosen(chain(last=400), floor=floor)
    assert set(choice.chosen.widths.activations.values()) == {"float"}
    assert "in float" in explain_choice(choice)["summary"][0]
    wide = chosen(chain(last=400), floor=floor, target=replace(TARGET, wide_activation_bits=16))
    assert set(wide.chosen.widths.activations.values()) == {16}
    assert "of 16 bits" in explain_choice(wide)["summary"][0]


def test_a_floor_that_nothing_keeps_is_said() -> None:
    choice = chosen(chain(last=400), floor=1.0, bits=2, edge_bits=2)
    assert choice.goal == "the smallest file that keeps 100.0% of the decisions; nothing that was tried does"
    assert set(bits_of(choice).values()) == {2}
    assert not choice.chosen.widths.activations


def test_a_floor_needs_decisions() -> None:
    with pytest.raises(UnsupportedModelError, match="no output of this model has classes: give max_size"):
        chosen(chain(last=1), floor=0.9)


def test_the_explanation_tells_every_layer_and_trial_in_plain_values() -> None:
    choice = chosen(chain(), limit=uniform_bytes(4))
    told = explain_choice(choice)
    assert json.loads(json.dumps(told))["goal"] == choice.goal
    assert list(told["layers"]) == list(NODES)
    for node, layer in told["layers"].items():
        assert layer["bits"] == bits_of(choice)[node]
        assert layer["bytes"].keys() == layer["nsr"].keys() == {8, 4, 3, 2}
    assert told["chosen"]["file_bytes"] == choice.chosen.file_bytes
    assert len(told["trials"]) == len(choice.trials)
    first, second = told["summary"]
    assert "bits" in first and f"in at most {uniform_bytes(4)} bytes" in first
    noise = -10 * np.log10(choice.chosen.nsr)
    assert f"noise {noise:.1f} dB below the outputs" in second and "most sensitive is " in second


QUICK = CompileConfig(generator=PriorConfig(), samples=64, effort="fast", speed_trials=False, keep_quality="off")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(chain(), path)
    return path


def test_a_compiled_file_is_within_its_limit_and_its_plan_makes_it_again(model: Path, tmp_path: Path) -> None:
    limit = 20_000
    quick = replace(QUICK, input=InputConfig(mean=(0.0,), std=(1.0,)))
    config = replace(quick, mixed=True, max_size=str(limit))
    result = compile_model(model, config=config)
    assert result.path == model.with_name("net.mixed.onnx")
    assert result.path.stat().st_size <= limit
    assert result.report.mixed is not None
    assert result.report.mixed["chosen"]["file_bytes"] == result.path.stat().st_size
    assert result.plan.weights == {node: told["bits"] for node, told in result.report.mixed["layers"].items()}
    assert len(set(result.plan.weights.values())) > 1
    assert result.report.validation.fusion.unfused == ()

    write_plan(tmp_path / "plan.json", result.plan)
    again = compile_model(model, tmp_path / "again.onnx", quick, given_plan=read_plan(tmp_path / "plan.json"))
    assert again.path.read_bytes() == result.path.read_bytes()
    assert again.plan == result.plan
    assert again.report.mixed is None

    samples = np.random.default_rng(0).standard_normal((8, 8, 6, 6)).astype(np.float32)
    got, wanted = (open_session(path).run({"x": samples})["logits"] for path in (result.path, model))
    assert np.mean((got - wanted) ** 2) < 0.1 * np.var(wanted)


def test_values_that_a_plan_leaves_in_float_do_so_in_the_file(model: Path, tmp_path: Path) -> None:
    given = PlanFile(weights={"conv2": 4}, activations={"r1": "float"})
    result = compile_model(model, tmp_path / "out.onnx", QUICK, given_plan=given)
    assert result.plan.activations["r1"] == "float"
    assert any(refusal.where == "r1" for refusal in result.report.refusals)
    fusion = result.report.validation.fusion
    assert set(fusion.left_float + fusion.unfused) == {"conv1", "conv2"}  # what makes it, and what reads it
    assert result.report.validation.failures == ()


def test_a_plan_for_another_file_is_warned_of(model: Path, tmp_path: Path) -> None:
    given = PlanFile(model_sha256="0" * 64, weights={"conv2": 4}, activations={})
    result = compile_model(model, tmp_path / "out.onnx", QUICK, given_plan=given)
    assert any("made for another file" in note for note in result.report.notes)


def test_goals_that_cannot_be_are_refused_before_the_work(model: Path) -> None:
    with pytest.raises(ConfigError, match="the smallest file that can be made has"):
        compile_model(model, config=replace(QUICK, mixed=True, max_size="1k"))
    with pytest.raises(ConfigError, match="leave one out"):
        compile_model(
            model, config=replace(QUICK, mixed=True, max_size="1"), given_plan=PlanFile(weights={}, activations={})
        )
    assert list(model.parent.iterdir()) == [model]


def test_a_model_without_classes_is_compiled_under_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.conv_bn_relu(), path)
    result = compile_model(path, config=replace(QUICK, mixed=True, max_size="1M"))
    assert set(result.plan.weights.values()) == {8}
