"""Rounding on what the quantized prefix makes. Oracle: numpy's least squares, and the errors of plain rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backends.target import NumberFormat
from passes.plan import WeightSite
from zsq_compile.quantization.calibration.scales import choose_steps
from zsq_compile.quantization.rounding.sequential import CompensatedLayer, InputPair, round_layer

FOUR_BITS = NumberFormat(bits=4, signed=True, symmetric=True)
EXACT = NumberFormat(bits=16, signed=True, symmetric=True)


def site(number_format: NumberFormat = FOUR_BITS) -> WeightSite:
    return WeightSite(initializer="w", node="layer", axis=0, number_format=number_format, bias="b", data_input="x")


def pairs(seed: int, groups: int, size: int, positions: int, noise: float) -> list[InputPair]:
    """Columns of the float network, and the same mixed up a little, shifted and with noise; the second part judges."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, size, size, generator=rng)
    spoilt = torch.eye(size) + 0.5 * torch.randn(groups, size, size, generator=rng) / size**0.5
    made = []
    for judged in (False, True):
        real = mixing @ torch.randn(groups, size, positions, generator=rng) + 1.0
        quantized = spoilt @ real + noise * torch.randn(groups, size, positions, generator=rng) + 0.1
        made.append(InputPair(quantized=quantized, real=real, judged=judged))
    return made


def compensated(weight: Tensor, number_format: NumberFormat, seen: list[InputPair]) -> tuple[CompensatedLayer, Tensor]:
    rows = weight.flatten(1)
    room = 16 if number_format is EXACT else 2  # for weights that grow
    step = room * choose_steps(rows.double(), number_format, "minmax").float()
    layer = round_layer(site(number_format), weight, step, seen)
    assert layer is not None
    return layer, step


def distance(weight: Tensor, candidate: Tensor, seen: list[InputPair]) -> float:
    """Mean squared distance of the layer's outputs from those of the float network."""
    groups = len(seen[0].real)
    wanted, made = (
        torch.cat([w.reshape(groups, len(w) // groups, -1) @ columns for columns in parts], 2)
        for w, parts in ((weight, [p.real for p in seen]), (candidate, [p.quantized for p in seen]))
    )
    return float((wanted - made).square().mean())


def by_definition(weight: np.ndarray, seen: list[InputPair]) -> np.ndarray:
    """Solve with all samples, with the damping of the solution of one part that suits the other part best."""

    def solved(parts: list[InputPair], damping: float) -> np.ndarray:
        quantized, real = (np.concatenate([getattr(p, side)[0] for p in parts], 1) for side in ("quantized", "real"))
        square = quantized @ quantized.T / quantized.shape[1]
        ridge = damping * np.diag(square).mean() * np.eye(len(square))
        cross = real @ quantized.T / quantized.shape[1]
        return weight @ (cross + ridge) @ np.linalg.inv(square + ridge)

    fit, judge = ([pair for pair in seen if pair.judged == judged] for judged in (False, True))
    candidates = {damping: solved(fit, damping) for damping in (0.01, 0.1, 1.0)}
    tensor = torch.from_numpy(weight)
    return solved(seen, min(candidates, key=lambda d: distance(tensor, torch.from_numpy(candidates[d]), judge)))


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_on_a_fine_grid_it_is_least_squares(seed: int) -> None:
    seen = [
        InputPair(quantized=pair.quantized.double(), real=pair.real.double(), judged=pair.judged)
        for pair in pairs(seed, 1, 5, 400, 0.3)
    ]
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).double()
    layer, _ = compensated(weight, EXACT, seen)
    wanted = torch.from_numpy(by_definition(weight.numpy(), seen))
    assert torch.allclose(layer.weight.double(), wanted, atol=3e-3 * float(weight.abs().max()))
    assert distance(weight, layer.weight.double(), seen) < distance(weight, weight, seen)


@pytest.mark.parametrize(("groups", "shape"), [(1, (6, 8, 3, 3)), (16, (16, 1, 3, 3)), (2, (4, 5, 1, 1))])
def test_the_output_is_nearer_than_that_of_the_rounded_weight(groups: int, shape: tuple[int, ...]) -> None:
    size = shape[1] * shape[2] * shape[3]
    seen = pairs(1, groups, size, 60 * size, 0.1)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    layer, step = compensated(weight, FOUR_BITS, seen)
    spread = step.reshape(-1, 1, 1, 1)
    nearest = torch.clamp(torch.round(weight / spread), FOUR_BITS.qmin, FOUR_BITS.qmax) * spread
    alone = round_layer(site(), weight, step, [pair for pair in seen if not pair.judged])
    assert alone is not None
    errors = [distance(weight, candidate, seen) for candidate in (layer.weight, alone.weight, nearest)]
    assert errors[0] < 0.8 * min(errors[1:])
    assert layer.weight.shape == shape


def test_the_shift_is_the_mean_of_what_is_missing() -> None:
    seen = pairs(3, 2, 4, 100, 0.3)
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    layer, _ = compensated(weight, FOUR_BITS, seen)
    real, quantized = (torch.cat([getattr(p, side) for p in seen], 2) for side in ("real", "quantized"))
    wanted = weight.reshape(2, 3, 4) @ real - layer.weight.reshape(2, 3, 4) @ quantized
    assert torch.allclose(layer.shift, wanted.mean(2).flatten(), atol=1e-5)


def test_few_samples_are_not_learned_by_heart() -> None:
    """With fewer positions than columns any output can be met on the samples, and none of it holds on others."""
    rng = torch.Generator().manual_seed(4)

    def chunk(judged: bool, positions: int) -> InputPair:
        real = torch.randn(1, 64, positions, generator=rng)
        quantized = real + 0.3 * torch.randn(1, 64, positions, generator=rng)
        return InputPair(quantized=quantized, real=real, judged=judged)

    weight = torch.randn(4, 64, generator=rng)
    layer, _ = compensated(weight, EXACT, [chunk(False, 40), chunk(True, 10)])
    fresh = [chunk(False, 4000)]
    assert distance(weight, layer.weight, fresh) < 1.05 * distance(weight, weight, fresh)


def test_a_layer_that_nothing_is_known_about_is_left_alone() -> None:
    assert round_layer(site(), torch.ones(2, 3), torch.ones(2), []) is None


def test_channels_that_are_never_on_do_not_break_it() -> None:
    silent = [
        InputPair(quantized=torch.zeros(2, 3, 8), real=torch.zeros(2, 3, 8), judged=judged) for judged in (False, True)
    ]
    layer, _ = compensated(torch.randn(4, 3, generator=torch.Generator().manual_seed(5)), FOUR_BITS, silent)
    assert torch.isfinite(layer.weight).all()
    assert not layer.shift.any()
