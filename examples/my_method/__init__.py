"""A network of one's own, outside the package: any nn.Module that is called as net(x, c_noise, label)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedMLP(nn.Module):
    """Residual blocks whose units are gated by the noise level.

    Args:
        shape: of one sample, (D,) or (C, H, W); the data fill it in.
        classes: number of classes, 0 for none; the data fill it in.
        width: units of each block.
        blocks: how many.
    """

    def __init__(self, shape: Sequence[int], classes: int = 0, width: int = 128, blocks: int = 2) -> None:
        super().__init__()
        n, self.classes = math.prod(shape), classes
        self.stem = nn.Linear(n, width)
        self.gates = nn.ModuleList([nn.Linear(2 + classes, width) for _ in range(blocks)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.head = nn.Linear(width, n)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """F(x [B, ...], c_noise [B], label [B] or None), like x."""
        told = torch.stack([noise, noise.sin()], 1)
        if self.classes:
            none = torch.zeros(len(x), self.classes, device=x.device)
            told = torch.cat([told, none if label is None else F.one_hot(label, self.classes).float()], 1)
        h = self.stem(x.flatten(1))
        for gate, layer in zip(self.gates, self.layers, strict=True):
            h = h + layer(F.silu(h)) * gate(told.to(h.dtype)).sigmoid()
        return self.head(h).reshape(x.shape)
