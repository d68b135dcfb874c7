"""LPIPS (1801.03924): a distance for training, between the features of two images in VGG16.

Models trained with it should not be compared with others by FID: VGG16 and Inception are both trained on
ImageNet, so their FID is better than their samples look (see the model card of 2303.01469's code).
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from consistency.errors import UserError
from consistency.files.pickles import load_tensors
from consistency.metrics.published import Published
from consistency.nets.layers import without_autocast
from consistency.tensor import all_finite

VGG16 = Published(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    user="distance=lpips",
    option="distance.backbone",
    instead="a distance that needs no download: distance=pseudo_huber",
)
# VGG16: width and number of convolutions of each depth.
PLAN = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for [-1, 1]
DAMAGE = (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError)
DAMAGE += (TypeError, IndexError, AttributeError)


class LPIPS:
    """Σ over five depths of the mean over positions of Σ_channels head · (â - b̂)², with â, b̂ of unit length.

    Only a gets a gradient. The network is not a submodule of the module that uses it: it is not saved,
    averaged or trained.

    Args:
        backbone: file of torchvision's VGG16, .pth or .safetensors, with or without its classifier; null uses
            the cache of torch.hub and downloads the file if it is not there.
        average_pooling: average pooling in place of VGG's maximum, as in 2303.01469's code for ImageNet; its
            code for CIFAR-10 keeps the maximum.
        resize: side in pixels to which images are resized, bilinearly.
        always_resize: resize images with a side of 256 pixels or more, too (the code for CIFAR-10).
    """

    of_pixels = True  # in [-1, 1]

    def __init__(
        self,
        backbone: str | Path | None = None,
        average_pooling: bool = True,
        resize: int = 224,
        always_resize: bool = False,
    ) -> None:
        if not resize >= 16:
            raise UserError(f"distance.resize={resize} must be at least 16: VGG16 halves images four times")
        self.resize, self.always_resize = resize, always_resize
        pool = nn.AvgPool2d(2) if average_pooling else nn.MaxPool2d(2)
        self.net = PerceptualNetwork(pool).eval().requires_grad_(False)
        load_heads(self.net, VGG16.locate(backbone))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance between each a and b [B, 1 or 3, H, W] in [-1, 1], float32 [B], without autocast."""
        if a.ndim != 4 or a.shape[1] not in (1, 3):
            raise UserError(
                f"distance=lpips is for images of 1 or 3 channels, not for {list(a.shape[1:])}: "
                "say distance=pseudo_huber"
            )
        with torch.inference_mode(False):  # else weights moved during validation would block gradients later
            self.net.to(a.device)
        with without_autocast(a):
            return self.net(self.prepare(a), self.prepare(b.detach()))

    def prepare(self, x: Tensor) -> Tensor:
        """Images as inputs of VGG16: float32, three channels, resized."""
        x = x.float().expand(-1, 3, -1, -1)
        if self.always_resize or min(x.shape[2:]) < 256:
            x = F.interpolate(x, (self.resize, self.resize), mode="bilinear")
        return x


class PerceptualNetwork(nn.Module):
    """VGG16 without its classifier, and a linear head at each of five depths: (a, b) -> [B].

    Args:
        pool: pooling layer after each depth.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*vgg_layers(pool))  # numbered as torchvision's
        self.heads = nn.ParameterList(torch.empty(1, width, 1, 1) for width, _ in PLAN)
        for name, numbers in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each image, [B]."""
        depths = zip(self.heads, self.unit_features(a), self.unit_features(b), strict=True)
        return torch.stack([(head * (f - g).square()).sum(1).mean((1, 2)) for head, f, g in depths]).sum(0)

    def unit_features(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the features at each depth before pooling, scaled to unit length over the channels."""
        x = (x - self.shift) / self.scale
        for layer in self.features:
            if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
                yield x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()  # finite gradient at zero
            x = layer(x)


def vgg_layers(pool: nn.Module) -> Iterator[nn.Module]:
    """Yield the convolutional layers of VGG16 with uninitialised weights."""
    n_in = 3
    for width, count in PLAN:
        for _ in range(count):
            yield nn.utils.skip_init(nn.Conv2d, n_in, width, 3, padding=1)
            yield nn.ReLU(inplace=True)
            n_in = width
        yield pool


def load_heads(net: PerceptualNetwork, path: Path) -> None:
    """Load the weights: torchvision's backbone from `path`, and the heads from torchmetrics' files."""
    ours = net.state_dict()
    heads = Path(str(files("torchmetrics.functional.image"))) / "lpips_models" / "vgg.pth"
    for source, names in (
        (WeightsFile(path), {name: name for name in ours if name.startswith("features.")}),
        (
            WeightsFile(heads, "reinstall torchmetrics"),
            {f"heads.{k}": f"lin{k}.model.1.weight" for k in range(5)},
        ),
    ):
        state = source.read()
        for name, theirs in names.items():
            ours[name].copy_(source.check_tensor(theirs, state.get(theirs), ours[name]))


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Args:
        path: of the file.
        remedy: for messages about wrong content.
    """

    path: Path
    remedy: str = f"delete it or name another file in distance.backbone; the right one is {VGG16.url}"

    def read(self) -> dict[str, Any]:
        """All tensors of the file by name.

        Raises:
            UserError: the file contains code, or no dict of tensors.
        """
        try:
            safe = self.path.suffix == ".safetensors"
            return dict(load_file(self.path) if safe else load_tensors(self.path))
        except DAMAGE as error:
            raise self.refused((str(error).splitlines() or [type(error).__name__])[0]) from error

    def check_tensor(self, name: str, found: Any, ours: Tensor) -> Tensor:
        """A tensor of the file, after checking its type, shape and values.

        Args:
            name: of the tensor in the file.
            found: its value; None if it is missing.
            ours: the network's tensor.

        Raises:
            UserError: it does not fit.
        """
        here = f"where LPIPS has numbers in the shape {list(ours.shape)}"
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise self.refused(f"{name} is absent or holds no fractions, {here}")
        if found.shape != ours.shape:
            raise self.refused(f"{name} is {list(found.shape)}, {here}")
        if not all_finite(found):
            raise self.refused(f"{name} holds NaN or infinity, {here}")
        return found

    def refused(self, reason: str) -> UserError:
        """The error for a file with wrong content."""
        return UserError(f"{self.path} does not hold the weights that LPIPS needs ({reason}); {self.remedy}")
