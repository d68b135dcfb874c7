"""Outputs of EDM's own U-Net (`SongUNet`, published with 2206.00364) for weights that anyone can write down.

Its weights were given the values of `fill`, by this project's names of them, in float64. Its softmax runs in
float32, hence six digits.
"""

import torch
from torch import Tensor, nn

SIZE = {"shape": (3, 8, 8), "classes": 4, "augment": 9, "channels": 8}
SIZE |= {"multipliers": (1, 2, 3), "blocks": 2, "attention": (4,)}

# Pixel (2, 3) of the six channels of both images: with the labels, and with none.
DDPMPP = (
    [-0.191061, -0.253676, -0.376365, -0.310742, -0.234357, -0.269333],
    [-0.200966, -0.235102, -0.406620, -0.280289, -0.270324, -0.273809],
)
NCSNPP = (
    [-0.348250, -0.214159, -0.165425, -0.413737, -0.216816, -0.003459],
    [-0.447969, -0.125027, 0.142822, -0.296342, -0.087630, -0.216338],
)


def fill(net: nn.Module) -> None:
    """Weights that look random and are not, of a size that keeps every branch alive."""
    for k, (name, p) in enumerate(sorted(net.state_dict().items())):
        i = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
        u = (torch.sin(12.9898 * i + k) * 43758.5453).frac()
        scale = 0.3 if p.ndim == 1 else 2 * p[0].numel() ** -0.5
        p.copy_(1 + 0.3 * u if "norm" in name and name.endswith("weight") else scale * u)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, c_noise, label, augment."""
    x, augment = torch.arange(384, dtype=torch.float64).sin(), torch.arange(18, dtype=torch.float64).sin()
    noise = torch.tensor([-1.2, 0.7], dtype=torch.float64)
    return x.reshape(2, 3, 8, 8), noise, torch.tensor([1, 3]), augment.reshape(2, 9)
