import numpy as np
import onnx_ir as ir
import pytest

from passes.emit.emit import emit
from passes.quantize.override_widths import Widths, override_widths
from tests.quantizing import execute
from tests.widening import PLAIN, TARGET, chain, images, ready
from tests.zsq_compile.quantization.networks import planned_state, silent_clock
from zsq_compile.config.compile import WIDTHS, QuantizationConfig
from zsq_compile.errors import ConfigError
from zsq_compile.quantization.closed_form import Calibrate, CorrectBiases, Round
from zsq_compile.quantization.mixed_precision.trials import Bench
from zsq_compile.quantization.samples import count_fitting_samples

BITS = {"conv0": 8, "conv1": 4, "conv2": 3, "conv3": 2, "gemm": 4}


def bench(config: QuantizationConfig = PLAIN, *, held_out: int = 64) -> Bench:
    network, state = ready(chain(), config, held_out=held_out)
    return Bench(network, state.plan, config)


def test_a_trial_is_the_network_that_its_widths_make() -> None:
    network, state = ready(chain())
    told: list[int] = []
    bench = Bench(network, state.plan, PLAIN, told.append)
    assert sum(told) == len(WIDTHS) + 1  # batch of 32: every other of 64 samples held out
    trial = bench.measure("by hand", BITS, {"r1": 4})

    widths = Widths(weights=BITS, activations={"r1": 4})
    state = planned_state(network, override_widths(state.plan, TARGET, widths))
    for step in (Calibrate(config=PLAIN), Round(), CorrectBiases()):
        state, _ = step.run(network, state, silent_clock())
    quantized = state.qdq.clone()
    emit(quantized, state.plan, TARGET)
    held_out = {"x": images(64, seed=1).numpy()[::2]}
    wanted, got = execute(network.model, held_out)["logits"], execute(quantized, held_out)["logits"]

    assert (trial.what, trial.widths) == ("by hand", widths)
    assert bench.trials == [trial]
    # the runtime's codes flip here and there: 10 % of the noise, and one decision in 64
    assert trial.nsr == pytest.approx(np.mean((got - wanted) ** 2) / np.var(wanted), rel=0.1)
    assert trial.agreement == pytest.approx(np.mean(got.argmax(1) == wanted.argmax(1)), abs=1 / 32)
    assert trial.file_bytes == len(ir.to_proto(quantized).SerializeToString())


def test_every_layer_is_measured_at_every_width_between_the_narrowest_and_the_widest() -> None:
    layers = {layer.node: layer for layer in bench(QuantizationConfig(bits=4, edge_bits=3)).layers}
    assert {node: sorted(layer.size) for node, layer in layers.items()} == {
        "conv0": [3, 4],
        "conv1": [2, 3, 4],
        "conv2": [2, 3, 4],
        "conv3": [2, 3, 4],
        "gemm": [3, 4],
    }
    for layer in layers.values():
        assert all(layer.nsr[few] > layer.nsr[few + 1] > 0.0 for few in sorted(layer.nsr)[:-1])
    assert layers["conv2"].size[2] < layers["conv2"].size[3] < layers["conv2"].size[4] < 9216


def test_nsr_adds_up_nearly() -> None:
    trials = bench()
    narrow = dict.fromkeys(BITS, 4)
    alone = sum(layer.nsr[4] for layer in trials.layers)
    activations = trials.measure("widest", dict.fromkeys(BITS, 8)).nsr
    together = trials.measure("narrow", narrow).nsr
    assert together == pytest.approx(alone + activations, rel=0.5)


def test_fewer_bits_of_activations_have_more_nsr() -> None:
    trials = bench()
    wide, narrow = trials.value_nsr(8), trials.value_nsr(4)
    assert wide.keys() == narrow.keys() == {"x", "r0", "r1", "r2", "f"}
    assert all(narrow[name] / wide[name] > 16 for name in wide)


def test_measuring_needs_samples() -> None:
    with pytest.raises(ConfigError, match="not one batch of them: give more samples"):
        bench(held_out=0)


def test_samples_at_a_time_follow_the_size_of_all_values() -> None:
    model = ready(chain())[0].model
    assert count_fitting_samples(model) == 32
    image = ir.Shape(["N", 64, 1000, 1000])
    for node in model.graph:
        node.outputs[0].shape = image
    assert count_fitting_samples(model) == 1
