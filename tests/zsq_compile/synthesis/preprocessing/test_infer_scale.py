from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from tests import models
from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.data.input_spec import InputKind, InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import SignalFamily
from zsq_compile.synthesis.preprocessing.infer_scale import infer_scale, usual_guesses
from zsq_compile.synthesis.preprocessing.plan_scan import SCAN_WORK
from zsq_compile.synthesis.preprocessing.trial_costs import count_trial
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork
from zsq_compile.synthesis.preprocessing.watch_scales import find_layers, watch_scales
from zsq_compile.synthesis.signals.draw import signals

PERCEPTRON = """
perceptron (float[N,16] x) => (float[N,4] y) <float[32,16] w0, float[32] b0, float[4,32] w1, float[4] b1>
{ [first] h = Gemm<transB=1>(x, w0, b0) r = Relu(h) [last] l = Gemm<transB=1>(r, w1, b1) y = Softmax<axis=1>(l) }
"""
NORMALISED = (
    PERCEPTRON.replace("Gemm<transB=1>(x, w0", "Gemm<transB=1>(n, w0")
    .replace("{ [first]", "{ n = LayerNormalization<axis=1, epsilon=0.0>(x, one) [first]")
    .replace("float[4] b1>", "float[4] b1, float[16] one>")
)


