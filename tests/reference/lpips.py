"""LPIPS again, from its definition (1801.03924, eq. 1), with torchvision's own VGG16 in float64."""

import torch
from torch import Tensor, nn

DEPTHS = (4, 9, 16, 23, 30)  # torchvision's features up to relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pixels in [0, 1]


def lpips(vgg: nn.Sequential, heads: list[Tensor], a: Tensor, b: Tensor) -> list[float]:
    """Distance of each pair of images [B, 3, H, W] in [-1, 1], pixel by pixel."""
    mean, deviation = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, DEVIATION))
    pair = [((x.double() + 1) / 2 - mean) / deviation for x in (a, b)]
    total = torch.zeros(len(a), dtype=torch.float64)
    for head, start, end in zip(heads, (0, *DEPTHS), DEPTHS, strict=False):
        pair = [vgg[start:end](x) for x in pair]
        f, g = (nn.functional.normalize(x, dim=1, eps=1e-10) for x in pair)
        total += torch.einsum("c,bchw->b", head.double().flatten(), (f - g) ** 2) / f[0, 0].numel()
    return total.tolist()
