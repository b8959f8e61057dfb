"""The networks of ``architectures`` as files, by each way that torch has to write them."""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.breadth.architectures import ARCHITECTURES, SIDE

EXPORTERS = ("kept", "folded", "dynamo")
"""By tracing with BatchNormalization kept, by tracing as torch does it by itself, and by torch.export."""

LAYOUTS = ("NCHW", "NHWC")
_OPSETS = {"kept": 17, "folded": 13}  # LayerNormalization as a node, and in parts
_BATCH, _PASSES = 32, 6


def pictures(count: int, rng: torch.Generator) -> Tensor:
    """(count, 3, 32, 32): boxes of one colour on slopes of two, grain on all, mean and deviation taken out."""
    line = torch.linspace(0, 1, SIDE)
    rows, columns = line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)
    colours = torch.rand(count, 6, 3, 1, 1, generator=rng)
    image = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * (rows + columns) / 2
    for number in range(2, 6):
        low = 0.8 * torch.rand(count, 2, 1, 1, 1, generator=rng)
        high = low + 0.1 + 0.4 * torch.rand(count, 2, 1, 1, 1, generator=rng)
        inside = (rows > low[:, 0]) & (rows < high[:, 0]) & (columns > low[:, 1]) & (columns < high[:, 1])
        image = torch.where(inside, colours[:, number], image)
    grain = 0.05 * torch.randn(image.shape, generator=rng)
    return ((image + grain).clamp(0, 1) - 0.45) / 0.225


def network(name: str) -> nn.Module:
    """One of the networks, its statistics those of pictures, for inference."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]()
    rng = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all passes
            layer.weight.data.uniform_(0.7, 1.3)
            layer.bias.data.normal_(0, 0.3)
    model.train()
    with torch.no_grad():
        for _ in range(_PASSES):
            model(pictures(_BATCH, rng))
    return model.eval()


class ChannelsLast(nn.Module):
    """A network behind the layout of TensorFlow: pictures (N, H, W, C) in, maps likewise out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.model(x.permute(0, 3, 1, 2))
        return found.permute(0, 2, 3, 1) if isinstance(found, Tensor) and found.ndim == 4 else found


def export(name: str, exporter: str, layout: str, folder: Path) -> Path:
    """Write a network with an open batch, input ``x``, outputs ``y`` or ``y0``, ``y1``."""
    model, x = network(name), pictures(2, torch.Generator().manual_seed(2))
    path = folder / f"{name}_{exporter}_{layout}.onnx"
    if layout == "NHWC":
        model, x = ChannelsLast(model).eval(), x.permute(0, 2, 3, 1).contiguous()
    with torch.no_grad():
        found = model(x)
    names = ["y"] if isinstance(found, Tensor) else [f"y{number}" for number in range(len(found))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of sizes that become constant, and of itself
        if exporter == "dynamo":
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            open_batch = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
            torch.onnx.export(
                model,
                (x,),
                path,
                dynamo=True,
                verbose=False,
                input_names=["x"],
                output_names=names,
                dynamic_shapes=open_batch,
                external_data=False,
            )
        else:
            kept = exporter == "kept"
            torch.onnx.export(
                model,
                (x,),
                path,
                dynamo=False,
                input_names=["x"],
                output_names=names,
                opset_version=_OPSETS[exporter],
                dynamic_axes={one: {0: "batch"} for one in ("x", *names)},
                do_constant_folding=not kept,
                training=torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL,
            )
    return path
