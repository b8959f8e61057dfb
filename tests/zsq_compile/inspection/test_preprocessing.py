import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from tests import models
from tests.zsq_compile.frontend.quick import load_quickly
from zsq_compile.data.conventions import Convention, usual_conventions
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.inspection.natural_images import natural_fields
from zsq_compile.inspection.preprocessing import QuickContract, quick_contract
from zsq_compile.synthesis.preprocessing.infer import candidate_contracts, infer_contract

ASSETS = Path(os.environ.get("ZSQ_ASSETS", Path(__file__).resolve().parents[3] / "../shared/assets")) / "models"
WILD = ("ultraface_rfb320", "pfld_landmark")
FILES = [*sorted(ASSETS.glob("*/*_bn.onnx")), *(ASSETS / "wild" / f"{name}.onnx" for name in WILD)]
INPUT = (InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32)),)


def trained_with(convention: Convention, *, seed: int = 0) -> ir.Model:
    """A network whose first BatchNormalization remembers pictures as a convention feeds them."""
    pictures = natural_fields(64, 3, 8, 8, np.random.default_rng(5))
    weight = np.random.default_rng(seed).standard_normal((8, 3, 1, 1)).astype(np.float32)
    seen = np.einsum("nchw,kc->nkhw", convention.encode(pictures), weight[:, :, 0, 0])
    text = """
    net (float[N,3,8,8] x) => (float[N,8,8,8] y)
    <float[8,3,1,1] w, float[8] scale, float[8] shift, float[8] mean, float[8] variance>
    { c = Conv(x, w) n = BatchNormalization(c, scale, shift, mean, variance) y = Relu(n) }
    """
    moments = {"w": weight, "mean": seen.mean((0, 2, 3)), "variance": seen.var((0, 2, 3))}
    return models.graph(text, weights=moments)


def found(model: ir.Model, inputs: tuple[InputSpec, ...] = INPUT) -> QuickContract:
    contract = quick_contract(model, harvest_batchnorm(model), inputs, np.random.default_rng(0))
    assert contract is not None
    return contract


@pytest.mark.parametrize("convention", usual_conventions(3), ids=lambda one: one.name)
def test_the_convention_that_a_network_remembers_is_found(convention: Convention) -> None:
    contract = found(trained_with(convention))
    assert (contract.convention.name, contract.inferred) == (convention.name, True)
    assert contract.margin is not None and contract.margin > 1.5


def test_conventions_are_those_that_compiling_tries() -> None:
    for channels in (1, 3):
        ours = [(one.name, one.mean, one.std, one.channel_order) for one in usual_conventions(channels)]
        theirs = [(one.name, one.mean, one.std, one.channel_order) for one in candidate_contracts(channels)]
        assert ours == theirs
        pixels = natural_fields(2, channels, 4, 4, np.random.default_rng(0))
        for one, other in zip(usual_conventions(channels), candidate_contracts(channels), strict=True):
            np.testing.assert_allclose(one.encode(pixels), other.encode(torch.from_numpy(pixels)), rtol=1e-5, atol=1e-5)


def test_moments_that_no_convention_makes_are_told() -> None:
    model = trained_with(usual_conventions(3)[0])
    for name in ("mean", "variance"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(1e6 * np.abs(value.const_value.numpy()) + 7.0, name=name)  # type: ignore[union-attr]
    contract = found(model)
    assert (contract.convention.name, contract.inferred, contract.margin) == ("imagenet", False, None)
    assert "no usual convention comes near the statistics" in contract.reason


@pytest.mark.parametrize(
    ("opening", "name"),
    [
        ("d = Div(x, k)", "byte"),
        ("e = Add(x, zero) d = Mul(e, tiny)", "byte"),
        ("d = Sub(x, half)", "unit"),
        ("d = Relu(x)", "imagenet"),
    ],
)
def test_without_statistics_the_opening_of_the_graph_tells(opening: str, name: str) -> None:
    model = models.graph(
        f"""
        net (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float k = {{255.0}}, float zero = {{0.0}}, float tiny = {{0.0039}}, float half = {{0.5}}, float[4,3,3,3] w>
        {{ {opening} y = Conv<pads=[1,1,1,1]>(d, w) }}
        """
    )
    contract = found(model)
    assert (contract.convention.name, contract.inferred) == (name, False)
    assert contract.reason.startswith("no batch normalisation tells; assumed, as ")


def test_biases_that_dwarf_small_pictures_ask_for_bytes() -> None:
    text = "net (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4] b> { y = Conv(x, w, b) }"
    for size, name in ((0.1, "imagenet"), (300.0, "byte")):
        model = models.graph(text, weights={"b": size * np.ones(4)})
        assert found(model).convention.name == name


def test_a_network_that_takes_no_image_has_no_contract() -> None:
    model = models.graph("net (float[N,12] x) => (float[N,4] y) <float[12,4] w> { y = MatMul(x, w) }")
    inputs = (InputSpec(name="x", shape=(None, 12), dtype=np.dtype(np.float32)),)
    assert quick_contract(model, harvest_batchnorm(model), inputs, np.random.default_rng(0)) is None


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the real models of ZSQ_ASSETS are not here")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_real_models_get_the_contract_that_compiling_infers(path: Path) -> None:
    quick = load_quickly(path)
    statistics = harvest_batchnorm(quick.model)
    ours = quick_contract(quick.model, statistics, quick.inputs, np.random.default_rng(0))
    spec = next(one for one in quick.inputs if one.is_image)
    theirs = infer_contract(TorchGraph(quick.model), statistics, spec, torch.Generator().manual_seed(0))
    assert ours is not None
    assert (ours.convention.name, ours.inferred) == (theirs.name, theirs.inferred)
