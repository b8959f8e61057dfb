"""One network behind each layout and type of pictures: what is found out, made and shown is the same."""

import numpy as np
import onnx
import pytest
import torch

from backends.session import open_session
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from tests.zsq_compile.frontend.quick import load_quickly
from tests.zsq_compile.synthesis.networks import seeded, trained_on
from zsq_compile import inspect_model
from zsq_compile.config.generators import PixelsConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.make_generator import make_generator

SIDE = 16


def network(channels: int, layout: str, dtype: int) -> onnx.ModelProto:
    """A network trained on raw pixels, given a Cast and a Transpose as its input needs them."""
    model = trained_on(255.0 * prior_images(48, channels, SIDE, SIDE, seeded(99)).numpy())
    (given,) = model.graph.input
    opening, name = [], given.name
    if dtype != onnx.TensorProto.FLOAT:
        opening.append(onnx.helper.make_node("Cast", [name], ["cast"], to=onnx.TensorProto.FLOAT))
    if layout == "NHWC":
        last = opening[-1].output[0] if opening else name
        opening.append(onnx.helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        del given.type.tensor_type.shape.dim[1]
        given.type.tensor_type.shape.dim.add().dim_value = channels
    given.type.tensor_type.elem_type = dtype
    if opening:
        for node in model.graph.node:
            node.input[:] = [opening[-1].output[0] if one == name else one for one in node.input]
        for node in reversed(opening):
            model.graph.node.insert(0, node)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8])
def test_pictures_are_made_in_every_layout_and_type(tmp_path, channels: int, layout: str, dtype: int) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network(channels, layout, dtype), path)
    loaded = load_quickly(path)
    made = synthesized(loaded)
    values, preprocessing = made.inputs["x"], made.preprocessing["x"]
    first = values.permute(0, 3, 1, 2) if layout == "NHWC" else values
    assert first.shape == (8, channels, SIDE, SIDE)
    assert values.dtype == (torch.float32 if dtype == onnx.TensorProto.FLOAT else torch.uint8)
    assert (preprocessing.name, preprocessing.layout, preprocessing.is_certain) == ("byte", layout, True)
    torch.testing.assert_close(preprocessing.decode(values), first.float() / 255.0)
    assert 30.0 < float(first.float().std()) < 100.0  # of photographs: about 60
    open_session(path, threads=1).run({"x": values.numpy()})
    (told,) = inspect_model(path).preprocessing.values()
    assert (told.name, told.layout) == ("byte", layout)


def synthesized(loaded) -> SyntheticSet:
    generator = make_generator(PixelsConfig(iterations=3), loaded.inputs)
    return generator.synthesize(TorchGraph(loaded.model), harvest_batchnorm(loaded.model), 8, seeded())


def test_the_layout_changes_nothing_that_is_made(tmp_path) -> None:
    found = []
    for layout in ("NCHW", "NHWC"):
        path = tmp_path / f"{layout}.onnx"
        onnx.save(network(3, layout, onnx.TensorProto.FLOAT), path)
        made = synthesized(load_quickly(path))
        found.append(made.preprocessing["x"].decode(made.inputs["x"]).numpy())
    np.testing.assert_allclose(*found, atol=2e-2)  # convolutions sum up in another order
