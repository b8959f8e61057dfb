import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from zsq_compile.cli.overrides import build_config
from zsq_compile.config.checks import parse_size
from zsq_compile.config.compile import GENERATORS, WIDTHS, CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.config.conditional_generators import GdfqConfig, ZsCganConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.config.fields import settings_of
from zsq_compile.config.file import read_config
from zsq_compile.config.generators import NoiseConfig, PixelsConfig
from zsq_compile.config.units import parse_shape
from zsq_compile.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "zsq.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "")) == CompileConfig()


def test_every_section_is_read(tmp_path: Path) -> None:
    text = """
    target = "ort_cpu"
    samples = 64
    effort = "best"
    seed = 3
    min_agreement = 0.97
    mixed = true
    max_size = "1.5M"

    [input]
    mean = [0.5, 0.5, 0.5]
    std = [1, 0.5, 0.5]

    [input.shapes]
    image = "?x3x8x8"
    "scale:0" = [1, 2]

    [generator]
    kind = "pixels"
    iterations = 50
    learning_rate = 1

    [quantization]
    bits = 4
    calibration_method = "entropy"
    quantize_outputs = true

    [distill]
    steps = 50
    temperature = 20
    mixup = true
    """
    assert read_config(written(tmp_path, text)) == CompileConfig(
        target="ort_cpu",
        samples=64,
        effort="best",
        seed=3,
        min_agreement=0.97,
        mixed=True,
        max_size="1.5M",
        input=InputConfig(
            mean=(0.5, 0.5, 0.5), std=(1.0, 0.5, 0.5), shapes={"image": (None, 3, 8, 8), "scale:0": (1, 2)}
        ),
        generator=PixelsConfig(iterations=50, learning_rate=1.0),
        quantization=QuantizationConfig(bits=4, calibration_method="entropy", quantize_outputs=True),
        distill=DistillConfig(steps=50, temperature=20.0, mixup=True),
    )


def test_what_an_option_reads_may_be_a_string_in_a_file(tmp_path: Path) -> None:
    text = 'time_budget = "10m"\nmemory = "500M"\n[input]\nmean = ".5,.4"\nstd = [1, 1]\n'
    text += '[generator]\nkind = "gdfq"\nclasses = "3,7"\n'
    assert read_config(written(tmp_path, text)) == CompileConfig(
        time_budget=600.0,
        memory=500_000_000,
        input=InputConfig(mean=(0.5, 0.4), std=(1.0, 1.0)),
        generator=GdfqConfig(classes=(3, 7)),
    )


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_is_chosen_by_its_kind(kind: str, tmp_path: Path) -> None:
    read = read_config(written(tmp_path, f'[generator]\nkind = "{kind}"'))
    assert read.generator == GENERATORS[kind]()