def trained(deviation: float, steps: int = 300) -> dict[str, NDArray[np.float32]]:
    """Weights of a classifier of four, trained on rows of a deviation: the largest of four sums of features."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(2000, 16, generator=rng)
    labels = (rows.reshape(-1, 4, 4).sum(2) + 0.3 * torch.randn(2000, 4, generator=rng)).argmax(1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        part = torch.arange(step * 64, step * 64 + 64) % 2000
        loss = torch.nn.functional.cross_entropy(network(rows[part] * deviation), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    names = ("w0", "b0", "w1", "b1")
    return {name: value.detach().numpy() for name, value in zip(names, network.parameters(), strict=True)}


def network_of(text: str, weights: dict[str, NDArray[np.float32]], kind: InputKind = "table") -> TrialNetwork:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(models.parse(text, weights=weights)))
    spec = InputSpec(name="x", shape=(None, 16), dtype=np.dtype(np.float32), kind=kind)
    return TrialNetwork(model=model, spec=spec, others={})


def draw(family: SignalFamily, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return signals(shape, family, seeded()).numpy()


def middle(posterior: Posterior) -> float:
    """Median of the deviation."""
    gains = sorted((1.0 / one.preprocessing.std[0], one.probability) for one in posterior.hypotheses)
    held = np.cumsum([probability for _, probability in gains])
    return gains[int(np.searchsorted(held, 0.5))][0]


@pytest.mark.parametrize("deviation", [1.0, 10.0])
def test_the_scale_of_a_trained_network_is_found_within_half_a_decade(deviation: float) -> None:
    found = infer_scale(network_of(PERCEPTRON, trained(deviation)), draw)
    assert found is not None
    assert abs(np.log10(middle(found) / deviation)) <= 0.51  # the grid has two scales a decade
    scales = [1.0 / one.preprocessing.std[0] for one in found.plausible]
    assert min(scales) <= deviation <= max(scales)
    assert sum(one.probability for one in found.hypotheses) == pytest.approx(1.0)


def test_weights_that_are_ten_times_smaller_mean_an_input_that_is_ten_times_larger() -> None:
    weights = trained(1.0)
    smaller = {**weights, "w0": weights["w0"] / 10}
    found = [infer_scale(network_of(PERCEPTRON, one), draw) for one in (weights, smaller)]
    assert found[0] is not None
    assert found[1] is not None
    assert middle(found[1]) >= 3.0 * middle(found[0])


def test_behind_a_normalisation_of_each_sample_any_scale_will_do() -> None:
    weights = {**trained(1.0), "one": np.ones(16, np.float32)}
    found = infer_scale(network_of(NORMALISED, weights), draw)
    assert found is not None
    assert not found.is_open
    assert found.best.is_certain
    assert found.best.name == "standard"


def test_what_is_no_signal_has_no_scale() -> None:
    assert infer_scale(network_of(PERCEPTRON, trained(1.0, 1), "tokens"), draw) is None


def test_a_waveform_is_taken_at_full_scale_the_more_the_larger_the_first_weights_are() -> None:
    found = [infer_scale(network_of(PERCEPTRON, trained(deviation), "waveform"), draw) for deviation in (0.07, 1.0)]
    quiet, loud = (
        sum(one.probability for one in posterior.hypotheses if one.preprocessing.family == "sound")
        for posterior in found
        if posterior is not None
    )
    assert quiet > loud
    assert {one.preprocessing.family for posterior in found if posterior for one in posterior.plausible} <= {
        "sound",
        "levelled",
    }


def test_what_a_network_that_computes_a_spectrum_takes_is_hardly_ever_levelled() -> None:
    spec = InputSpec(name="x", shape=(None, 576), dtype=np.dtype(np.float32), kind="waveform")
    for transforms, most in ((True, 0.05), (False, 0.5)):
        guesses = usual_guesses(spec, transforms=transforms)
        assert sum(guess.odds for guess in guesses) == pytest.approx(1.0)
        assert 0.0 < sum(guess.odds for guess in guesses if guess.family == "levelled") < most


def test_widths_follow_the_scale_and_biases_the_other_way() -> None:
    network = network_of(PERCEPTRON, trained(1.0))
    watched = find_layers(network.model, "x")
    assert [layer.value for layer in watched.layers] == ["h", "l"]
    assert watched.head == "softmax"
    rows = draw("rows", (64, 16))
    feeds: Sequence[NDArray[np.float32]] = (rows, np.float32(np.e) * rows)
    one, other = watch_scales(network, watched, [lambda values=values: values for values in feeds])  # type: ignore[misc]
    assert one is not None
    assert other is not None
    assert other.first - one.first == pytest.approx(1.0, abs=1e-4)
    assert one.first_bias - other.first_bias == pytest.approx(1.0, abs=1e-4)
    assert one.firm < other.firm
    assert 0.0 < one.varied < 1.0


def test_a_network_that_is_too_large_to_be_tried_has_the_usual_odds() -> None:
    network = network_of(PERCEPTRON, trained(10.0, 1))
    coarse, prior = (infer_scale(network, draw, work) for work in (150_000, 10))
    assert coarse is not None and prior is not None
    assert "too large" in prior.best.reason and "too large" not in coarse.best.reason
    guesses = {(guess.family, f"{guess.gain:.3g}"): guess.odds for guess in usual_guesses(network.spec)}
    for one in prior.hypotheses:
        key = (one.preprocessing.family or "noise", f"{1.0 / one.preprocessing.std[0]:.3g}")
        assert one.probability == pytest.approx(guesses[key], rel=0.01)  # the least probable are left out
    assert len(coarse.hypotheses) > 5


def test_a_coarse_scan_finds_about_the_same_scale() -> None:
    network = network_of(PERCEPTRON, trained(10.0))
    cost = count_trial(network.model, ["h", "l"]).work
    whole, coarse = (infer_scale(network, draw, work) for work in (SCAN_WORK, 150 * cost))
    assert whole is not None and coarse is not None
    assert abs(np.log10(middle(whole) / middle(coarse))) <= 0.51


def test_batches_that_are_run_one_by_one_show_the_same() -> None:
    network, rows = network_of(PERCEPTRON, trained(1.0)), draw("rows", (64, 16))
    watched = find_layers(network.model, "x")
    (whole,), (parts,) = (watch_scales(network, watched, [lambda: rows], together) for together in (64, 10))
    assert whole is not None and parts is not None
    np.testing.assert_allclose(astuple(whole), astuple(parts), rtol=1e-5)


def test_a_state_whose_batch_lies_elsewhere_is_fed_whole() -> None:
    network = network_of(
        """
        listener (float[1,16] x, float[2,1,16] h0) => (float[1,4] l) <float[4,16] w0, float[4] b0, int64 last>
        { s = ReduceSum<keepdims=0>(h0) a = Add(x, s) [first] l = Gemm<transB=1>(a, w0, b0) }
        """,
        {"w0": trained(1.0, 1)["w0"][:4], "b0": np.ones(4, np.float32), "last": np.array(1)},
    )
    spec = replace(network.spec, shape=(1, 16))
    states = {"h0": np.full((2, 1, 16), 3.0, np.float32)}
    fed = replace(network, spec=spec, others=states, aside=frozenset({"h0"}))
    (found,) = fed.run(fed.open(["s"]), draw("rows", (1, 16)))
    assert float(found["s"]) == 96.0  # 2 layers of 16 threes
