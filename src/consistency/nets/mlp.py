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
from consistency.nets.second import check_number_of_times, check_second, second_features, second_layer


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
        times: 1, or 2 of a block that is also given features of the second time.
    """

    def __init__(self, width: int, features: int, dropout: float, times: int) -> None:
        super().__init__()
        self.norm, self.layer0 = LayerNorm(width), linear(width, width)
        self.affine, self.dropout = linear(features, width), nn.Dropout(dropout)
        self.layer1 = linear(width, width)
        self.second_time = second_layer(times, width)

    def forward(self, h: Tensor, emb: Tensor, second: Tensor | None) -> Tensor:
        """[B, width] from h [B, width], emb [B, features] and, of two times, `second_features`."""
        update = self.layer0(F.silu(self.norm(h))) + self.affine(emb)
        if self.second_time is not None:
            update = update + self.second_time(second)
        return h + self.layer1(self.dropout(F.silu(update)))


class MLP(nn.Module):
    """Called as net(x [B, ...], c_noise [B], c) -> like x; of two times as net(x, c_noise, c, h [B]).

    Args:
        shape: of one sample: (D,) or (C, H, W).
        classes: number of classes, 0 for an unconditional network. Label -1, or no label, means no class.
        width: units of each layer.
        blocks: residual blocks, of two layers each.
        dropout: probability of dropping a unit in training.
        frequencies: sinusoids of c_noise.
        fmax: the highest frequency, see LogEmbedding.
        times: 2 for a network that is also given h in [0, 1], the second time of a flow map.
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
        times: int = 1,
    ) -> None:
        super().__init__()
        check_dropout_and_blocks(dropout, blocks, width=width, frequencies=frequencies)
        within("net", 1e-6, 1e6, fmax=fmax)
        check_number_of_times(times)
        n, self.classes, self.times = math.prod(shape), classes, times
        self.takes = takes(label=classes)
        self.embedding = LogEmbedding(frequencies, fmax)
        features = self.embedding.channels + classes
        self.stem = linear(n, width)
        self.blocks = nn.ModuleList([Block(width, features, dropout, times) for _ in range(blocks)])
        self.head = nn.Sequential(LayerNorm(width), nn.SiLU(), linear(width, n, gain=1e-5))

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE, h: Tensor | None = None) -> Tensor:
        """F(x [B, ...], c_noise [B], c), or F(x, c_noise, c, h [B]) of two times; like x."""
        check_second(self.times, h)
        emb, dtype = self.embedding(noise), self.stem.weight.dtype
        emb = torch.cat([emb, one_hot(c.label, self.classes, emb[:, 0])], 1).to(dtype)
        second = None if h is None else second_features(h).to(dtype)
        y = self.stem(x.flatten(1))
        for block in self.blocks:
            y = block(y, emb, second)
        return self.head(y).reshape(x.shape)
