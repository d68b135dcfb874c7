"""How are noise levels balanced against each other while the losses change? Each is σ [B] -> w [B].

A loss d at noise level σ becomes e^w d - w: at its least where e^w = 1/d, so that every level weighs the same
(2312.02696, section 3.4; 2410.11081, section 4.2).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from consistency.errors import within
from consistency.model.precond import c_noise
from consistency.nets.layers import FourierEmbedding, without_autocast


class Balance(Protocol):
    """σ [B] -> logarithm of the weight [B]."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """w of each sample."""
        ...


class Unbalanced(nn.Module):
    """w = 0: the losses as they are."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """0 for each sample."""
        return torch.zeros_like(sigma)


class Learned(nn.Module):
    """w_φ(σ), linear in sinusoids of ln(σ)/4, 0 at first; trained with the network, and by its optimiser.

    Args:
        channels: number of sinusoids.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        within("balance", 2, 2**16, channels=channels)
        self.features = FourierEmbedding(channels, scale=1.0)
        self.linear = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def __call__(self, sigma: Tensor) -> Tensor:
        """w of each sample, in float32."""
        with without_autocast(sigma):
            return self.linear(self.features(c_noise(sigma).float()))[:, 0]
