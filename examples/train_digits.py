"""Train the example network, ``digits.onnx``, and set its test images aside in ``digits_test.npz``.

Real data: the 1,797 handwritten digits that scikit-learn ships (8x8 grey images, UCI ML Repository), enlarged to 16x16.
A fifth of them is never trained on and becomes the test set. The network is small, but has what makes quantization
interesting: residual additions, a depthwise layer, and batch normalisation, which the export keeps.

    pip install -c constraints.txt '.[example]'
    python examples/train_digits.py

One thread and a fixed seed: the same machine makes the same file, in less than a minute.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED = 0
EPOCHS = 40
BATCH = 64


class Residual(nn.Module):
    """Two convolutions around which the input is added back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in, the same shape out."""
        return functional.relu(images + self.body(images))


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Halve height and width with a depthwise convolution, then mix channels with a pointwise one."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


def network() -> nn.Sequential:
    """Digits network: (N, 1, 16, 16) grey images in [0, 1] in, (N, 10) logits out."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16),
        separable(16, 32),
        Residual(32),
        separable(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 16, 16, 1) uint8 images and (1797,) int64 labels."""
    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] / 16
    large = functional.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return images.numpy(), data.target.astype(np.int64)


def augment(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Turn, scale and move each image a little; (N, 1, H, W) in and out."""
    count = len(images)
    angle = (torch.rand(count, generator=rng) - 0.5) * 0.4
    scale = 1 + (torch.rand(count, generator=rng) - 0.5) * 0.2
    move = (torch.rand(count, 2, generator=rng) - 0.5) * 0.25
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    affine = torch.stack(
        [torch.stack([cosine, -sine, move[:, 0]], dim=1), torch.stack([sine, cosine, move[:, 1]], dim=1)], dim=1
    )
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """Fit the network to (N, 1, H, W) images in [0, 1]; comes back in evaluation mode."""
    rng = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)  # the layers' initial weights
    model = network()
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images), generator=rng).split(BATCH):
            loss = functional.cross_entropy(model(augment(images[rows], rng)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        print(f"epoch {epoch + 1:2d} of {EPOCHS}: loss {total / len(images):.4f}")
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write the network with its batch normalisation: evaluation mode, told to preserve it, nothing folded."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 16, 16),),
        str(path),
        dynamo=False,  # the newer exporter needs one more package, onnxscript
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, random_state=SEED, stratify=labels
    )
    model = train(
        torch.from_numpy(train_images).permute(0, 3, 1, 2).float() / 255,
        torch.from_numpy(train_labels),
    )
    with torch.no_grad():
        logits = model(torch.from_numpy(test_images).permute(0, 3, 1, 2).float() / 255)
    print(f"accuracy on {len(test_labels)} test images: {np.mean(logits.argmax(1).numpy() == test_labels):.2%}")
    export(model, HERE / "digits.onnx")
    np.savez_compressed(HERE / "digits_test.npz", images=test_images, labels=test_labels)


if __name__ == "__main__":
    main()
