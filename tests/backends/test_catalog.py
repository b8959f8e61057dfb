from pathlib import Path

import pytest

from backends import catalog
from backends.catalog import TargetError, load_target, target_names

SHIPPED = Path(catalog.__file__).parent / "targets" / "ort_cpu.toml"


def written(tmp_path, old="", new=""):
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_loads_under_its_name(name):
    target = load_target(name)
    assert target.name == name
    assert target.operators
    assert target.providers


def test_ort_cpu_says_what_the_rest_relies_on():
    target = load_target("ort_cpu")
    assert (target.activation.qmin, target.activation.qmax) == (0, 255)
    assert (target.weight.qmin, target.weight.qmax) == (-127, 127)
    assert target.opset >= 21
    conv = target.rule("Conv")
    assert conv is not None
    assert (conv.kind, conv.fused_as, conv.float_output) == ("weighted", "QLinearConv", False)
    assert target.rule("Tanh") is None


def test_a_file_of_the_users_is_read_by_its_path(tmp_path):
    target = load_target(written(tmp_path, "opset = 21", "opset = 23"))
    assert (target.name, target.opset) == ("mine", 23)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("narrow = true", "narow = true", r"unknown key 'narow' in target.weight; did you mean 'narrow'\?"),
        ("opset = 21", "opsett = 21", r"unknown key 'opsett' in target; did you mean 'opset'\?"),
        ("opset = 21\n", "", "the key 'opset' is missing"),
        ("opset = 21", 'opset = "21"', "target.opset: wanted int, got '21'"),
        ("bits = 8", "bits = true", "target.activation.bits: wanted int, got True"),
        ("bits = 8", "bits = 40", r"activation.bits must lie in 2..16, got 40"),
        ('kind = "weighted"', 'kind = "heavy"', r"target.operators\[0\].kind: heavy"),
        ('op_type = "Gemm"', 'op_type = "Conv"', "the operator Conv has more than one row"),
        ('structure = "powers"', 'structure = "silo"', r"target.keep_float\[0\].structure: silo"),
        (
            'structure = "powers"',
            'structure = "spectrum"',
            "the structure spectrum has more than one row in keep_float",
        ),
        ("opset = 21", "opset = ", "cannot read the target file"),
        ("opset = 21", "opset = 21\nleast_activation_bits = 1", r"least_activation_bits must lie in 2..8, got 1"),
        ("opset = 21", 'opset = 21\nbias = "int16"', "target.bias: int16"),
        ("opset = 21", "opset = 21\nbased_on = 3", "based_on must be the name of a target, got 3"),
        ("opset = 21", 'opset = 21\nbased_on = "ort_cup"', "there is no target 'ort_cup'"),
        ("symmetric = true", "symmetric = false", "weight.symmetric must be true"),
        ("block_size = 256", "block_size = 48", r"block_size must be 0 \(never\) or one of 16, .*, got 48"),
        ("most_rows = 1", "most_rows = 0", "most_rows of 1 or more, got 524288 and 0"),
        ("packed_weight_bits = 4", "packed_weight_bits = 0", "blockwise stores INT4, but .* is 0: set it to 4"),
        ("most_rows = 1", "rows = 1", "unknown key 'rows' in target.blockwise"),
        ("opset = 21", "opset = 21\nsession_config = {a = 1}", "session_config.* wanted str, got 1"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, old, new, words):
    with pytest.raises(TargetError, match=words):
        load_target(written(tmp_path, old, new))


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(TargetError, match=r"no target 'ort_cup'; did you mean 'ort_cpu'\?"):
        load_target("ort_cup")
    with pytest.raises(TargetError, match=r"known targets: .*ort_cpu"):
        load_target("completely different")
    with pytest.raises(TargetError, match="cannot read"):
        load_target(tmp_path / "absent.toml")


def test_a_file_may_be_based_on_another_and_say_only_what_differs(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "ort_cpu"\ndescription = "mine"\nopset = 23\n', encoding="utf-8")
    target, base = load_target(path), load_target("ort_cpu")
    assert (target.name, target.description, target.opset) == ("mine", "mine", 23)
    assert (target.operators, target.activation) == (base.operators, base.activation)


def test_files_that_are_based_on_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        text = f'based_on = "{tmp_path / other}.toml"\n'
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    with pytest.raises(TargetError, match="is based on itself"):
        load_target(tmp_path / "a.toml")


def test_weights_in_blocks_are_for_the_processor_on_which_they_were_measured():
    assert [name for name in target_names() if load_target(name).blockwise.block_size] == ["ort_cpu"]
