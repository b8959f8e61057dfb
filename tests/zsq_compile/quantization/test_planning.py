import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.emit.emit import emitted_bytes
from tests import models
from tests.quantizing import prepare
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.errors import ConfigError, QuantizationError
from zsq_compile.quantization.plan_file import PlanFile, make_plan_file
from zsq_compile.quantization.planning import (
    describe_bits,
    plan_narrowest,
    plan_quantization,
    require_within,
    resolve_limit,
)

TARGET = load_target("ort_cpu")
CONFIG = QuantizationConfig()


@pytest.fixture
def model() -> ir.Model:
    return prepare(models.residual())


def test_edges_keep_eight_bits_unless_a_number_is_given(model: ir.Model) -> None:
    bits = {}
    for edge_bits in (None, 4):
        config = QuantizationConfig(bits=2, edge_bits=edge_bits)
        bits[edge_bits] = [site.number_format.bits for site in plan_quantization(model, TARGET, config).weights]
    assert bits == {None: [8, 2, 2, 8], 4: [4, 2, 2, 4]}


def test_mixed_widths_go_below_the_edges_eight_bits_only_where_no_number_is_given(model: ir.Model) -> None:
    for edge_bits, wanted in ((None, [2, 2, 2, 2]), (8, [8, 2, 2, 8]), (4, [4, 2, 2, 4])):
        config = QuantizationConfig(edge_bits=edge_bits)
        assert [site.number_format.bits for site in plan_narrowest(model, TARGET, config).weights] == wanted


def test_a_limit_is_bytes_or_a_share_of_the_float_file(model: ir.Model) -> None:
    smallest = emitted_bytes(model, plan_narrowest(model, TARGET, CONFIG), TARGET)
    assert resolve_limit(model, TARGET, CONFIG, None, 10_000) is None
    assert resolve_limit(model, TARGET, CONFIG, str(smallest), 10_000) == smallest
    assert resolve_limit(model, TARGET, CONFIG, "0.5", 2 * smallest) == smallest


def test_a_limit_that_nothing_fits_into_is_refused_with_the_smallest_file(model: ir.Model) -> None:
    smallest = emitted_bytes(model, plan_narrowest(model, TARGET, CONFIG), TARGET)
    with pytest.raises(ConfigError, match=rf"allows {smallest - 1} bytes, but .* has {smallest} .*4 layers of 2 bits"):
        resolve_limit(model, TARGET, CONFIG, str(smallest - 1), 10_000)
    with pytest.raises(
        ConfigError, match="layers of 8 bits, 2 layers of 2 bits: allow that many, or leave edge_bits out"
    ):
        resolve_limit(model, TARGET, QuantizationConfig(edge_bits=8), str(smallest), 10_000)


def test_a_plan_that_names_no_layer_of_the_model_is_refused_with_the_nearest(model: ir.Model) -> None:
    with pytest.raises(ConfigError, match=r"does not fit: this model has no layer .conv_1.; did you mean .conv1."):
        plan_quantization(model, TARGET, CONFIG, PlanFile(weights={"conv_1": 4}, activations={}))
    given = PlanFile(weights={"conv1": 4}, activations={"r1": "float"})
    plan = plan_quantization(model, TARGET, CONFIG, given)
    assert [site.number_format.bits for site in plan.weights] == [8, 4, 8, 8]
    assert "r1" not in {site.value for site in plan.activations}


def test_a_file_that_has_grown_beyond_its_limit_is_not_written(model: ir.Model) -> None:
    size = ir.to_proto(model).ByteSize()
    require_within(model, None)
    require_within(model, size)
    with pytest.raises(QuantizationError, match=f"would have {size} bytes, and max_size allows {size - 1}"):
        require_within(model, size - 1)


def test_widths_in_words() -> None:
    assert describe_bits([8, 4, 4, 2]) == "1 layer of 8 bits, 2 layers of 4 bits, 1 layer of 2 bits"


def test_narrower_values_than_the_target_has_are_refused(model: ir.Model) -> None:
    config = QuantizationConfig(act_bits=4)
    with pytest.raises(ConfigError, match=r"act_bits must be at least 8 on tensorrt, .*, got 4: give --act-bits 8"):
        plan_quantization(model, load_target("tensorrt"), config)
    assert plan_quantization(model, TARGET, config).weights


