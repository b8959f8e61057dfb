import math

import pytest

from zsq_compile.quantization.layer_metrics.layer_quality import LIMIT_DB, LayerQuality, limited_decibels, worst_layers


def a_quality(node: str, own: float, reason: str | None = None) -> LayerQuality:
    return LayerQuality(
        node=node,
        op_type="Conv",
        value=f"{node}_out",
        weight_bits=4,
        activation_bits=8,
        sqnr_db={"scales": 9.0, "biases": 12.25},
        own_sqnr_db=own,
        reason=reason,
    )


@pytest.mark.parametrize(
    ("signal", "noise", "wanted"),
    [
        (1.0, 0.01, 20.0),
        (2.0, 4.0, 10.0 * math.log10(0.5)),
        (1.0, 0.0, LIMIT_DB),
        (0.0, 0.0, LIMIT_DB),
        (0.0, 1.0, -LIMIT_DB),
        (1.0, 1e-30, LIMIT_DB),
        (1e-30, 1.0, -LIMIT_DB),
        (1.0, math.inf, -LIMIT_DB),
        (math.nan, 1.0, -LIMIT_DB),
    ],
)
def test_ratios_are_finite_whatever_comes(signal: float, noise: float, wanted: float) -> None:
    assert limited_decibels(signal, noise) == pytest.approx(wanted, abs=1e-12)


def test_the_worst_come_first_and_equal_ones_keep_their_order() -> None:
    layers = [a_quality("a", 30.0), a_quality("b", 10.0), a_quality("c", 20.0), a_quality("d", 10.0)]
    assert [layer.node for layer in worst_layers(layers)] == ["b", "d", "c"]
    assert [layer.node for layer in worst_layers(layers, 1)] == ["b"]
    assert worst_layers([]) == ()


def test_a_layer_in_words_tells_its_own_ratio_the_last_step_and_the_reason() -> None:
    told = a_quality("conv", 17.04, "few bits: and so on").describe()
    assert told == (
        "conv (Conv, 4-bit weights, 8-bit inputs): 17.0 dB by itself, 12.2 dB in the network; few bits: and so on"
    )
    assert a_quality("conv", 17.04).describe().endswith("12.2 dB in the network")
