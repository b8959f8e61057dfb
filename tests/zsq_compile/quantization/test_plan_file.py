import json
import re
from pathlib import Path
from typing import Any

import pytest

from zsq_compile.errors import ConfigError
from zsq_compile.quantization.plan_file import PlanFile, read_plan, write_plan

PLAN = PlanFile(model_sha256="ab12", weights={"conv1": 4, "gemm": 8}, activations={"r1": 8, "x": "float"})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, PLAN)
    assert read_plan(path) == PLAN
    assert json.loads(path.read_text()) == {
        "version": 1,
        "model_sha256": "ab12",
        "exclude": [],
        "layer_bits": {},
        "weights": {"conv1": 4, "gemm": 8},
        "activations": {"r1": 8, "x": "float"},
    }
    assert list(tmp_path.iterdir()) == [path]


def test_patterns_and_float_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plain = {"version": 1, "exclude": ["Softmax"], "layer_bits": {"/head/*": "float"}, "weights": {"a": "float"}}
    path.write_text(json.dumps(plain))
    wanted = PlanFile(exclude=("Softmax",), layer_bits={"/head/*": "float"}, weights={"a": "float"})
    assert read_plan(path) == wanted


def test_a_plan_by_hand_may_name_a_single_layer(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"version": 1, "weights": {"conv1": 4}}')
    assert read_plan(path) == PlanFile(weights={"conv1": 4}, activations={})


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"version": 2}, "this zsq-compile reads version 1, got 2; make the plan again with --save-plan"),
        ({}, "reads version 1, got None"),
        (
            {"version": 1, "weight": {}},
            "unknown key 'weight'; it has version, model_sha256, exclude, layer_bits, weights, activations",
        ),
        ({"version": 1, "exclude": "a"}, "exclude must be a list of patterns, got 'a'"),
        ({"version": 1, "layer_bits": {"a": "f"}}, "layer_bits.a must be a number of bits or \"float\", got 'f'"),
        ({"version": 1, "weights": [4]}, "weights must be an object of names and widths, got [4]"),
        ({"version": 1, "weights": {"a": True}}, 'weights.a must be a number of bits or "float", got True'),
        (
            {"version": 1, "activations": {"a": "flat"}},
            "must be a number of bits or \"float\", got 'flat'",
        ),
        ({"version": 1, "activations": {"a": 7.5}}, "got 7.5"),
        ({"version": 1, "model_sha256": 3}, "model_sha256 must be a text, got 3"),
        ([1], "must hold an object with weights and activations, got [1]"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_its_place(plain: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json cannot be read: No such file"):
        read_plan(tmp_path / "absent.json")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match=r"plan\.json is not valid JSON"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match=r"plan\.json cannot be written"):
        write_plan(tmp_path / "no" / "plan.json", PLAN)
