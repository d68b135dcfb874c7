"""A network outside the package: any nn.Module that is called as net(x, c_noise, c)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consistency.model.condition import NONE, Condition, takes


class GatedMLP(nn.Module):
    """Residual blocks whose units are gated by the noise level and the class.

    Args:
        shape: of one sample, (D,) or (C, H, W); set from the data.
        classes: number of classes, 0 for none; set from the data.
        width: units of each block.
        blocks: number of blocks.
    """

    def __init__(self, shape: Sequence[int], classes: int = 0, width: int = 128, blocks: int = 2) -> None:
        super().__init__()
        n, self.classes = math.prod(shape), classes
        self.takes = takes(label=classes)  # the fields of a Condition that it reads; others are refused
        self.stem = nn.Linear(n, width)
        self.gates = nn.ModuleList([nn.Linear(2 + classes, width) for _ in range(blocks)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.head = nn.Linear(width, n)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE) -> Tensor:
        """F(x [B, ...], c_noise [B], c), like x."""
        label = torch.full_like(noise, -1, dtype=torch.long) if c.label is None else c.label  # -1: no class
        features = torch.stack([noise, noise.sin()], 1)
        if self.classes:
            rows = F.one_hot(label.clamp(min=0), self.classes) * (label >= 0)[:, None]
            features = torch.cat([features, rows.to(features.dtype)], 1)
        h = self.stem(x.flatten(1))
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h = h + layer(F.silu(h)) * gate(features.to(h.dtype)).sigmoid()
        return self.head(h).reshape(x.shape)