def bits_of(model: ir.Model, config: QuantizationConfig, given: PlanFile | None = None) -> dict[str, int]:
    return {site.node: site.number_format.bits for site in plan_quantization(model, TARGET, config, given).weights}


def test_later_patterns_of_bits_win(model: ir.Model) -> None:
    config = QuantizationConfig(layer_bits={"*": 4, "conv[01]": 2, "Gemm": 8, "w2": 3})
    assert bits_of(model, config) == {"conv0": 2, "conv1": 2, "conv2": 3, "gemm": 8}
    assert bits_of(model, QuantizationConfig(layer_bits={"conv1": 2, "*": 4})) == dict.fromkeys(
        ("conv0", "conv1", "conv2", "gemm"), 4
    )


def test_float_weights_have_no_site_and_leave_the_rest(model: ir.Model) -> None:
    config = QuantizationConfig(bits=4, exclude=("conv1",), layer_bits={"conv2": "float", "conv1": 4})
    plan = plan_quantization(model, TARGET, config)
    assert [site.node for site in plan.weights] == ["conv0", "gemm"]
    assert set(plan.excluded) == {"conv1", "conv2"}


def test_the_options_win_over_names_of_the_plan_and_these_over_its_patterns(model: ir.Model) -> None:
    given = PlanFile(
        layer_bits={"conv*": 3}, exclude=("gemm",), weights={"conv1": 4, "conv2": "float"}, activations={"r1": 8}
    )
    assert bits_of(model, CONFIG, given) == {"conv0": 3, "conv1": 4}
    asked = QuantizationConfig(layer_bits={"conv[12]": 2}, exclude=("conv0",))
    assert bits_of(model, asked, given) == {"conv1": 2, "conv2": 2}


def test_a_saved_plan_says_the_same_without_the_options(model: ir.Model) -> None:
    config = QuantizationConfig(bits=4, exclude=("Add", "r1"), layer_bits={"conv2": "float", "conv1": 2})
    plan = plan_quantization(model, TARGET, config)
    again = plan_quantization(model, TARGET, CONFIG, make_plan_file(plan, ""))
    assert (again.weights, again.activations, again.excluded) == (plan.weights, plan.activations, plan.excluded)


def test_named_layers_keep_their_bits_where_the_others_are_chosen(model: ir.Model) -> None:
    config = QuantizationConfig(layer_bits={"conv1": 4, "conv2": "float"})
    for plan in (plan_quantization(model, TARGET, config), plan_narrowest(model, TARGET, config)):
        assert {site.node: site.number_format.bits for site in plan.weights}["conv1"] == 4
        assert "conv2" not in {site.node for site in plan.weights}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (QuantizationConfig(exclude=("Sigmod",)), r"exclude: the pattern 'Sigmod' fits no layer"),
        (QuantizationConfig(layer_bits={"Relu": 8}), r"layer_bits: the pattern 'Relu' fits no layer with weights"),
        (QuantizationConfig(exclude=("*",)), "leave nothing to quantize"),
        (QuantizationConfig(layer_bits={"*": "float"}), "leave nothing to quantize"),
    ],
    ids=str,
)
def test_patterns_that_do_not_suit_are_refused(model: ir.Model, config: QuantizationConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_quantization(model, TARGET, config)


def test_layers_that_share_a_weight_need_one_word() -> None:
    shared = prepare(
        models.parse(
            """
            shared (float[N,8,8,8] x) => (float[N,8,8,8] y)
            <float[8,8,3,3] w, float[8,8,3,3] v>
            {
                [first] a = Conv<pads=[1,1,1,1]>(x, w)
                [relu] b = Relu(a)
                [second] c = Conv<pads=[1,1,1,1]>(b, w)
                [other] y = Conv<pads=[1,1,1,1]>(c, v)
            }
            """
        )
    )
    for bits, said in ((4, "8 and 4|4 and 8"), ("float", "float and 8")):
        config = QuantizationConfig(layer_bits={"first": 8, "second": bits})
        with pytest.raises(ConfigError, match=rf"share one weight, so they need equal bits, got ({said})"):
            plan_quantization(shared, TARGET, config)
    config = QuantizationConfig(layer_bits={"second": "float"})
    assert [site.node for site in plan_quantization(shared, TARGET, config).weights] == ["other"]