def test_the_classes_of_a_generator_are_a_list_of_numbers(tmp_path: Path) -> None:
    read = read_config(written(tmp_path, '[generator]\nkind = "zs-cgan"\nclasses = [3, 7]'))
    assert read.generator == ZsCganConfig(classes=(3, 7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[generator]\nkind = "gdfq"\nclasses = 3', "generator.classes: wanted a list, got 3"),
        ('[generator]\nkind = "gdfq"\nclasses = [1.5]', "generator.classes: wanted a whole number, got 1.5"),
        ("bitz = 3", "unknown key 'bitz' in the top level: did you mean 'quantization.bits'?"),
        ("[quantization]\nbit = 4", "unknown key 'bit' in table [quantization]: did you mean 'bits'?"),
        ("[quantization]\nact-bits = 4", "did you mean 'act_bits'?"),
        ('[generator]\nkind = "pixels"\nlearning_rat = 1', "table [generator]: did you mean 'learning_rate'?"),
        ('[generator]\nkind = "prior"\nx = 1', "this table takes no keys"),
        (
            '[generator]\nkind = "pix"',
            "\"kind\" must be one of noise, prior, pixels, genie, zeroq, dsg, intraq, zs-cgan, gdfq, adadfq, got 'pix'",
        ),
        ("generator = 3", 'generator: wanted a table with a key "kind", got 3'),
        ("quantization = 3", "quantization is a table of keys, written [quantization], got 3"),
        ('[quantization]\nbits = "4"', "quantization.bits: wanted a whole number, got '4'"),
        ("[quantization]\nbits = 4.5", "quantization.bits: wanted a whole number, got 4.5"),
        ("[quantization]\nquantize_outputs = 1", "quantization.quantize_outputs: wanted true or false, got 1"),
        ("seed = true", "seed: wanted a whole number, got True"),
        ("target = 3", "target: wanted a string, got 3"),
        ('[input]\nmean = [1, "a"]', "input.mean: wanted a number, got 'a'"),
        ("[input]\nmean = 1", "input.mean: wanted a list, got 1"),
        ('[input.shapes]\na = "1xq"', "a shape is written 1x3x224x224, with ? for a dynamic size, got '1xq'"),
        ("[input.shapes]\na = true", 'wanted a shape such as "1x3x224x224"'),
        ("[input]\nshapes = 3", "input.shapes is a table of keys, written [input.shapes], got 3"),
        ("distill = true", "distill is a table of keys, written [distill], got True"),
        ('time_budget = "soon"', "time_budget: a time is written 90s, 10m or 1h, got 'soon'"),
        ("time_budget = true", "time_budget: wanted a number, got True"),
        ("seed = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        read_config(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QuantizationConfig(bits=5), "quantization.bits must be one of 8, 4, 3, 2, got 5"),
        (lambda: QuantizationConfig(act_bits=16), "quantization.act_bits must be one of"),
        (lambda: QuantizationConfig(edge_bits=1), "quantization.edge_bits must be one of"),
        (lambda: QuantizationConfig(calibration_method="max"), "must be one of minmax, percentile, mse, entropy"),  # type: ignore[arg-type]
        (lambda: QuantizationConfig(bias_correction="on"), "must be one of auto, analytic, empirical, none"),  # type: ignore[arg-type]
        (lambda: QuantizationConfig(weight_scales="max"), "must be one of minmax, mse"),  # type: ignore[arg-type]
        (lambda: NoiseConfig(distribution="flat"), "must be one of normal, uniform"),  # type: ignore[arg-type]
        (lambda: PixelsConfig(iterations=0), "generator.iterations must be a whole number of at least 1, got 0"),
        (lambda: PixelsConfig(batch_size=-1), "generator.batch_size must be"),
        (lambda: CompileConfig(low_pass=0.0), "low_pass must be a finite number above 0, got 0.0"),
        (lambda: PixelsConfig(learning_rate=0.0), "generator.learning_rate must be a finite number above 0, got 0.0"),
        (lambda: PixelsConfig(class_weight=float("nan")), "class_weight must be a finite number of at least 0"),
        (lambda: InputConfig(mean=(0.5,)), "give both or neither"),
        (lambda: InputConfig(mean=(0.5,), std=(1.0, 1.0)), "one number per channel each, got 1 and 2"),
        (lambda: InputConfig(mean=(), std=()), "one number per channel each, got 0 and 0"),
        (lambda: InputConfig(mean=(0.5,), std=(0.0,)), "input.std[0] must be a finite number above 0"),
        (lambda: InputConfig(mean=(0.5,), std=(1.0,), input_range=(0.0, 1.0)), "give one or the other"),
        (lambda: InputConfig(input_range=(1.0, 1.0)), "input.input_range[1] must be a finite number above 1"),
        (lambda: InputConfig(input_range=(1.0,)), "two numbers, lowest and highest, got 1"),  # type: ignore[arg-type]
        (lambda: InputConfig(shapes={"x": (1, 0)}), "input.shapes.x needs sizes of at least 1"),
        (lambda: InputConfig(shapes={"x": ()}), "input.shapes.x needs sizes"),
        (lambda: DistillConfig(steps=0), "distill.steps must be a whole number of at least 1, got 0"),
        (lambda: DistillConfig(temperature=0.0), "distill.temperature must be a finite number above 0, got 0.0"),
        (lambda: DistillConfig(learning_rate=-1.0), "distill.learning_rate must be a finite number above 0, got -1.0"),
        (lambda: DistillConfig(feature_weight=-1.0), "distill.feature_weight must be a finite number of at least 0"),
        (lambda: DistillConfig(perturbation=-1.0), "distill.perturbation must be a finite number of at least 0"),
        (lambda: CompileConfig(effort="fast", distill=DistillConfig()), "has no steps at the effort fast"),
        (lambda: CompileConfig(target=""), "target needs the name"),
        (lambda: CompileConfig(samples=0), "samples must be a whole number of at least 1, got 0"),
        (
            lambda: CompileConfig(effort="fast", quantization=QuantizationConfig(rounding="lsq")),
            "quantization.rounding lsq learns, and the effort fast only computes: take the effort balanced, or the "
            "rounding gptq",
        ),
        (lambda: CompileConfig(effort="much"), "effort must be one of fast, balanced, best, got 'much'"),  # type: ignore[arg-type]
        (
            lambda: CompileConfig(seed=-1),
            "seed must be a whole number of at least 0 and of at most 9223372036854775807",
        ),
        (lambda: CompileConfig(min_agreement=97.0), "97 % is written 0.97"),
        (lambda: CompileConfig(mixed=True), "mixed needs a goal: max_size (--max-size 200k or 0.15), min_agreement"),
        (lambda: QuantizationConfig(exclude="Softmax"), "exclude takes patterns, each a text such as"),  # type: ignore[arg-type]
        (lambda: QuantizationConfig(exclude=("",)), "exclude takes patterns"),
        (lambda: QuantizationConfig(layer_bits={"a": 5}), "layer_bits of a must be one of 8, 4, 3, 2, float, got 5"),
        (lambda: CompileConfig(metric="eval.py"), "metric needs a command and {model} where"),
        (lambda: CompileConfig(metric="{model}"), "metric needs a command and {model} where"),
        (lambda: CompileConfig(metric="a '{model}"), "metric is no command (No closing quotation)"),
        (
            lambda: CompileConfig(max_size="200k"),
            "max_size limits the bits that mixed chooses: give mixed (--mixed)",
        ),
        (lambda: CompileConfig(mixed=True, max_size="small"), "a size is written 200k, 1.5M or"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_made(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        make()


@pytest.mark.parametrize("kind", [CompileConfig, InputConfig, QuantizationConfig, DistillConfig, *GENERATORS.values()])
def test_configs_are_values(kind: type) -> None:
    config = kind()
    assert config == kind()
    for one in settings_of(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, one.name, None)
        assert one.description, f"{kind.__name__}.{one.name} is not described"


@pytest.mark.parametrize(
    ("text", "size"),
    [("200k", 200_000), ("1.5M", 1_500_000), ("2GB", 2 * 10**9), ("4096", 4096), ("0.15", 0.15), ("1", 1.0)],
)
def test_a_size_is_bytes_or_a_share(text: str, size: int | float) -> None:
    assert parse_size(text) == size
    assert type(parse_size(text)) is type(size)


@pytest.mark.parametrize("text", ["", "k", "-1k", "0", "1.5X", "nan", "15%"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a size is written 200k"):
        parse_size(text)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width_is_taken(bits: int) -> None:
    assert QuantizationConfig(bits=bits, act_bits=bits, edge_bits=bits).bits == bits


@pytest.mark.parametrize(
    ("text", "shape"), [("1x3x224x224", (1, 3, 224, 224)), ("?x42", (None, 42)), ("1X3", (1, 3)), ("7", (7,))]
)
def test_a_shape_is_read(text: str, shape: tuple[int | None, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "x", "1x", "1x-3", "1x3.5", "0x3", "1,3", "nx3"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_shape(text)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485,), (0.229,)), ((0.0,), (1 / 255,)), ((1.0,), (1 / 70,)), ((2.0,), (0.2,))]
)
def test_means_of_unusual_ranges_are_taken(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    assert InputConfig(mean=mean, std=std).mean == mean


def test_patterns_of_a_file_are_those_of_the_options(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text('[quantization]\nexclude = ["Softmax", "/head/*"]\nlayer_bits = {"*" = 8, "/neck/*" = "float"}\n')
    chosen = read_config(path).quantization
    assert chosen.exclude == ("Softmax", "/head/*")
    assert list(chosen.layer_bits.items()) == [("*", 8), ("/neck/*", "float")]
    given = {"exclude": ["Softmax", "/head/*"], "layer_bits": ["*=8", "/neck/*=float"]}
    assert build_config(given).quantization == chosen


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('exclude = "Softmax"', "exclude: wanted a list"),
        ('layer_bits = {"*" = true}', "layer_bits: wanted a whole number"),
        ('layer_bits = {"*" = 7}', "layer_bits of * must be one of"),
    ],
)
def test_patterns_that_are_none_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(f"[quantization]\n{text}\n")
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_config(path)


def test_a_metric_is_a_goal_that_keeps_99_percent_unless_another_share_is_given() -> None:
    command = "python eval.py {model}"
    assert CompileConfig(mixed=True, metric=command).least_kept == 0.99
    assert CompileConfig(mixed=True, metric=command, min_agreement=0.9).least_kept == 0.9
    assert CompileConfig().least_kept is None
