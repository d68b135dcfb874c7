"""A residual multilayer perceptron, for points and for the smallest of images."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consistency.errors import within
from consistency.model.condition import NONE, Condition, takes
from consistency.nets.layers import (
    LayerNorm,
    at_least_float32,
    check_dropout_and_blocks,
    linear,
    one_hot,
    waves,
)


class LogEmbedding(nn.Module):
    """c_noise itself, and sinusoids of geometric frequencies from 1 to fmax.

    Args:
        frequencies: how many.
        fmax: the highest, in radians per unit of c_noise: about how finely noise levels are resolved.
    """

    def __init__(self, frequencies: int, fmax: float) -> None:
        super().__init__()
        self.frequencies, self.fmax, self.channels = frequencies, fmax, 1 + 2 * frequencies

    def forward(self, noise: Tensor) -> Tensor:
        """The features [B, 1 + 2 frequencies] of c_noise [B]."""
        noise = at_least_float32(noise)
        place = torch.linspace(0, 1, self.frequencies, device=noise.device, dtype=noise.dtype)
        return torch.cat([noise[:, None], waves(noise, self.fmax**place)], 1)


class Block(nn.Module):
    """Norm, SiLU, linear, + embedding, SiLU, dropout, linear: added to the input.

    Args:
        width: units.
        features: size of what is known of the noise level and the class.
        dropout: probability of dropping a unit in training.
    """

    def __init__(self, width: int, features: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.layer0 = LayerNorm(width), linear(width, width)
        self.affine, self.dropout = linear(features, width), nn.Dropout(dropout)
        self.layer1 = linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """[B, width] from h [B, width] and emb [B, features]."""
        update = F.silu(self.layer0(F.silu(self.norm(h))) + self.affine(emb))
        return h + self.layer1(self.dropout(update))


class MLP(nn.Module):
    """Called as net(x [B, ...], c_noise [B], c) -> like x.

    Args:
        shape: of one sample: (D,) or (C, H, W).
        classes: number of classes, 0 for an unconditional network. Label -1, or no label, means no class.
        width: units of each layer.
        blocks: residual blocks, of two layers each.
        dropout: probability of dropping a unit in training.
        frequencies: sinusoids of c_noise.
        fmax: the highest frequency, see LogEmbedding.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int = 0,
        width: int = 256,
        blocks: int = 4,
        dropout: float = 0.0,
        frequencies: int = 8,
        fmax: float = 16.0,
    ) -> None:
        super().__init__()
        check_dropout_and_blocks(dropout, blocks, width=width, frequencies=frequencies)
        within("net", 1e-6, 1e6, fmax=fmax)
        n, self.classes = math.prod(shape), classes
        self.takes = takes(label=classes)
        self.embedding = LogEmbedding(frequencies, fmax)
        features = self.embedding.channels + classes
        self.stem = linear(n, width)
        self.blocks = nn.ModuleList([Block(width, features, dropout) for _ in range(blocks)])
        self.head = nn.Sequential(LayerNorm(width), nn.SiLU(), linear(width, n, gain=1e-5))

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE) -> Tensor:
        """F(x [B, ...], c_noise [B], c), like x."""
        emb = self.embedding(noise)
        emb = torch.cat([emb, one_hot(c.label, self.classes, emb[:, 0])], 1).to(self.stem.weight.dtype)
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return self.head(h).reshape(x.shape)
