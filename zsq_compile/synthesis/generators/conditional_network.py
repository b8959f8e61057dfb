"""A generator network that gets the class that each of its images shall show.

    labels -> scale and shift of their own in every normalisation   (categorical conditional normalisation)
    labels -> an embedding of the latent size, multiplied into the latent vector, and normalisations as usual

Both are GDFQ's (Xu et al., ECCV 2020): the second for data sets of few classes, the first for ImageNet. Its networks
add 0.8 to every variance, a value meant for the momentum; here it is the usual 1e-5.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsq_compile.synthesis.generators.generator_network import GeneratorNetwork, NetworkPlan, batch_normalization
from zsq_compile.synthesis.generators.image_networks import PixelScale


class ConditionalNormalization(nn.Module):
    """Normalise (N, C, H, W) values by the moments of the batch, then by the scale and shift of each sample's class.

    Attributes:
        scale: (classes, C), 1 at the start.
        shift: (classes, C), 0 at the start.

    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(classes, channels))
        self.shift = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        """``labels`` (N,) are numbers of classes."""
        normalised = functional.batch_norm(values, None, None, training=True)
        scale, shift = (table[labels][:, :, None, None].to(normalised.dtype) for table in (self.scale, self.shift))
        return torch.addcmul(shift, normalised, scale)


class ConditionalGeneratorNetwork(nn.Module):
    """Latent vectors (N, latent) and labels (N,) -> pixels (N, C, H, W), not clamped to [0, 1].

    ``embedded`` chooses how labels enter. Weights start from ``rng`` alone.
    """

    def __init__(self, plan: NetworkPlan, classes: int, rng: torch.Generator, *, embedded: bool) -> None:
        super().__init__()

        def conditional(channels: int) -> nn.Module:
            return ConditionalNormalization(channels, classes)

        self.network = GeneratorNetwork(plan, rng, normalization=batch_normalization if embedded else conditional)
        table = torch.randn(classes, plan.latent, generator=rng, device=rng.device) if embedded else None
        self.embedding = None if table is None else nn.Parameter(table.cpu())
        self.scale = PixelScale(plan.channels[-1])

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Make one image of each latent vector; it is normalised by the moments of the whole batch."""
        if self.embedding is None:
            made = self.network(latents, labels)
        else:
            made = self.network(latents * self.embedding[labels])
        pixels: Tensor = self.scale(made)
        return pixels
